"""Gradient ascent on the forget rows: the field's baseline, and its negative control.

GA as in TOFU (arXiv 2401.06121) and MUSE (arXiv 2407.06460): minus the token-mean cross-entropy. It has no floor, so
it collapses the model within a few epochs. The optional cap (not in the papers) stops pushing a row once its own mean
cross-entropy passes it, which makes a usable baseline; the uniform distribution over V words has ln V (10.8 for 49,152).
"""

from __future__ import annotations

from typing import ClassVar

import torch

from amends.core.protocols import Need, Per, View
from amends.core.spec import Positive, spec
from amends.core.types import Mean, Role


@spec
class Ascent:
    """Gradient ascent (GA): makes the rows less likely without limit; collapses the model."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    role: Role = "forget"
    """Which rows are to go."""
    per: Per = "token"
    """`token`: mean over the batch's tokens, so long answers weigh more (the papers); `row`: length-normalised."""
    cap: Positive | None = None
    """Nats a token: rows above it are left alone. None: no cap (the papers)."""

    def __call__(self, view: View) -> Mean:
        """-CE, for the rows that are still below the cap."""
        nll_B, n_B = view.policy.nll_B, view.policy.n_B
        if self.cap is not None:
            nll_B = torch.where(nll_B.detach() / n_B < self.cap, nll_B, 0.0)
        return Mean.average(-nll_B, n_B, self.per)
