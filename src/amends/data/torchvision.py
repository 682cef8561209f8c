"""Data sets that torchvision reads or fetches: CIFAR-10 and CIFAR-100, SVHN, MNIST and its look-alikes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Literal

from amends.core.errors import UserError
from amends.core.spec import spec
from amends.core.types import Sample
from amends.data.arrays import bundle_of, rows_of_arrays
from amends.data.bundle import Bundle


@spec
class Torchvision:
    """A data set that torchvision reads: CIFAR-10, CIFAR-100, SVHN, MNIST, Fashion-MNIST, KMNIST."""

    name: Literal["CIFAR10", "CIFAR100", "SVHN", "MNIST", "FashionMNIST", "KMNIST"] = "CIFAR10"
    """torchvision's name of it."""
    folder: str = "~/.cache/amends/torchvision"
    """Where its files lie or are put."""
    download: bool = True
    """Fetch the files where they are missing."""

    def load(self, seed: int) -> Bundle:
        """Roles train and test. Raises UserError where torchvision or the files are missing."""
        try:
            library = importlib.import_module("torchvision.datasets")
        except (ImportError, RuntimeError) as error:  # a build for another torch fails with a RuntimeError
            raise UserError(f"data sets of torchvision need it beside this torch ({error}): pip install torchvision") from None
        train, test = (self._open(library, training) for training in (True, False))
        names = tuple(map(str, getattr(train, "classes", ())))
        return bundle_of(self._rows(train, "train"), self._rows(test, "test"), names)

    def _open(self, library: Any, training: bool) -> Any:
        options = {"split": "train" if training else "test"} if self.name == "SVHN" else {"train": training}
        try:
            return getattr(library, self.name)(str(Path(self.folder).expanduser()), download=self.download, **options)
        except (RuntimeError, OSError) as error:
            first = str(error).strip().split("\n")[0]
            raise UserError(f"{self.name}: neither in {self.folder} nor to be fetched ({first}): set data.folder") from None

    def _rows(self, found: Any, split: str) -> tuple[Sample, ...]:
        labels = found.labels if hasattr(found, "labels") else found.targets
        return rows_of_arrays(found.data, labels, split, f"torchvision's {self.name}")
