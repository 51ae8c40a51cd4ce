"""One image file -> an upright uint8 RGB array. The program reads every image here.

    rgb = decode_image(path)      # (H, W, 3) uint8; ValueError says why a file cannot be read
"""
import io
import os
import stat
import warnings

import numpy as np
from PIL import Image

from utils import patiently

IMAGE_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF")
LARGEST_IMAGE_PX = 100_000_000
LARGEST_FILE_BYTES = 2**30

Image.init()                    # loads all decoders now: threads must not do it at the same time
Image.MAX_IMAGE_PIXELS = None   # decode_bytes checks the size itself, before decoding
warnings.filterwarnings("ignore", module=r"PIL\.")  # damaged metadata of a file that still decodes


def decode_image(path):
    """uint8 (H, W, 3) RGB of one image file.

    Applies the EXIF orientation. Scales 16-bit and float images to 8 bits. Converts grey, palette
    and CMYK. Puts alpha on white. Takes the first of several frames. Raises ValueError with a short
    reason (zero bytes, truncated, not an image, ...).
    """
    return decode_bytes(read_bytes(path))[0]


def read_bytes(path):
    """All bytes of a regular file. Raises ValueError with a short reason; never waits for FIFOs or
    devices."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

    def read():
        with open(os.open(path, flags), "rb") as f:
            status = os.fstat(f.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("not a regular file")
            if status.st_size == 0:
                raise ValueError("zero bytes")
            if status.st_size > LARGEST_FILE_BYTES:
                raise ValueError("larger than 1 GiB")
            return f.read()

    try:
        return patiently(path, read)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror or error})") from None


def decode_bytes(data, long_side_px=0):
    """(uint8 (H, W, 3) RGB, (height_px, width_px) of the full image) from an image file's bytes.

    With long_side_px > 0 a large JPEG may be decoded at a lower resolution, never below twice that
    length.
    """
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            width, height = image.size
            if width * height > LARGEST_IMAGE_PX:
                raise ValueError(f"{width} x {height} px, over the limit of 100 megapixels")
            if 0 < 2 * long_side_px < max(width, height):
                shrink = 2 * long_side_px / max(width, height)
                image.draft(None, (max(1, int(width * shrink)), max(1, int(height * shrink))))
            image.load()
            turn = orientation_of(image)
            rgb = upright(rgb_of(image), turn)
    except Image.UnidentifiedImageError:
        raise ValueError("not an image") from None
    except ValueError:
        raise
    except Exception as error:
        # decoders of damaged files raise anything: SyntaxError, struct.error, EOFError, ...
        if "truncated" in str(error):
            raise ValueError("truncated") from None
        raise ValueError(f"damaged ({str(error) or type(error).__name__})") from None

    is_on_its_side = turn >= 5
    return rgb, ((width, height) if is_on_its_side else (height, width))


def orientation_of(image):
    """EXIF orientation 1 to 8; 1 if it is absent or unreadable."""
    try:
        turn = image.getexif().get(0x0112, 1)
    except Exception:  # damaged metadata of a readable image
        return 1
    return turn if turn in range(1, 9) else 1


def upright(rgb, orientation):
    """The image (H, W, 3) turned and mirrored as its EXIF orientation says."""
    if orientation >= 5:
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    return np.ascontiguousarray(rgb)


def rgb_of(image):
    """uint8 (H, W, 3) of a loaded Pillow image of any mode."""
    if image.mode.startswith("I") or image.mode == "F":
        grey = scaled_to_8_bits(np.asarray(image))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def scaled_to_8_bits(values):
    """uint8 from 16-bit levels (divided by 257), floats in 0..1 (times 255) or any other range
    (stretched)."""
    deep = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low = deep.min()
    high = deep.max()
    kind = values.dtype.kind
    if kind == "u" or (kind == "i" and low >= 0 and 255 < high <= 65535):
        deep = deep / 257.0
    elif kind == "f" and low >= 0 and high <= 1:
        deep = deep * 255.0
    elif low < 0 or high > 255:
        deep = (deep - low) * (255.0 / max(high - low, 1e-12))
    return np.clip(np.rint(deep), 0, 255).astype(np.uint8)
