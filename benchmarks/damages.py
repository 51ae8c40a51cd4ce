"""Ten recipes that damage a pretended test set, written without the product's own distortions.

    damaged = DAMAGES["dark"](image, rng, others)       # (H, W, 3) uint8 RGB, the same after

The first five are made of kinds that the program looks for, and `KINDS_OF` says which. The others
are made of kinds that it does not know, so nothing that it finds there is true.
"""
import io
import random

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from demo_contest.distort import apply, draw_distortion, needs_other

# ---------------------------------------------------------------- of kinds that are looked for

def paper(image, rng, others):
    """As the embedded contest: turned, blurred, faded, with another page shining through."""
    distortion = draw_distortion(random.Random(int(rng.integers(2**31))))
    return apply(distortion, image, others[rng.integers(len(others))] if needs_other(distortion)
                 else None)


def phone(image, rng, others):
    """Turned on black, blurred, dark, flat, with dead pixels, and saved small."""
    picture = Image.fromarray(image)
    if rng.random() < 0.6:
        picture = picture.rotate(rng.uniform(-30, 30), resample=Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2.5)))
    picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.4, 0.9))
    image = np.array(ImageEnhance.Contrast(picture).enhance(rng.uniform(0.6, 1.1)))
    if rng.random() < 0.4:
        where, share = rng.random(image.shape[:2]), rng.uniform(0.01, 0.06)
        image[where < share / 2], image[where > 1 - share / 2] = 0, 255
    coded = io.BytesIO()
    Image.fromarray(image).save(coded, "JPEG", quality=int(rng.uniform(25, 60)))
    return np.array(Image.open(coded))


def street(image, rng, others):
    """Seen at a slant, grey, moved or in large pixels, in a shadow, behind a post."""
    picture = Image.fromarray(image)
    width, height = picture.size
    if rng.random() < 0.7:
        corners = (
            np.array([(0, 0), (0, height), (width, height), (width, 0)])
            + rng.uniform(-0.12, 0.12, (4, 2)) * picture.size
        )
        picture = picture.transform(picture.size, Image.Transform.QUAD, corners.ravel().tolist(),
                                    Image.Resampling.BICUBIC, fillcolor=(90, 90, 90))
    if rng.random() < 0.3:
        picture = ImageOps.grayscale(picture).convert("RGB")
    if (seen := rng.random()) < 0.2:
        picture = picture.filter(ImageFilter.Kernel((5, 5), np.eye(5).ravel().tolist(), 5))
    elif seen < 0.4:
        factor = rng.uniform(2, 5)
        small = picture.resize((max(1, round(width / factor)), max(1, round(height / factor))),
                               Image.Resampling.NEAREST)
        picture = small.resize((width, height), Image.Resampling.NEAREST)
    image = np.array(picture, dtype=np.float32)
    if rng.random() < 0.6:
        shadow = np.linspace(1, rng.uniform(0.2, 0.7), width)[::rng.choice([-1, 1])]
        image *= shadow[:, None]
    if rng.random() < 0.4:
        left, share = rng.uniform(0, 0.8), rng.uniform(0.05, 0.2)
        image[:, int(left * width):int((left + share) * width)] = rng.uniform(0, 255, 3)
    return image.astype(np.uint8)


def scan(image, rng, others):
    """Every other image with noise that is equal in all channels."""
    if rng.random() < 0.5:
        return image
    noise = rng.normal(0, rng.uniform(8, 25), (*image.shape[:2], 1))
    return np.clip(image + noise, 0, 255).round().astype(np.uint8)


def dark(image, rng, others):
    """Darkened by an offset that clips at black, moved on black, noisy."""
    if rng.random() < 0.6:
        dy, dx = (rng.uniform(-0.15, 0.15, 2) * image.shape[:2]).astype(int)
        matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
        image = cv2.warpAffine(image, matrix, image.shape[1::-1])
    values = image.astype(np.float32)
    if rng.random() < 0.8:
        values = np.clip(values - rng.uniform(40, 90), 0, 255)
    if rng.random() < 0.5:
        values = values + rng.normal(0, rng.uniform(6, 18), image.shape)
    return np.clip(values, 0, 255).astype(np.uint8)


# ---------------------------------------------------------------- of kinds that are not

def fog(image, rng, others):
    """Uneven white, as thick as a random cloud, on 80 %; light spots on 40 %."""
    values = image.astype(np.float32)
    size = image.shape[1::-1]
    if rng.random() < 0.8:
        cloud = cv2.resize(rng.random((5, 5)).astype(np.float32), size,
                           interpolation=cv2.INTER_CUBIC)
        cloud = np.clip(cloud, 0, 1)[..., None] * rng.uniform(0.4, 0.9)
        values = values * (1 - cloud) + 235 * cloud
    if rng.random() < 0.4:
        y, x = np.ogrid[:image.shape[0], :image.shape[1]]
        centre = rng.random(2) * image.shape[:2]
        distance = np.hypot(y - centre[0], x - centre[1]) / max(size)
        values += 200 * np.exp(-(distance / rng.uniform(0.1, 0.3)) ** 2)[..., None]
    return np.clip(values, 0, 255).astype(np.uint8)


def wavy(image, rng, others):
    """Content pulled about smoothly on 70 %, lens-like on 40 %."""
    h, w = image.shape[:2]
    y, x = np.mgrid[:h, :w].astype(np.float32)
    if rng.random() < 0.7:
        pull = rng.normal(0, rng.uniform(0.01, 0.03) * max(h, w), (2, 8, 8)).astype(np.float32)
        x = x + cv2.resize(pull[0], (w, h), interpolation=cv2.INTER_CUBIC)
        y = y + cv2.resize(pull[1], (w, h), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.4:
        u = (x - w / 2) / max(h, w)
        v = (y - h / 2) / max(h, w)
        factor = 1 + rng.uniform(-0.6, 0.6) * (u * u + v * v)
        x = u * factor * max(h, w) + w / 2
        y = v * factor * max(h, w) + h / 2
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def levels(image, rng, others):
    """Few grey levels, bright parts inverted, channels in another order, hue turned."""
    kind = rng.random()
    if kind < 0.3:
        step = 256 // int(rng.integers(3, 7))
        image = image // step * step + step // 2
    elif kind < 0.5:
        image = np.where(image >= rng.uniform(100, 220), 255 - image, image)
    if rng.random() < 0.3:
        image = image[..., rng.permutation(3)]
    elif rng.random() < 0.4:
        hsv = cv2.cvtColor(np.ascontiguousarray(image, dtype=np.uint8), cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + int(rng.integers(20, 160))) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return np.ascontiguousarray(image, dtype=np.uint8)


def glass(image, rng, others):
    """Pixels exchanged with near ones on 50 %, blurred from the centre outwards on 40 %."""
    h, w = image.shape[:2]
    if rng.random() < 0.5:
        far = max(1, round(rng.uniform(0.005, 0.02) * max(h, w)))
        y, x = np.mgrid[:h, :w]
        y = np.clip(y + rng.integers(-far, far + 1, (h, w)), 0, h - 1)
        x = np.clip(x + rng.integers(-far, far + 1, (h, w)), 0, w - 1)
        image = image[y, x]
    if rng.random() < 0.4:
        zooms = np.linspace(1, rng.uniform(1.1, 1.3), 8)
        layers = [cv2.warpAffine(image, cv2.getRotationMatrix2D((w / 2, h / 2), 0, zoom), (w, h),
                                 borderMode=cv2.BORDER_REPLICATE) for zoom in zooms]
        image = np.mean(layers, axis=0).astype(np.uint8)
    return image


def overlay(image, rng, others):
    """Lines of text and a grid across the image on 60 %, sharpened on 50 %, inverted on 10 %."""
    h, w = image.shape[:2]
    if rng.random() < 0.5:
        soft = cv2.GaussianBlur(image, (0, 0), max(0.8, max(h, w) / 200))
        image = cv2.addWeighted(image, 2.5, soft, -1.5, 0)
    image = image.copy()
    if rng.random() < 0.6:
        colour = rng.uniform(0, 255, 3).tolist()
        size = max(h, w) / 250
        for _ in range(int(rng.integers(1, 4))):
            at = (int(rng.uniform(-0.1, 0.5) * w), int(rng.uniform(0.1, 1) * h))
            cv2.putText(image, "PREVIEW ONLY", at, cv2.FONT_HERSHEY_SIMPLEX, size, colour,
                        max(1, round(2 * size)), cv2.LINE_AA)
        for x in range(0, w, max(4, w // 8)):
            cv2.line(image, (x, 0), (x, h), colour, max(1, w // 300))
    if rng.random() < 0.1:
        image = 255 - image
    return image


DAMAGES = {"paper": paper, "phone": phone, "street": street, "scan": scan, "dark": dark,
           "fog": fog, "wavy": wavy, "levels": levels, "glass": glass, "overlay": overlay}

# recipe -> (kinds that it holds, kinds that it may be read as as well)
KINDS_OF = {
    "paper": ({"ghost", "rotate", "blur"},
              {"flip_horizontal", "flip_vertical", "rotate_180", "transpose", "rotate_90",
               "rotate_270", "transverse", "brightness", "contrast", "gamma", "offset", "noise",
               "grain", "scale", "shift", "patch", "erase", "jpeg"}),
    "phone": ({"rotate", "blur", "brightness", "impulse", "jpeg"}, {"contrast"}),
    "street": ({"perspective", "saturation", "shadow"},
               {"motion_blur", "downscale", "patch", "erase"}),
    "scan": ({"noise"}, set()),
    "dark": ({"offset", "shift", "noise"}, set()),
}
