"""Small image data sets for the experiments: scikit-learn's 8×8 digits, or idx files such as MNIST's."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from layerscope.errors import MissingExtra, TargetNotFound, Unreadable

if TYPE_CHECKING:
    from layerscope.array_types import Array

UNSIGNED_BYTE = 8  # type code of bytes in an idx file
MAX_ENTRIES = 1 << 31  # most entries that an idx file may declare


class Images(NamedTuple):
    """Images (n, h, w) with values in [0, 1] and their labels, shuffled with a seed."""

    name: str
    x: Array  # (n, h, w) float32
    y: Array  # (n,) int64


def digits(seed: int = 0) -> Images:
    """Load scikit-learn's 1,797 handwritten digits of 8×8 pixels.

    :raises MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtra("the 8×8 digits", "experiments") from None
    dataset = load_digits()
    order = np.random.default_rng(seed).permutation(len(dataset.target))
    x = (dataset.images[order] / 16).astype(np.float32)
    return Images("8×8 digits", x, dataset.target[order].astype(np.int64))


def idx(folder: str | Path, *, split: str = "t10k", seed: int = 0, pool: int = 1) -> Images:
    """Load images and labels from a folder of idx files, gzipped or not, such as MNIST or Fashion-MNIST.

    :param split: "train" or "t10k", the first part of the file names.
    :param pool: side of the squares of pixels to average, in pixels; 2 turns 28×28 into 14×14.
    :raises TargetNotFound: the folder lacks the image or the label file.
    :raises Unreadable: a file is not in idx format, or images and labels differ in number.
    """
    x, y = (_read(Path(folder), f"{split}-{what}") for what in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    if x.ndim != 3 or y.ndim != 1 or len(x) != len(y):
        raise Unreadable(f"{folder}: images of shape {x.shape} do not match labels of shape {y.shape}")
    order = np.random.default_rng(seed).permutation(len(y))
    images = x[order].astype(np.float32) / 255
    if pool > 1:
        n, h, w = (images.shape[0], images.shape[1] // pool, images.shape[2] // pool)
        images = images[:, : h * pool, : w * pool].reshape(n, h, pool, w, pool).mean((2, 4))
    return Images(f"{Path(folder).name} {split}", images, y[order].astype(np.int64))


def _read(folder: Path, name: str) -> Array:
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if path is None:
        raise TargetNotFound(f"{folder}: found neither {name} nor {name}.gz")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            zero, kind, dimensions = struct.unpack(">HBB", file.read(4))
            shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
            if zero or kind != UNSIGNED_BYTE or math.prod(shape) > MAX_ENTRIES:
                raise Unreadable(f"{path}: not an idx file of unsigned bytes")
            raw = file.read(math.prod(shape) + 1)
    except (OSError, EOFError, struct.error) as error:
        raise Unreadable(f"{path}: {error}") from None
    if len(raw) != math.prod(shape):
        raise Unreadable(f"{path}: the data does not have the {math.prod(shape):,} bytes that shape {shape} needs")
    return np.frombuffer(raw, np.uint8).reshape(shape)
