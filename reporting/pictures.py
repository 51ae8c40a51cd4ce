"""What the page's parts share: images with what is said of them, and how sure answers are."""
from contest.catalog import titles_of
from reporting import review
from reporting.figures import reliability_points, thumbnail, whole

MOST_IMAGES = 12
SPLITS = {"valid": "as they are", "valid_testlike": "made like the test set"}


def class_names(audit):
    """Class values with their names, where the contest has names for them."""
    return titles_of(audit.train.classes, audit.summary["class_names"])


def image_of(audit, row, names):
    """A training image with its id and label."""
    return {"id": audit.train.sample_id[row], "data": thumbnail(audit.train_pixels[row]),
            "label": audit.train.title(row, names)}


def whole_image_of(catalog, pixels, row, names):
    """An image with its id and label, large enough to be looked at."""
    return {"id": catalog.sample_id[row], "data": whole(pixels[row]),
            "label": catalog.title(row, names)}


def reliability_rows(labels, probs):
    """[(words for the split, calibration error, points of its reliability curve)]."""
    rows = []
    for split, each in probs.items():
        bins, error = review.reliability(labels, each)
        rows.append((SPLITS[split], error, reliability_points(bins)))
    return rows
