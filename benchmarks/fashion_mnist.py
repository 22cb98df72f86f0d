"""Fashion-MNIST (arXiv 1708.07747) from Debian's package, checked by hash.

Numpy alone: some arms of the benchmarks run in interpreters without JAX.
"""

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np


FOLDER = "/usr/share/datasets/fashion-mnist"
TRAIN = {
    "train-images-idx3-ubyte": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    ),
    "train-labels-idx1-ubyte": (
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
    ),
}
TEST = {
    "t10k-images-idx3-ubyte": (
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
    ),
    "t10k-labels-idx1-ubyte": (
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
    ),
}


def fashion_mnist(test: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """60,000 images, or 10,000 to `test`, as rows of 784 numbers in [0, 1]; labels.

    From Debian's package `dataset-fashion-mnist`; the environment variable
    `FASHION_MNIST` names another folder with its files (`dpkg-deb -x` needs no root).

    **Raises:** `FileNotFoundError` without them, `ValueError` if they are others.
    """
    images, labels = (_idx(*file) for file in (TEST if test else TRAIN).items())
    x = images.reshape(len(images), -1).astype(np.float32) / 255
    return x, labels.astype(np.int32)


def _idx(name: str, sha256: str) -> np.ndarray:
    folder = Path(os.environ.get("FASHION_MNIST", FOLDER))
    path = folder / f"{name}.gz"
    if not path.exists():
        raise FileNotFoundError(
            f"{path}; install Debian's dataset-fashion-mnist, or unpack it and let "
            "FASHION_MNIST name the folder"
        )
    data = gzip.decompress(path.read_bytes())
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(
            f"{path} isn't the file of Debian's package (its hash differs)"
        )
    rank = data[3]
    shape = np.frombuffer(data, ">i4", rank, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
