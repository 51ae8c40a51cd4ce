"""What is found where test images went through one transform of albumentations?

    python -m benchmarks.transforms ../shared/data/docmix ../shared/data/signs26 [--only Defocus]

Half of a contest's labelled training images play the test set; 70 % of them go through the
transform. They hold the kinds of torchvision.transforms.v2 and of ImageNet-C too. Prints a row for
each: what share of the difference is explained, the share of the training images that is distorted
so, and the kinds found, those that are not there in brackets.
"""
import argparse
from pathlib import Path

from benchmarks.finds import FEWEST, measure
from modeling.augment import A  # albumentations is imported there alone

SHARE = 0.7       # of the test images that are changed

TONE = {"brightness", "contrast", "offset", "gamma"}
TURNS = {"flip_horizontal", "flip_vertical", "transpose", "transverse", "rotate_90", "rotate_180",
         "rotate_270"}
SOFT = {"blur", "downscale", "motion_blur"}

# transform -> (its arguments, the kinds that it may be read as)
TRANSFORMS = {
    # ------------------------------------------------------------ made of kinds that are known
    "GaussianBlur": ({"blur_limit": 0, "sigma_limit": (0.8, 2.5)}, SOFT),
    "Defocus": ({}, SOFT),
    "MedianBlur": ({}, SOFT),
    "MotionBlur": ({"blur_limit": (5, 11)}, SOFT),
    "Downscale": ({}, SOFT),
    "GaussNoise": ({"std_range": (0.03, 0.12)}, {"noise", "grain"}),
    "ISONoise": ({"intensity": (0.2, 0.6)}, {"noise", "grain", "saturation", "colour_cast"}),
    "ShotNoise": ({}, {"noise", "grain"}),
    "MultiplicativeNoise": ({"per_channel": True, "elementwise": True, "multiplier": (0.7, 1.3)},
                            {"noise", "grain"}),
    "SaltAndPepper": ({}, {"impulse"}),
    "RandomBrightnessContrast": ({}, TONE),
    "RandomGamma": ({"gamma_limit": (50, 180)}, TONE),
    "ColorJitter": ({}, TONE | {"saturation", "colour_cast"}),
    "HueSaturationValue": ({}, TONE | {"saturation", "colour_cast"}),
    "RGBShift": ({}, TONE | {"saturation", "colour_cast"}),
    "PlanckianJitter": ({}, TONE | {"saturation", "colour_cast"}),
    "ToGray": ({}, {"saturation"}),
    "ImageCompression": ({"quality_range": (10, 40)}, {"jpeg", "downscale"}),
    "CoarseDropout": ({}, {"erase", "patch"}),
    "Erasing": ({}, {"erase", "patch"}),
    "Rotate": ({"limit": 45, "border_mode": 0}, {"rotate"}),
    "Affine": ({"scale": (0.8, 1.2), "translate_percent": (-0.1, 0.1), "rotate": (-20, 20)},
               {"rotate", "shift", "scale"}),
    "Perspective": ({}, {"perspective", "scale", "shift", "rotate"}),
    "RandomCropFromBorders": ({"crop_left": 0.2, "crop_right": 0.2, "crop_top": 0.2,
                               "crop_bottom": 0.2}, {"scale", "shift", "perspective"}),
    "CropAndPad": ({"percent": (-0.15, 0.15)}, {"scale", "shift", "perspective"}),
    "D4": ({}, TURNS),
    "HorizontalFlip": ({}, {"flip_horizontal"}),
    "RandomShadow": ({}, {"shadow"}),
    "PlasmaShadow": ({}, {"shadow"} | TONE),
    "Illumination": ({}, {"shadow"} | TONE),
    # ------------------------------------------------------------ of kinds that are not
    "RandomFog": ({}, set()),
    "RandomSnow": ({}, set()),
    "RandomRain": ({}, set()),
    "RandomSunFlare": ({}, set()),
    "RandomGravel": ({}, set()),
    "Spatter": ({}, set()),
    "ZoomBlur": ({"max_factor": (1.1, 1.3)}, SOFT),
    "GlassBlur": ({}, SOFT),
    "ElasticTransform": ({"alpha": 60, "sigma": 6}, set()),
    "GridDistortion": ({}, set()),
    "OpticalDistortion": ({"distort_limit": (-0.4, 0.4)}, {"scale"}),
    "GridDropout": ({"ratio": 0.4}, {"erase", "patch"}),
    "RandomGridShuffle": ({}, {"patch"}),
    "Solarize": ({}, set()),
    "Posterize": ({}, set()),
    "Equalize": ({}, TONE),
    "AutoContrast": ({}, TONE),
    "CLAHE": ({}, TONE),
    "InvertImg": ({}, set()),
    "ChannelShuffle": ({}, set()),
    "ChannelDropout": ({}, set()),
    "ToSepia": ({}, {"saturation", "colour_cast"} | TONE),
    "Emboss": ({}, set()),
    "Sharpen": ({}, TONE),
    "Superpixels": ({}, SOFT),
    "ChromaticAberration": ({}, set()),
    "RingingOvershoot": ({}, set()),
    "PixelDropout": ({"dropout_prob": 0.05}, {"impulse", "noise"}),
}


def damage_of(name):
    """(image, rng, others) -> image, as `benchmarks.damages` has it."""
    arguments, _ = TRANSFORMS[name]
    transform = getattr(A, name)(p=1, **arguments)

    def damage(image, rng, others):
        if rng.random() >= SHARE:
            return image
        transform.set_random_seed(int(rng.integers(2**31)))
        return transform(image=image)["image"]

    return damage


def described(distortion, allowed):
    text = (f"{distortion.kind} {distortion.probability:.2f} "
            f"{distortion.low:.3g}..{distortion.high:.3g}")
    return text if distortion.kind in allowed else f"({text})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dirs", type=Path, nargs="+")
    parser.add_argument("--only", nargs="*", default=[*TRANSFORMS], choices=[*TRANSFORMS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=400, help="images of each side, rows a round")
    args = parser.parse_args()

    for name in args.only:
        for data_dir in args.data_dirs:
            report = measure(data_dir, damage_of(name), args.seed, max_images=args.size,
                             rows=args.size)
            found = [d for d in report.policy.distortions if d.probability >= FEWEST]
            allowed = TRANSFORMS[name][1]
            listed = ", ".join(described(d, allowed) for d in found)
            if report.left_out:
                listed = f"left out: {', '.join(report.left_out)}"
            print(f"{name:24} {data_dir.name:9} explained {report.explained or 0:5.2f}, "
                  f"for {report.trained_share:.2f}  {report.seconds:4.0f} s  {listed or 'nothing'}",
                  flush=True)


if __name__ == "__main__":
    main()
