"""Staying where the start model is, inside: RMU's retain half (WMDP, arXiv 2403.03218).

L = E_rows E_tokens ||h - h_ref||^2 / d behind block `layer`. At the start it is 0 with zero gradient. Each row's tokens
are averaged first and padding never counts; the paper's code averages over all positions of the batch. Its weight
depends on the model's scale: 1200 for Zephyr, 1 in open-unlearning.
"""

from __future__ import annotations

from typing import ClassVar

from amends.core.protocols import Need, View
from amends.core.spec import Fraction, spec
from amends.core.types import Mean, Role
from amends.subjects.distributions import precise
from amends.terms.rmu import Tokens, row_means


@spec
class EmbedDiff:
    """Keeps activations where the start model has them, at one block: the retain half of RMU."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.HIDDEN, Need.REFERENCE_HIDDEN})
    per: ClassVar = "row"
    role: Role = "retain"
    """Where the model must stay what it was."""
    layer: int | Fraction = 0.25
    """The block: its index, or a share of the depth; that of the `rmu` term."""
    tokens: Tokens = "all"
    """`all`: every token of a row (the paper); `answer`: the positions that predict its answer."""

    def __call__(self, view: View) -> Mean:
        """Mean squared distance to the start model's activations."""
        hidden, start = view.hidden(self.layer), view.reference_hidden(self.layer)
        values_N = (precise(hidden.state_NC) - precise(start.state_NC)).square().mean(1)
        return row_means(values_N, hidden, self.tokens, len(view.batch))
