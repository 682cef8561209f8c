"""Fashion-MNIST (arXiv 1708.07747): 60,000 + 10,000 grey images of clothes, 28 x 28, ten classes.

Read from the four idx files in a folder, gzipped or not; Debian and Ubuntu package them. MNIST and its other look-alikes
come in the same files, so `folder` and `classes` read those as well. The idx format: two zero bytes, a type byte (8 for
8-bit), the number of axes, each axis as a big-endian 32-bit integer, then the values.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from amends.core.errors import UserError
from amends.core.spec import spec
from amends.core.types import Sample
from amends.data.arrays import bundle_of, rows_of_arrays
from amends.data.bundle import Bundle

DEBIAN = "/usr/share/datasets/fashion-mnist"
CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
PREFIXES = {"train": "train", "test": "t10k"}


@spec
class FashionMnist:
    """Fashion-MNIST's 70,000 images of clothes from a folder of idx files (Debian: `apt-get install dataset-fashion-mnist`)."""

    folder: str = DEBIAN
    """Folder with train-images-idx3-ubyte, train-labels-idx1-ubyte and the two t10k files, gzipped or not."""
    classes: tuple[str, ...] = CLOTHES
    """Names of the ten classes."""

    def load(self, seed: int) -> Bundle:
        """Roles train and test. Raises UserError with the command that installs the files."""
        return bundle_of(self._rows("train"), self._rows("test"), self.classes)

    def _rows(self, split: str) -> tuple[Sample, ...]:
        images, labels = (self._file(f"{PREFIXES[split]}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
        return rows_of_arrays(read_idx(images), read_idx(labels), split, str(images))

    def _file(self, name: str) -> Path:
        folder = Path(self.folder).expanduser()
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
        remedy = "apt-get install dataset-fashion-mnist" if self.folder == DEBIAN else "set data.folder to where they are"
        raise UserError(f"{folder}: holds no {name} (or {name}.gz): {remedy}")


def read_idx(path: Path) -> np.ndarray:
    """The array in an idx file of bytes; raises UserError for a file that is damaged or of another kind."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}): fetch it again") from None
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or len(raw) < 4 + 4 * raw[3]:
        raise UserError(f"{path}: is no idx file of 8-bit values (it begins with {raw[:4].hex()})")
    shape = struct.unpack(f">{raw[3]}I", raw[4 : 4 + 4 * raw[3]])
    values = np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * raw[3])
    if values.size != int(np.prod(shape, dtype=np.int64)):
        raise UserError(f"{path}: its head says {shape} and it holds {values.size} values: the file is cut short")
    return values.reshape(shape)
