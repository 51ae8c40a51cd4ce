"""From one file to a Batch: decoding, catalogs, pixels, folds, targets, datasets, loaders."""
import errno
import io
import itertools
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from contest import decoding
from contest.decoding import decode, decode_image
from contest.pixels import PixelStore, PixelWriter, shrunk
from data_loader import (
    EpochSampler,
    ImageDataset,
    InOrderSampler,
    SplitLoader,
    letterbox,
    make_loader,
    to_square,
)
from system.machine import usable_cores
from system.parallel import process_map
from tests.test_folds import catalog_of
from utils import RunError, UserError


def ramp(height=30, width=40):
    """uint8 (H, W, 3): red rises to the right, green downwards, blue is constant."""
    image = np.full((height, width, 3), 90, np.uint8)
    image[..., 0] = np.linspace(0, 255, width, dtype=np.uint8)[None, :]
    image[..., 1] = np.linspace(0, 255, height, dtype=np.uint8)[:, None]
    return image


@pytest.fixture
def store(tmp_path):
    """Six images of different sizes; image i is filled with 10 * i."""
    with PixelWriter(tmp_path / "p", 6) as writer:
        for i in (3, 0, 5, 1, 4, 2):
            writer.write(i, np.full((4 + i, 9 - i, 3), 10 * i, np.uint8))
    return PixelStore.open(tmp_path / "p")


# ---------------------------------------------------------------- decoding

TOLERANCE = {"JPEG": 6, "WEBP": 6, "GIF": 12, "AVIF": 6, "HEIF": 6}


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "JPEG", "WEBP", "GIF", "PPM", "DIB",
                                  "JPEG2000", "AVIF", "HEIF"])
def test_plain_formats(tmp_path, kind):
    if kind not in decoding.IMAGE_FORMATS:
        pytest.skip(f"this machine reads no {kind}")
    is_lossy = kind in ("JPEG", "WEBP", "AVIF", "HEIF")
    Image.fromarray(ramp()).save(tmp_path / "x", kind, **({"quality": 95} if is_lossy else {}))
    image = decode_image(tmp_path / "x")
    assert image.dtype == np.uint8 and image.shape == (30, 40, 3)
    assert np.abs(image.astype(int) - ramp()).mean() <= TOLERANCE.get(kind, 0)
    if kind != "DIB":       # four bytes of it would fit a text too
        assert decoding.format_of(decoding.first_bytes(tmp_path / "x")) == kind


def test_grey_and_one_bit_maps_in_the_formats_of_netpbm(tmp_path):
    for suffix, mode in ((".pgm", "L"), (".pbm", "1"), (".pnm", "RGB")):
        picture = Image.fromarray(ramp()).convert(mode)
        picture.save(tmp_path / f"x{suffix}")
        expected = np.asarray(picture.convert("RGB"))
        assert np.array_equal(decode_image(tmp_path / f"x{suffix}"), expected)


@pytest.mark.parametrize(("brand", "formats", "reason"), [
    (b"heic", ("JPEG", "PNG"), "HEIC needs pillow-heif: pip install -r requirements-extras.txt"),
    (b"mif1", ("JPEG", "PNG"), "HEIC needs pillow-heif: pip install -r requirements-extras.txt"),
    (b"avif", ("JPEG", "PNG"), "AVIF needs a Pillow that reads it: pip install --upgrade pillow"),
    (b"isom", ("JPEG", "PNG"), "not an image"),
    (b"heic", ("JPEG", "PNG", "HEIF"), "not an image"),
])
def test_a_format_without_its_decoder_names_what_to_install(monkeypatch, brand, formats, reason):
    monkeypatch.setattr(decoding, "IMAGE_FORMATS", formats)
    monkeypatch.setitem(Image.OPEN, "HEIF", (None, lambda prefix: False))
    with pytest.raises(ValueError, match=f"^{reason}$"):
        decode(b"\0\0\0\x18ftyp" + brand + b"0" * 100)


@pytest.mark.parametrize("text", [b"", b"README of the data", b"BMW photos, 2019", b"Permission is",
                                  b"P6 is a processor", b"#!/bin/sh", b"{\"a\": 1}", b"\0" * 16])
def test_text_announces_no_image(text):
    assert decoding.format_of(text[:decoding.LONGEST_MAGIC]) == ""


@pytest.mark.parametrize("kind", ["PNG", "PPM", "WEBP", "JPEG2000", "AVIF", "HEIF", "DIB"])
def test_the_limit_of_pixels_holds_for_every_format(monkeypatch, kind):
    if kind not in decoding.IMAGE_FORMATS:
        pytest.skip(f"this machine reads no {kind}")
    buffer = io.BytesIO()
    Image.fromarray(ramp()).save(buffer, kind)
    monkeypatch.setattr(decoding, "LARGEST_IMAGE_PX", 1000)
    with pytest.raises(ValueError, match="40 x 30 px, over the limit of 100 megapixels"):
        decode(buffer.getvalue())


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_scaled_to_8(tmp_path, suffix, channels):
    deep = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    cv2.imwrite(str(tmp_path / f"x{suffix}"), deep if channels == 1 else np.repeat(deep[:, :, None],
                                                                                   3, axis=2))
    expected = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    assert np.array_equal(decode_image(tmp_path / f"x{suffix}"), expected)


def test_dark_16_bit_image_is_not_stretched(tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), np.full((8, 8), 257 * 3, np.uint16))
    assert (decode_image(tmp_path / "x.png") == 3).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_the_white_level_spreads_fewer_bits_over_all_256_levels(kind, bits):
    deep = np.linspace(0, 2**bits - 1, 4096).round().astype(np.uint16).reshape(64, 64)
    buffer = io.BytesIO()
    Image.fromarray(deep).save(buffer, kind)
    found = decode(buffer.getvalue(), white_level=2**bits - 1)
    assert found.largest_level == 2**bits - 1
    assert len(np.unique(found.rgb)) == 256
    assert found.rgb.min() == 0 and found.rgb.max() == 255
    as_before = decode(buffer.getvalue()).rgb
    assert as_before.max() == round((2**bits - 1) / 257)


def test_only_16_bit_images_have_a_largest_level():
    buffer = io.BytesIO()
    Image.fromarray(ramp()).save(buffer, "PNG")
    assert decode(buffer.getvalue()).largest_level == 0
    assert np.array_equal(decode(buffer.getvalue(), white_level=1023).rgb, ramp())
    buffer = io.BytesIO()
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(buffer, "TIFF")
    assert decode(buffer.getvalue(), white_level=1023).largest_level == 0


def test_levels_above_white_are_white(tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), np.full((8, 8), 9000, np.uint16))
    assert (decode((tmp_path / "x.png").read_bytes(), white_level=4095).rgb == 255).all()


@pytest.mark.parametrize("scale", [1.0, 255.0, 5000.0])
def test_float_images(tmp_path, scale):
    values = np.linspace(0, scale, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "x.tif")
    image = decode_image(tmp_path / "x.tif")
    assert image[0, 0, 0] == 0 and image[-1, -1, 0] == 255


def test_grey_palette_and_one_bit(tmp_path):
    for mode in ("L", "P", "1"):
        Image.fromarray(ramp()).convert(mode).save(tmp_path / "x.png")
        expected = np.array(Image.fromarray(ramp()).convert(mode).convert("RGB"))
        assert np.array_equal(decode_image(tmp_path / "x.png"), expected)


def test_cmyk(tmp_path):
    Image.fromarray(ramp()).convert("CMYK").save(tmp_path / "x.jpg", quality=95)
    image = decode_image(tmp_path / "x.jpg")
    assert image.shape == (30, 40, 3) and np.abs(image.astype(int) - ramp()).mean() < 8


def test_alpha_lies_on_white(tmp_path):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2, :, 3] = 255
    rgba[2, :, 3] = 128
    Image.fromarray(rgba).save(tmp_path / "x.png")
    image = decode_image(tmp_path / "x.png")
    assert (image[:2] == 0).all() and (image[2] == 127).all() and (image[3] == 255).all()
    Image.fromarray(np.full((4, 4), 7, np.uint8)).save(tmp_path / "g.png", transparency=7)
    assert (decode_image(tmp_path / "g.png") == 255).all()
    palette = Image.fromarray(np.zeros((4, 4), np.uint8)).convert("P")
    palette.save(tmp_path / "p.png", transparency=b"\x00")
    assert (decode_image(tmp_path / "p.png") == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    upright = ramp(16, 24)
    undo = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1],
            4: lambda a: a[::-1], 5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, 1),
            7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
            8: lambda a: np.rot90(a, -1)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(undo(upright))).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(decode_image(tmp_path / "x.png"), upright)
    assert decode((tmp_path / "x.png").read_bytes()).size_px == (16, 24)


def png_of(width, height, bits=8, colour=2, pixels=b""):
    """A PNG that claims a size, and holds no pixels unless they are given, compressed."""
    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
            + chunk(b"IDAT", pixels or zlib.compress(b"")) + chunk(b"IEND", b""))


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOMEM, errno.EMFILE])
def test_a_fault_of_the_machine_is_no_damage_of_a_file(tmp_path, monkeypatch, code):
    """A later start may read the file, so it must not be left out for good."""
    Image.fromarray(ramp()).save(tmp_path / "a.png")

    def no_memory(*_):
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Image.Image, "load", no_memory)
        decode_image(tmp_path / "a.png")

    def failing(*_):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch, pytest.raises(OSError, match=os.strerror(code)):
        patch.setattr(os, "open", failing)
        decode_image(tmp_path / "a.png")
    assert decode_image(tmp_path / "a.png").shape == (30, 40, 3)


def test_bad_files_give_a_short_reason(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(ramp(200, 300)).save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    cases = {"zero bytes": b"",
             "not an image": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
             "truncated": jpeg[:len(jpeg) // 2], "over the limit of 100 megapixels": png_of(60_000,
                                                                                            60_000)}
    for reason, data in cases.items():
        (tmp_path / "x.jpg").write_bytes(data)
        with pytest.raises(ValueError, match=reason):
            decode_image(tmp_path / "x.jpg")
    with pytest.raises(ValueError, match="cannot be read"):
        decode_image(tmp_path / "none.jpg")
    with pytest.raises(ValueError, match=r"cannot be read|not a regular file"):
        decode_image(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="no pipes of that kind there")
def test_a_pipe_is_refused_at_once(tmp_path):
    """Opening it would wait for a writer."""
    def too_long(*_):
        raise TimeoutError

    os.mkfifo(tmp_path / "x.jpg")
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(5)
    try:
        with pytest.raises(ValueError, match="not a regular file"):
            decode_image(tmp_path / "x.jpg")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


PEAK_OF_A_DECODE = """
import sys
from pathlib import Path
from contest.decoding import decode_image

def peak_kib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))

before = peak_kib()
shape = decode_image(sys.argv[1]).shape
print(shape, (peak_kib() - before) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")
def test_a_16_bit_png_of_100_megapixels_is_read_within_600_mb(tmp_path):
    press = zlib.compressobj(1)
    row = bytes(1 + 2 * 10_000)
    pixels = b"".join(press.compress(row) for _ in range(10_000)) + press.flush()
    (tmp_path / "x.png").write_bytes(png_of(10_000, 10_000, 16, 0, pixels))
    assert (tmp_path / "x.png").stat().st_size < 1_000_000
    done = subprocess.run([sys.executable, "-c", PEAK_OF_A_DECODE, tmp_path / "x.png"], check=True,
                          cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, text=True)
    shape, _, peak = done.stdout.rpartition(" ")
    assert shape == "(10000, 10000, 3)"
    assert int(peak) < 600_000_000


def test_an_image_that_takes_too_much_memory_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(decoding, "LARGEST_DECODE_BYTES", 2**20)
    with pytest.raises(ValueError, match=r"600 x 400 px take 0\.0 GiB of memory, over the limit"):
        decode(png_of(600, 400))


def test_a_tiff_whose_tile_is_larger_than_the_image_counts_its_tile():
    tags = [(256, 3, 8), (257, 3, 8), (258, 3, 8), (259, 3, 1), (262, 3, 1), (277, 3, 1),
            (322, 4, 60_000), (323, 4, 60_000), (324, 4, 8), (325, 4, 64)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    tiff = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    with pytest.raises(ValueError, match=r"8 x 8 px take 26\.8 GiB of memory"):
        decode(tiff)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "F"])
def test_an_image_read_in_strips_is_the_image_read_at_once(tmp_path, monkeypatch, suffix, mode):
    image = Image.fromarray(ramp()).convert("L")
    if mode == "I;16":
        image = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)
    elif mode == "F":
        image = Image.fromarray(np.linspace(-3, 9000, 1200, dtype=np.float32).reshape(30, 40))
    else:
        image = image.convert(mode)
    if (mode == "F" and suffix != ".tif") or (mode == "I;16" and suffix == ".webp"):
        pytest.skip("the format holds no such image")
    image.save(tmp_path / f"x{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    whole = decode_image(tmp_path / f"x{suffix}")
    monkeypatch.setattr(decoding, "STRIP_PX", 100)
    assert np.array_equal(decode_image(tmp_path / f"x{suffix}"), whole)


@pytest.mark.parametrize("kind", decoding.IMAGE_FORMATS)
def test_damaged_bytes_never_raise_anything_else(kind):
    buffer = io.BytesIO()
    Image.fromarray(ramp()).save(buffer, kind)
    whole, rng = buffer.getvalue(), np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole[:rng.integers(1, len(whole) + 1)])
        for place in rng.integers(0, len(data), 4):
            data[place] = rng.integers(0, 256)
        try:
            image = decode(bytes(data)).rgb
        except ValueError as error:
            assert 0 < len(str(error)) < 300
        else:
            assert image.dtype == np.uint8 and image.shape[2] == 3


def test_fast_decoding_of_a_large_jpeg_shows_the_same(tmp_path):
    big = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8),
                     (1600, 1200), interpolation=cv2.INTER_CUBIC)
    buffer = io.BytesIO()
    Image.fromarray(big).save(buffer, "JPEG", quality=95)
    fast, size_px, _ = decode(buffer.getvalue(), long_side_px=100)
    assert size_px == (1200, 1600) and 200 <= max(fast.shape) < 1600
    slow = decode(buffer.getvalue()).rgb
    assert np.abs(shrunk(fast, 100).astype(int) - shrunk(slow, 100)).max() <= 6


# ---------------------------------------------------------------- catalogs

def test_catalog_is_checked():
    good = catalog_of([0, 1, 0])
    assert len(good) == 3 and good.take([0, 2]).sample_id.tolist() == ["s0000", "s0002"]
    assert good.take(good.label == 1).label.tolist() == [1]
    with pytest.raises(UserError, match="repeat: 's0000'"):
        replace(good, sample_id=["s0000", "s0000", "s1"])
    with pytest.raises(UserError, match="sorted by id"):
        replace(good, sample_id=["b", "a", "c"])
    with pytest.raises(UserError, match="wrong for 's0001'"):
        replace(good, label=[0, 2, 0])
    with pytest.raises(UserError, match="one length"):
        replace(good, label=[0, 1])
    assert len(good.take([])) == 0


# ---------------------------------------------------------------- pixels

def test_pixel_store(store):
    assert len(store) == 6
    for i in range(6):
        assert store[i].shape == (4 + i, 9 - i, 3) and (store[i] == 10 * i).all()
    part = store.take([5, 0]).concat(store.take(np.arange(6) == 2))
    assert [part[i][0, 0, 0] for i in range(3)] == [50, 0, 20]
    store[0][:] = 99
    assert (store[0] == 0).all()


def test_an_image_written_again_takes_its_old_place(store, tmp_path):
    size = (tmp_path / "p.bin").stat().st_size
    with PixelWriter.again(tmp_path / "p") as writer:
        writer.write(3, np.full((7, 6, 3), 77, np.uint8))
    assert (tmp_path / "p.bin").stat().st_size == size
    after = PixelStore.open(tmp_path / "p")
    assert (after[3] == 77).all() and after[3].shape == (7, 6, 3)
    assert all((after[i] == 10 * i).all() for i in (0, 1, 2, 4, 5))


def test_unreadable_rows_have_no_pixels(tmp_path):
    with PixelWriter(tmp_path / "p", 2) as writer:
        writer.write(1, np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(RunError, match="row 0 of the pixel store"):
        PixelStore.open(tmp_path / "p")[0]


def first_value(store, row):
    return int(store[row][0, 0, 0])


def test_pixel_store_travels_to_a_spawned_process(store):
    assert store[1][0, 0, 0] == 10
    assert pickle.loads(pickle.dumps(store)).maps == {}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(first_value, store, 4).result() == 40


def test_shrunk_never_enlarges():
    assert shrunk(ramp(30, 40), 20).shape == (15, 20, 3)
    assert shrunk(ramp(30, 40), 50).shape == (30, 40, 3)
    assert shrunk(ramp(1, 400), 20).shape == (1, 20, 3)


def test_squares():
    tall = np.full((40, 20, 3), 200, np.uint8)
    square = letterbox(tall, 10, fill=(1, 2, 3))
    assert (
        square.shape == (10, 10, 3)
        and (square[:, 3:7] == 200).all()
        and (square[:, 0] == (1, 2, 3)).all()
    )
    assert (to_square(tall, 10, "letterbox")[:, 0] == (124, 116, 104)).all()
    assert (to_square(tall, 10, "squash") == 200).all() and (to_square(tall, 30,
                                                                       "crop") == 200).all()
    assert np.array_equal(to_square(ramp(30, 30), 30, "letterbox"), ramp(30, 30))
    with pytest.raises(UserError, match="letterbox, squash or crop, got 'pad'"):
        to_square(tall, 10, "pad")


# ---------------------------------------------------------------- batches

def noisy_square(image, seed, donor, epoch):
    """A transform that uses all it is given: the square, the seed and a donor."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 50, (8, 8, 3), dtype=np.uint8)
    return to_square(image, 8, "squash") // 4 + to_square(donor(int(rng.integers(2**32))), 8,
                                                          "squash") // 4 + noise


def dataset_of(store, n_classes=3):
    ids = [f"s{i}" for i in range(len(store))]
    return ImageDataset(store, ids, noisy_square, (7, "fit"),
                        np.eye(n_classes)[np.arange(len(store)) % n_classes],
                        np.arange(len(store)) / 10)


def batches_of(store, workers, epochs=(0, 1), in_bursts=False):
    sampler = EpochSampler(len(store), 4, (7, "fit"))
    loader = make_loader(dataset_of(store), sampler, workers, in_bursts)
    found = []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        found += list(loader)
    return found


def test_freed_memory_goes_back_before_loading_processes_are_forked(store, monkeypatch):
    calls = []
    monkeypatch.setattr("data_loader.return_freed_memory", lambda: calls.append(1))
    batches_of(store, 0)
    assert not calls
    batches_of(store, 1)
    assert calls == [1]


def test_batches_have_the_promised_shapes(store):
    batch = batches_of(store, 0)[0]
    assert batch.images.shape == (4, 3, 8, 8) and batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.targets.shape == (4, 3) and batch.targets.dtype == torch.float32
    assert batch.weight.dtype == torch.float32 and batch.index.dtype == torch.int64
    assert torch.equal(batch.weight, (batch.index / 10).to(torch.float32))


def test_batches_are_the_same_for_any_number_of_workers(store):
    alone, helped = batches_of(store, 0), batches_of(store, 2)
    assert len(alone) == len(helped) == 4
    for a, b in zip(alone, helped, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_bursts_hold_the_same_batches(store, workers):
    alone, burst = batches_of(store, 0), batches_of(store, workers, in_bursts=True)
    assert len(alone) == len(burst) == 4
    for a, b in zip(alone, burst, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        assert not any(field.is_shared() for field in b)


class Counted(ImageDataset):
    """Counts the images that were loaded, in any process."""

    def __init__(self, *args):
        super().__init__(*args)
        self.n_loaded = torch.multiprocessing.Value("i", 0)

    def __getitem__(self, key):
        with self.n_loaded:
            self.n_loaded.value += 1
        return super().__getitem__(key)


def test_nothing_is_loaded_between_bursts(store, monkeypatch):
    monkeypatch.setattr("data_loader.BURST_BATCHES", 2)
    dataset = Counted(store, list("abcdef"), noisy_square, (1,))
    loader, seen = make_loader(dataset, InOrderSampler(6, 1), 2, in_bursts=True), []
    assert len(loader) == 6 and loader.dataset is dataset
    for batch in loader:
        time.sleep(0.1)
        seen.append((batch.index.tolist(), dataset.n_loaded.value))
    # one batch to learn its size, then two
    assert seen == [([0], 1), ([1], 3), ([2], 3), ([3], 5), ([4], 5), ([5], 6)]


@pytest.mark.parametrize(("name", "value"), [
    ("BURST_BATCHES", 1), ("BURST_BYTES", 1), ("stop_is_asked", lambda: True)])
def test_a_burst_may_be_one_batch(store, monkeypatch, name, value):
    """Where more are not wanted, where one is large, and where the run is about to stop: none is
    left out."""
    monkeypatch.setattr(f"data_loader.{name}", value)
    dataset = Counted(store, list("abcdef"), noisy_square, (1,))
    loader, seen = make_loader(dataset, InOrderSampler(6, 2), 1, in_bursts=True), []
    for _ in range(2):
        seen += [batch.index.tolist() for batch in loader]
    assert seen == 2 * [[0, 1], [2, 3], [4, 5]]
    assert name == "stop_is_asked" or dataset.n_loaded.value == 12


def test_an_epoch_that_was_left_does_not_show_in_the_next(store):
    loader = make_loader(dataset_of(store), InOrderSampler(6, 1), 2, in_bursts=True)
    for n in (1, 2, 6):
        assert [batch.index.item() for batch in itertools.islice(loader, n)] == list(range(n))


def test_a_later_epoch_does_not_depend_on_earlier_ones(store):
    again = batches_of(store, 0, epochs=(1,))
    assert all(torch.equal(a.images, b.images) for a, b in zip(batches_of(store, 0)[2:], again,
                                                               strict=True))
    assert not torch.equal(batches_of(store, 0)[0].images, again[0].images)


def test_an_image_depends_on_its_id_not_on_its_row(store):
    def plain_noise(image, seed, donor, epoch):
        return np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)

    whole = ImageDataset(store, list("abcdef"), plain_noise, (1,))
    part = ImageDataset(store.take([4]), ["e"], plain_noise, (1,))
    assert np.array_equal(whole[3, 4][0], part[3, 0][0]) and not np.array_equal(whole[3, 3][0],
                                                                                part[3, 0][0])


def test_donors_are_other_images(store):
    seen = []

    def spy(image, seed, donor, epoch):
        seen.extend(int(donor(s)[0, 0, 0]) for s in range(30))
        return np.zeros((8, 8, 3), np.uint8)

    ImageDataset(store, list("abcdef"), spy, (1,))[0, 2]
    assert set(seen) == {0, 10, 30, 40, 50}
    ImageDataset(store.take([2]), ["c"], spy, (1,))[0, 0]


def test_epochs_are_full_batches_of_all_images():
    sampler = EpochSampler(10, 4, ("x",))
    first = list(sampler)
    assert len(sampler) == 3 and [len(b) for b in first] == [4, 4, 4]
    rows = [i for batch in first for _, i in batch]
    assert set(rows) == set(range(10)) and rows[10:] == rows[:2]
    sampler.set_epoch(1)
    assert {epoch for batch in sampler for epoch, _ in batch} == {1} and list(sampler) != first
    assert [len(b) for b in EpochSampler(3, 8, ("x",))] == [8]
    assert [len(b) for b in EpochSampler(10, 4, ("x",), full_batches=False)] == [4, 4, 2]


def test_prediction_goes_in_order(store):
    dataset = ImageDataset(store, list("abcdef"), noisy_square, (1,))
    batches = list(make_loader(dataset, InOrderSampler(6, 4), 0))
    assert [b.index.tolist() for b in batches] == [[0, 1, 2, 3],
                                                   [4, 5]] and batches[0].targets.shape == (4, 0)
    assert len(InOrderSampler(6, 4)) == 2


@pytest.mark.parametrize(("workers", "in_bursts"), [(0, False), (2, False), (2, True)])
def test_splits_share_their_loading_processes_and_keep_their_batches(store, workers, in_bursts,
                                                                     monkeypatch):
    made = []
    monkeypatch.setattr("data_loader.return_freed_memory", lambda: made.append(1))
    datasets = {"a": ImageDataset(store, list("abcdef"), noisy_square, ("a",)),
                "b": ImageDataset(store.take([4, 2, 0]), list("eca"), noisy_square, ("b",))}
    loader = SplitLoader(datasets, 4, workers, in_bursts)
    next(iter(loader.batches("a")))      # one is not read to its end
    for split, size in (("b", None), ("a", None), ("b", 2)):
        found = list(loader.batches(split, size))
        expected = list(make_loader(datasets[split], InOrderSampler(len(datasets[split]),
                                                                    size or 4), 0))
        assert len(found) == len(expected) == len(loader.batches(split, size))
        for a, b in zip(found, expected, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert len(made) == (workers > 0)


def test_a_dataset_with_wrong_rows_is_refused(store):
    with pytest.raises(RunError, match="6 images, 2 ids"):
        ImageDataset(store, ["a", "b"], noisy_square, (1,))


# ---------------------------------------------------------------- process_map

def test_process_map_keeps_order_and_the_global_random_state():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    assert process_map(lambda i: (i, os.getpid()), range(37),
                       1) == [(i, os.getpid()) for i in range(37)]
    assert [i for i, _ in process_map(lambda i: (i, os.getpid()), range(37), 2)] == list(range(37))
    assert process_map(str, [], 2) == [] and torch.rand(1) == expected


def test_process_map_passes_errors_on_and_calls_no_second_time(tmp_path):
    with pytest.raises(ZeroDivisionError):
        process_map(lambda i: 1 // i, range(2), 2)

    def refuse(i):
        (tmp_path / str(i)).touch(exist_ok=False)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        process_map(refuse, range(2), 2)


FORKS = """
import os, signal, cv2, numpy as np
import system.parallel
cv2.setNumThreads(2)
cv2.resize(np.zeros((2000, 2000, 3), np.uint8), (1000, 1000), interpolation=cv2.INTER_AREA)
begun = len(os.listdir("/proc/self/task"))
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    cv2.setNumThreads(1)      # ends threads that a fork does not copy
    cv2.setNumThreads(2)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), cv2.getNumThreads(),
      begun - len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks by default on Linux alone")
def test_no_thread_of_opencv_is_there_while_a_process_is_forked():
    said = subprocess.run([sys.executable, "-c", FORKS], cwd=Path(__file__).parents[1], text=True,
                          capture_output=True, check=True, timeout=60).stdout.split()
    assert said == ["0", "2", "1"]


@pytest.mark.skipif(sys.platform != "linux" or usable_cores() < 2, reason="no processes there")
def test_process_map_goes_on_in_threads_where_its_processes_are_killed():
    here = os.getpid()

    def survive(i):
        return i if os.getpid() == here else os.kill(os.getpid(), signal.SIGKILL)

    assert process_map(survive, range(4), 2) == [0, 1, 2, 3]


@pytest.mark.skipif(os.name == "nt", reason="no such signals there")
@pytest.mark.parametrize("number", [signal.SIGINT, getattr(signal, "SIGHUP", None)])
def test_ctrl_c_and_a_hangup_do_not_end_a_loading_process(store, number):
    """A terminal sends them to all processes; the step that is waited for still gets its batch."""
    here = os.getpid()

    def signalled(image, seed, donor, epoch):
        if os.getpid() != here:
            os.kill(os.getpid(), number)
        return to_square(image, 16, "letterbox")

    dataset = ImageDataset(store, [f"i{i}" for i in range(len(store))], signalled, ("t",))
    batches = make_loader(dataset, InOrderSampler(len(store), 4), 1)
    before = signal.signal(number, signal.SIG_DFL)      # nohup and & ignore them
    try:
        assert sum(len(batch.index) for batch in batches) == len(store)
    finally:
        signal.signal(number, before)


@pytest.mark.skipif(sys.platform != "linux" or usable_cores() < 2, reason="no processes there")
def test_no_process_of_process_map_outlives_a_killed_run():
    """Their results are larger than a pipe, so that one which had ended of itself would wait for
    its reader for ever."""
    code = (
        "import os, signal, time, numpy as np; from system.parallel import process_map\n"
        "def large(i):\n"
        "    i == 9 and (time.sleep(0.5), os.kill(os.getppid(), signal.SIGKILL))\n"
        "    return np.zeros(1 << 20)\n"
        "process_map(large, range(400), 2)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        timeout=60,
        # which ends when the last process that holds the pipe does
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
