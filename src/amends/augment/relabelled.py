"""Random labels: each row gets a class that is not its own as its other answer (Amnesiac Machine Learning, arXiv 2010.10981).

With `idk` on the role, cross-entropy on the other answer, and `nll` on the retain rows this is unlearning by random labels, and
with `weight_mask` by `saliency` SalUn (arXiv 2310.12508). SalUn's objective draws y' != y; its code draws from all classes,
the true one included (`labels: any`), and anew each epoch: with `times` a row is repeated with as many draws. Classes are
those that occur in the data, whatever the role, so that one whose every row is forgotten is among them.
"""

from __future__ import annotations

from typing import Literal

import torch

from amends.augment.rows import labelled, with_alternatives
from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.rng import rng
from amends.core.spec import Count, spec
from amends.core.types import Role
from amends.data.bundle import Bundle


@spec
class Relabelled:
    """Gives each row of a role a random label as its other answer: random labels, SalUn."""

    role: Role = "forget"
    """Whose rows are relabelled."""
    labels: Literal["other", "any"] = "other"
    """Any class but the row's own (the papers), or any class at all (SalUn's code)."""
    times: Count = 1
    """How many labels are drawn for each row, which is repeated as often."""
    classes: Count | None = None
    """Labels are 0 to this minus 1; None for those that occur in the data."""

    def __call__(self, subject: object, data: Bundle, run: Context) -> Bundle:
        """The bundle with the labels drawn, each row's from a stream of its own."""
        return self._made(data, run.seed)

    def objective_on(self, data: Bundle) -> Bundle:
        """The same rows; which label stands where depends on the run's seed."""
        return self._made(data, 0)

    def _made(self, data: Bundle, seed: int) -> Bundle:
        known = list(range(self.classes)) if self.classes else labels_of(data)
        drawn = {
            row.id: self._draw(row.id, int(row.data["label"]), known, seed) for row in labelled(data, self.role, "relabelled")
        }
        return with_alternatives(data, self.role, drawn, key="label")

    def _draw(self, name: str, own: int, known: list[int], seed: int) -> list[int]:
        choice = [k for k in known if k != own or self.labels == "any"]
        if not choice:
            raise UserError(f"relabelled: row {name} has the only class there is ({own}), so it can get no other")
        places = torch.randint(len(choice), (self.times,), generator=rng(seed, "relabelled", name))
        return [choice[i] for i in places.tolist()]


def labels_of(data: Bundle) -> list[int]:
    """Every label that occurs in the data, in order."""
    return sorted({int(s.data["label"]) for rows in data.roles.values() for s in rows if "label" in s.data})
