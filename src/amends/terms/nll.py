"""Negative log-likelihood: ordinary training, and the retain half of every "+retain" method (GradDiff's descent)."""

from __future__ import annotations

from typing import ClassVar

from amends.core.protocols import Need, Per, View
from amends.core.spec import spec
from amends.core.types import Mean, Role


@spec
class NLL:
    """Cross-entropy on the rows of a role: keeps what they say."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    role: Role = "retain"
    """Which rows are learned or kept."""
    per: Per = "token"
    """`token`: mean over all supervised tokens of the batch (the papers); `row`: each row's own mean counts once."""

    def __call__(self, view: View) -> Mean:
        """sum_t -log p(y_t | x, y_<t), over tokens or over rows."""
        return Mean.average(view.policy.nll_B, view.policy.n_B, self.per)
