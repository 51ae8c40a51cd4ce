"""The images of a split, reduced and decoded once, in one file that processes map into memory."""
import os
import threading

import cv2
import numpy as np

from utils import RunError


class PixelStore:
    """n images of different sizes in memory-mapped files: store[row] -> a copy, uint8 (H, W, 3).

    file, offset (n,) int64: where each image begins. shape (n, 2) int64: its height and width, 0 if
    unreadable. Can be pickled for spawned processes: the files are opened on first use.
    """

    def __init__(self, paths, file, offset, shape):
        self.paths = tuple(str(p) for p in paths)
        self.file = np.asarray(file, dtype=np.int64)
        self.offset = np.asarray(offset, dtype=np.int64)
        self.shape = np.asarray(shape, dtype=np.int64)
        self.maps = {}

    @classmethod
    def open(cls, path):
        """The store that PixelWriter wrote to `path` (.bin and .npz)."""
        with np.load(f"{path}.npz") as index:
            file = np.zeros(len(index["offset"]))
            return cls((f"{path}.bin",), file, index["offset"], index["shape"])

    def __len__(self):
        return len(self.offset)

    def __getitem__(self, row):
        height, width = self.shape[row].tolist()
        if height == 0:
            raise RunError(
                f"row {row} of the pixel store {self.paths} holds no image: it was unreadable in "
                "the audit"
            )
        file = int(self.file[row])
        start = int(self.offset[row])
        if file not in self.maps:
            self.maps[file] = np.memmap(self.paths[file], dtype=np.uint8, mode="r")
        values = np.array(self.maps[file][start:start + height * width * 3])
        return values.reshape(height, width, 3)

    def take(self, rows):
        """The images at `rows` (indices or a mask), in that order."""
        return PixelStore(self.paths, self.file[rows], self.offset[rows], self.shape[rows])

    def concat(self, other):
        """This store's images, then the other's."""
        return PixelStore(
            self.paths + other.paths,
            np.concatenate([self.file, other.file + len(self.paths)]),
            np.concatenate([self.offset, other.offset]),
            np.concatenate([self.shape, other.shape]),
        )

    def __getstate__(self):
        return {**self.__dict__, "maps": {}}


class PixelWriter:
    """Writes n images from many threads, in any order, to path.bin, then their places to path.npz.

    An image that is written again, in the same size, takes its old place.
    """

    def __init__(self, path, n):
        self.path = path
        self.mode = "wb"
        self.lock = threading.Lock()
        self.offset = np.zeros(n, dtype=np.int64)
        self.shape = np.zeros((n, 2), dtype=np.int64)

    @classmethod
    def again(cls, path):
        """A writer that replaces images of the store at `path`."""
        store = PixelStore.open(path)
        writer = cls(path, len(store))
        writer.mode = "r+b"
        writer.offset = store.offset
        writer.shape = store.shape
        return writer

    def __enter__(self):
        self.file = open(f"{self.path}.bin", self.mode)  # closed in __exit__
        return self

    def write(self, row, image):
        with self.lock:
            if tuple(self.shape[row]) == image.shape[:2]:
                self.file.seek(self.offset[row])
            else:
                self.offset[row] = self.file.seek(0, os.SEEK_END)
                self.shape[row] = image.shape[:2]
            self.file.write(np.ascontiguousarray(image).data)

    def __exit__(self, *_):
        self.file.close()
        np.savez(f"{self.path}.npz", offset=self.offset, shape=self.shape)


def shrunk(image, long_side_px):
    """The image with a long side of at most `long_side_px`, by area averaging; never enlarged."""
    height, width = image.shape[:2]
    scale = long_side_px / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
