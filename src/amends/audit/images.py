"""What auditors of images share: the checks before any work, and the rules by which the lowest values are flagged.

Several detectors of backdoors give one number a row that is small where a trigger is at work (an entropy, a mask's size, a
consistency). Rows that are known to be clean say how small is too small; where there are none, a declared share is flagged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from amends.audit.rows import check_classifier
from amends.core.errors import UserError
from amends.core.types import Batch, Role, Sample
from amends.data.bundle import Bundle
from amends.engine import score
from amends.subjects.distributions import classes

Precision = Literal["fp32", "bf16"]
"""In what a model's forward is computed; its weights stay as they are."""
FEWEST_CLEAN = 2
"""Clean rows below which there is no deviation to speak of."""
CPU_SIZE = 128
"""What images of one forward may cost on a processor, as rows count it: 32 of 32 x 32, more of which leave its caches."""


def check_images(data: Bundle, role: Role, subject: Any | None, use: str, why: str) -> None:
    """Raises UserError unless the rows are images with classes, and the model, where there is one yet, tells classes."""
    check_classifier(data, role, subject, use)
    check_pictures(data, role, use, why)


def check_clean(data: Bundle, clean: Role | None, role: Role, use: str, why: str) -> None:
    """Raises UserError for a role of clean rows that is missing, too small, without images or audited itself."""
    if clean is None:
        return
    if len(data[clean]) < FEWEST_CLEAN:
        raise UserError(f"{use}: clean: role '{clean}' has {len(data[clean])} row(s), and what is normal is told by at least "
                        f"{FEWEST_CLEAN}: name a role of rows that are known to be clean, or leave `clean` out")  # fmt: skip
    audited = {row.id for row in data[role]}
    shared = next((row.id for row in data[clean] if row.id in audited), None)
    if shared is not None:
        raise UserError(f"{use}: clean: row {shared} of '{clean}' stands in '{role}', which is audited: name another role")
    check_pictures(data, clean, use, why)


def check_pictures(data: Bundle, role: Role, use: str, why: str) -> None:
    """Raises UserError for a role without rows, or with a row that is no image; `why` says what images are needed for."""
    if not data[role]:
        raise UserError(f"{use}: role '{role}' is empty: there is nothing to audit")
    odd = next((row for row in data[role] if "image" not in row.data), None)
    if odd is not None:
        raise UserError(f"{use}: row {odd.id} of '{role}' has no image: {why}")


def lowest(value: Mapping[str, float], share: float) -> frozenset[str]:
    """The ids of this share of the lowest values, rounded; equal ones in the order of their ids.

    >>> sorted(lowest({"a": 0.9, "b": 0.1, "c": 0.1, "d": 0.5}, 0.25))
    ['b']
    """
    return frozenset(sorted(value, key=lambda row: (value[row], row))[: round(share * len(value))])


def below(clean: Sequence[float], deviations: float) -> float:
    """The mean of the clean rows' values minus so many of their deviations (of a sample: divided by n - 1).

    >>> round(below([1.0, 2.0, 3.0], 2.0), 6)
    0.0
    """
    return float(np.mean(clean) - deviations * np.std(clean, ddof=1))


def images_in_batches(subject: Any, rows: Sequence[Sample], copies: int) -> Iterator[Batch]:
    """The rows in batches that may go through the model so many times over at once, in evaluation mode, on its device."""
    device = device_of(subject)
    most = min(score.CPU_TOKENS, CPU_SIZE) if device.type == "cpu" else None
    return score.batches(subject, rows, device=device, most=most, copies=copies)


def logits_of(subject: Any, images: Tensor, precision: Precision = "fp32") -> Tensor:
    """[N, K] what the model makes of images in 0..1 that stand in no row.

    `bf16` runs it under autocast with the channels as the last dimension in memory, as the fast kernels want both. Raises
    UserError for a model that takes its feature maps apart by `view`, which knows one order in memory only.
    """
    n, fast = len(images), precision == "bf16"
    images = images.contiguous(memory_format=torch.channels_last) if fast else images
    batch = Batch(("",) * n, {"image": images, "label": torch.zeros(n, dtype=torch.long, device=images.device)})
    try:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=fast):
            return classes(subject.likelihood(batch)).logits_NV
    except RuntimeError as error:
        if not fast or "view size is not compatible" not in str(error):
            raise
        raise UserError("precision: bf16 lays images out with the channels last, which this model's own `view` cannot read: "
                        "use fp32, or `reshape` in the model") from error  # fmt: skip


def device_of(subject: Any) -> torch.device:
    """Where the model's weights lie."""
    return next(subject.module.parameters()).device
