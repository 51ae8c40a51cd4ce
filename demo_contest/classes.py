"""The 17 classes: names, train counts, and who draws them."""
from demo_contest import cards, forms, hospital, photos
from demo_contest.canvas import rng_of

CLASS_NAMES = ("account_number", "application_for_payment_of_pregnancy_medical_expenses",
               "car_dashboard", "confirmation_of_admission_and_discharge", "diagnosis",
               "driver_license", "medical_bill_receipts", "medical_outpatient_certificate",
               "national_id_card", "passport", "payment_confirmation", "pharmaceutical_receipt",
               "prescription", "resume", "statement_of_opinion", "vehicle_registration_certificate",
               "vehicle_registration_plate")

TRAIN_COUNTS = tuple({1: 46, 13: 74, 14: 50}.get(class_id, 100) for class_id in range(17))  # size 1

DRAWERS = (
    photos.draw_account_number,
    forms.draw_pregnancy_application,
    photos.draw_car_dashboard,
    lambda rng: hospital.draw_certificate(rng, hospital.CONFIRMATION),
    lambda rng: hospital.draw_certificate(rng, hospital.DIAGNOSIS),
    cards.draw_driver_license,
    lambda rng: forms.draw_receipt(rng, pharmacy=False),
    lambda rng: hospital.draw_certificate(rng, hospital.OUTPATIENT),
    cards.draw_national_id_card,
    cards.draw_passport,
    forms.draw_payment_confirmation,
    lambda rng: forms.draw_receipt(rng, pharmacy=True),
    forms.draw_prescription,
    forms.draw_resume,
    lambda rng: hospital.draw_certificate(rng, hospital.OPINION),
    forms.draw_vehicle_registration,
    photos.draw_registration_plate,
)


def draw_clean(class_id, seed):
    """A clean photograph of the class, uint8 (H, W, 3) RGB; the same for the same arguments."""
    return DRAWERS[class_id](rng_of(seed))
