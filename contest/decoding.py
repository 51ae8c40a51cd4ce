"""One image file -> an upright uint8 RGB array. The program reads every image here.

    rgb = decode_image(path)      # (H, W, 3) uint8; ValueError says why a file cannot be read
"""
import contextlib
import importlib
import io
import os
import re
import stat
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, features

from system.machine import fault_of
from utils import OF_THE_PATH, patiently

# Pillow's names of the formats, and the library that it may have been built without
WANTED_FORMATS = {"JPEG": "", "PNG": "", "TIFF": "", "BMP": "", "DIB": "", "PPM": "", "GIF": "",
                  "WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif", "HEIF": ""}
LONGEST_MAGIC = 16
MAGIC = {
    "JPEG": rb"\xff\xd8\xff", "PNG": rb"\x89PNG\r\n\x1a\n", "GIF": rb"GIF8[79]a",
    "TIFF": rb"II[*+]\0|MM\0[*+]", "BMP": rb"BM.{4}\0{4}.{4}[\x0c\x28\x38\x40\x6c\x7c]\0",
    "WEBP": rb"RIFF.{4}WEBP", "PPM": rb"P[1-6]\s+(#|\d+\s)",
    "JPEG2000": rb"\0\0\0\x0cjP  \r\n|\xff\x4f\xff\x51", "AVIF": rb".{4}ftypavi[fs]",
    "HEIF": rb".{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)",
}
LARGEST_IMAGE_PX = 100_000_000
LARGEST_FILE_BYTES = 2**30
ZERO_BYTES = "zero bytes"
UNREADABLE = "cannot be read"        # begins the reason of a file that the system does not give
LARGEST_DECODE_BYTES = 3 * 2**29    # of memory for one image, beside its file
STRIP_PX = 2**20                    # converted at a time
WHITE_LEVEL = 65535                 # of 16-bit images that use all 16 bits

# Pillow's bytes a pixel; 4 in other modes
MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
# what a decoder holds beside Pillow's pixels, in bytes a pixel: at least what was measured
DECODER_BYTES = {"WEBP": 12, "AVIF": 16, "HEIF": 16, "PPM": 8}
JPEG2000_BYTES = 6                  # for each channel
PROGRESSIVE_JPEG_BYTES = 2          # for each channel
TIFF_BYTES = 8                      # of a tile or strip, which may be the whole image
TILE_WIDTH, TILE_LENGTH = 322, 323  # tags of a TIFF


def load_decoders():
    """The names of the formats in WANTED_FORMATS that this machine reads.

    Loads all decoders: threads must not do it at the same time.
    """
    Image.init()
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(name for name, library in WANTED_FORMATS.items()
                 if name in Image.OPEN and (not library or features.check(library)))


IMAGE_FORMATS = load_decoders()
Image.MAX_IMAGE_PIXELS = None   # decode checks the size itself, before decoding
warnings.filterwarnings("ignore", module=r"PIL\.")  # damaged metadata of a file that still decodes


def decode_image(path):
    """uint8 (H, W, 3) RGB of one image file.

    Applies the EXIF orientation. Scales 16-bit and float images to 8 bits. Converts grey, palette
    and CMYK. Puts alpha on white. Takes the first of several frames. Raises ValueError with a short
    reason (zero bytes, truncated, not an image, ...).
    """
    return decode(read_bytes(path)).rgb


def open_at_once(path):
    """A file, opened to read its bytes; never waits for FIFOs or devices."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    return open(os.open(path, flags), "rb")


def read_bytes(path):
    """All bytes of a regular file.

    Raises ValueError with a short reason, and OSError for a fault of the machine.
    """
    def read():
        with open_at_once(path) as f:
            status = os.fstat(f.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("not a regular file")
            if status.st_size == 0:
                raise ValueError(ZERO_BYTES)
            if status.st_size > LARGEST_FILE_BYTES:
                raise ValueError("larger than 1 GiB")
            return f.read()

    try:
        return patiently(path, read)
    except OSError as error:
        if error.errno not in OF_THE_PATH:
            raise
        raise ValueError(f"{UNREADABLE} ({error.strerror or error})") from None


def first_bytes(path):
    """At most LONGEST_MAGIC bytes of a regular file, none of anything else."""
    def read():
        with open_at_once(path) as f:
            is_regular = stat.S_ISREG(os.fstat(f.fileno()).st_mode)
            return f.read(LONGEST_MAGIC) if is_regular else b""

    try:
        return patiently(path, read)
    except OSError as error:
        if error.errno not in OF_THE_PATH:
            raise
        return b""


def format_of(head):
    """Pillow's name of the format that a file's first bytes announce, '' for none."""
    for name, magic in MAGIC.items():
        if re.match(magic, head, re.DOTALL):
            return name
    return ""


def needs_decoder(path):
    """The format of a file that this machine has no decoder for, else ''."""
    name = format_of(first_bytes(path))
    return "" if name in IMAGE_FORMATS else name


def why_not_read(head):
    """Why no decoder takes a file, by its first bytes."""
    name = format_of(head)
    if name in ("", *IMAGE_FORMATS):
        return "not an image"
    if name == "HEIF":
        return "HEIC needs pillow-heif: pip install -r requirements-extras.txt"
    return f"{name} needs a Pillow that reads it: pip install --upgrade pillow"


class Decoded(NamedTuple):
    """An image file's content.

    rgb: uint8 (H, W, 3). size_px: height and width of the full image. largest_level: of a 16-bit
    grey image, 0 for others.
    """

    rgb: np.ndarray
    size_px: tuple[int, int]
    largest_level: int


def decode(data, long_side_px=0, white_level=WHITE_LEVEL):
    """The Decoded image of an image file's bytes.

    ValueError says why a file cannot be decoded; a fault of the machine is raised as it is.
    With long_side_px > 0 a large JPEG may be decoded at a lower resolution, never below twice that
    length. white_level: the level of 16-bit grey images that becomes white.
    """
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            width, height = image.size
            if width * height > LARGEST_IMAGE_PX:
                raise ValueError(f"{width} x {height} px, over the limit of 100 megapixels")
            held = decoder_bytes(image)
            if 0 < 2 * long_side_px < max(width, height):
                shrink = 2 * long_side_px / max(width, height)
                image.draft(None, (max(1, int(width * shrink)), max(1, int(height * shrink))))
            refuse_large(image, held)
            image.load()
            turn = orientation_of(image)
            rgb, largest_level = rgb_of(image, white_level)
            rgb = upright(rgb, turn)
    except Image.UnidentifiedImageError:
        raise ValueError(why_not_read(data[:LONGEST_MAGIC])) from None
    except ValueError:
        raise
    except Exception as error:
        # decoders of damaged files raise anything: SyntaxError, struct.error, EOFError, ...
        if is_of_the_machine(error):
            raise
        if "truncated" in str(error):
            raise ValueError("truncated") from None
        raise ValueError(f"damaged ({str(error) or type(error).__name__})") from None

    is_on_its_side = turn >= 5
    size_px = (width, height) if is_on_its_side else (height, width)
    return Decoded(rgb, size_px, largest_level)


def is_of_the_machine(error):
    """Whether the machine, not the file, is to blame for a decoder's error.

    The decoder reads bytes in memory: if the system refuses something, it is not the file.
    """
    return getattr(error, "errno", None) is not None or bool(fault_of(error))


def decoder_bytes(image):
    """About what decoding holds at most beside Pillow's pixels, of an image that is not loaded."""
    n_px = image.width * image.height
    if image.format == "TIFF":
        tile_px = image.tag_v2.get(TILE_WIDTH, 0) * image.tag_v2.get(TILE_LENGTH, 0)
        return max(n_px, tile_px) * TIFF_BYTES
    if image.format == "JPEG2000":
        return n_px * JPEG2000_BYTES * len(image.getbands())
    if image.info.get("progressive"):
        return n_px * PROGRESSIVE_JPEG_BYTES * len(image.getbands())
    return n_px * DECODER_BYTES.get(image.format, 0)


def refuse_large(image, held):
    """ValueError if an image takes more than LARGEST_DECODE_BYTES; its decoder holds `held`.

    The decoder's share is free before the RGB array is made, and turned.
    """
    n_px = image.width * image.height
    rgb = 3 * n_px
    needed = n_px * MODE_BYTES.get(image.mode, 4) + max(held, 2 * rgb)
    if needed > LARGEST_DECODE_BYTES:
        raise ValueError(f"{image.width} x {image.height} px take {needed / 2**30:.1f} GiB of "
                         f"memory, over the limit of {LARGEST_DECODE_BYTES / 2**30:.1f} GiB")


def orientation_of(image):
    """EXIF orientation 1 to 8; 1 if it is absent or unreadable."""
    try:
        turn = image.getexif().get(0x0112, 1)
    except Exception as error:      # damaged metadata raises anything, and the image is readable
        if is_of_the_machine(error):
            raise
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


def strips(image):
    """Yields (rows, those rows) of a loaded image, at most STRIP_PX pixels or one row at a time.

    A conversion of the whole image would hold it several times.
    """
    n_rows = max(1, STRIP_PX // image.width)
    if n_rows >= image.height:
        yield slice(0, image.height), image
        return
    for top in range(0, image.height, n_rows):
        bottom = min(image.height, top + n_rows)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))


def rgb_of(image, white_level):
    """(uint8 (H, W, 3) of a loaded Pillow image of any mode, its largest level if it is 16-bit)."""
    read = read_colour
    largest_level = 0
    if image.mode.startswith("I") or image.mode == "F":
        read, largest_level = deep_reader(image, white_level)

    rgb = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for rows, strip in strips(image):
        rgb[rows] = read(strip)
    return rgb, largest_level


def read_colour(image):
    """uint8 (H, W, 3) of an image with at most 8 bits a channel."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def deep_reader(image, white_level):
    """(A function that reads strips of a deep grey image as uint8 (H, W, 1), its largest level if
    it is 16-bit, else 0).

    16-bit levels become white at white_level, floats in 0..1 at 1, any other range is stretched.
    """
    ends = np.array([(v.min(), v.max()) for v in (finite(strip) for _, strip in strips(image))])
    low = ends.min()
    high = ends.max()
    kind = np.asarray(image.crop((0, 0, 1, 1))).dtype.kind
    is_16_bit = (kind == "u" or (kind == "i" and image.format == "PPM")
                 or (kind == "i" and low >= 0 and 255 < high <= WHITE_LEVEL))

    if is_16_bit:
        def scaled(values):
            return values / (white_level / 255.0)
    elif kind == "f" and low >= 0 and high <= 1:
        def scaled(values):
            return values * 255.0
    elif low < 0 or high > 255:
        def scaled(values):
            return (values - low) * (255.0 / max(high - low, 1e-12))
    else:
        def scaled(values):
            return values

    def read(strip):
        grey = np.clip(np.rint(scaled(finite(strip))), 0, 255)
        return grey.astype(np.uint8)[:, :, None]

    return read, int(high) if is_16_bit else 0


def finite(image):
    """float64 (H, W) of a deep grey image; 0 where it holds no number."""
    return np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0.0, neginf=0.0)
