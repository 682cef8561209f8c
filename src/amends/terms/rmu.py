"""RMU, representation misdirection for unlearning (WMDP, arXiv 2403.03218, eq. 1), and its retain half's mean.

L = E_rows E_tokens ||h - c u||^2 / d, with h the activations behind block `layer` and u a fixed random unit vector: what
the later blocks read of a row that is to be forgotten becomes noise. The paper trains the MLP's down-projection of
blocks layer-2..layer alone (the edit `only_blocks`) and adds `embed_diff` on the retain rows.

What differs from released code, and why. u is Gaussian by default: the paper's has entries in [0, 1), so any two of
them have a cosine near 3/4 and "one direction a topic" is nearly one direction for all; `direction: orthant` gives it.
The paper's code averages over all positions of the batch, padding included; open-unlearning's over the labelled tokens
of each row, but its division broadcasts rows against rows, so that each row is divided by every row's length. Here each
row has the mean over its own tokens and counts once. `tokens: answer` takes the positions that PREDICT the answer;
open-unlearning takes those one to the right, the answer's own, where what the first word is told from is left as it was.

c is a length in the units of the model's own activations (6.5 for Zephyr at block 7, 20 and 100 elsewhere). With
`relative` it is a multiple of the start model's activation at each token, as in Adaptive RMU (arXiv 2408.06223).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from amends.core.protocols import Need, View
from amends.core.rng import rng
from amends.core.spec import Fraction, Natural, Positive, spec
from amends.core.types import Hidden, Mean, Role
from amends.subjects.distributions import precise, row_sums

Tokens = Literal["all", "answer"]


@spec
class RMU:
    """Steers activations of the rows towards a random direction (WMDP): obfuscates more than it erases."""

    role: Role = "forget"
    """Which rows are to go."""
    layer: int | Fraction = 0.25
    """The block behind which activations are steered: its index, or a share of the depth (7 of 32 in the paper)."""
    c: Positive = 6.5
    """How far to steer: the length of the target, in the model's own units."""
    relative: bool = False
    """Measure `c` in lengths of the start model's own activation at each token, which suits any model and block."""
    direction: Literal["gaussian", "orthant"] = "gaussian"
    """How the unit vector is drawn: in any direction, or with positive entries alone (the paper's)."""
    topic: str = "forget"
    """Names the direction: terms on several topics have one each."""
    seed: Natural = 0
    """Seed of the direction; it is the same in every run of a recipe."""
    tokens: Tokens = "all"
    """`all`: every token of a row (the paper); `answer`: the positions that predict its answer."""

    @property
    def needs(self) -> frozenset[Need]:  # type: ignore[override]
        """The start model only when `c` is measured by it."""
        return frozenset({Need.HIDDEN, Need.REFERENCE_HIDDEN} if self.relative else {Need.HIDDEN})

    @property
    def per(self) -> Literal["row"]:
        """Rows count once."""
        return "row"

    def __call__(self, view: View) -> Mean:
        """Mean squared distance to the target; 0 when every activation is c u."""
        hidden = view.hidden(self.layer)
        state_NC = precise(hidden.state_NC)
        target = self.c * unit(self.direction, state_NC.shape[1], self.seed, self.topic).to(state_NC)
        if self.relative:
            target = target * precise(view.reference_hidden(self.layer).state_NC).norm(dim=1, keepdim=True)
        return row_means((state_NC - target).square().mean(1), hidden, self.tokens, len(view.batch))


def unit(kind: Literal["gaussian", "orthant"], width: int, seed: int, topic: str) -> Tensor:
    """The unit vector [width] of a topic; a pure function of its arguments."""
    generator = rng(seed, "rmu", topic)
    raw = torch.randn(width, generator=generator) if kind == "gaussian" else torch.rand(width, generator=generator)
    return raw / raw.norm()


def row_means(values_N: Tensor, hidden: Hidden, tokens: Tokens, num_rows: int) -> Mean:
    """The mean over rows of each row's own mean over its positions, or over those that predict its answer."""
    chosen_N = hidden.answer_N if tokens == "answer" and hidden.answer_N is not None else torch.ones_like(hidden.row_N)
    chosen_N = chosen_N.to(values_N)
    total_B, count_B = (row_sums(v, hidden.row_N, num_rows) for v in (values_N * chosen_N, chosen_N))
    return Mean(total_B / count_B, torch.ones_like(count_B))
