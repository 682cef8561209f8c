"""Weight attribution for unlearning, WAGLE (arXiv 2410.17509).

A gate on every weight, e = 1 for all: forgetting at the upper level, f(e) = l_f(e * theta(e)), and at the lower level the
model refits what it retains, theta(e) = argmin l_r(e * theta). The score of weight i is df/de_i,

    S_i = [grad l_f]_i ( theta_i - [grad l_r]_i / gamma ),

with both gradients at the model as it is. theta * grad l_f is what closing the gate does by itself (SNIP's sensitivity);
the product of the two gradients is what the refit does to forgetting, with gamma * identity in the place of the retain
loss's Hessian. gamma -> infinity leaves SNIP. Weights with the largest |S| are trained, the others frozen.

The formula is printed here as the paper has it, and rests on more than gamma. Differentiating the stationarity condition
e * grad l_r(e * theta) = 0 exactly gives a cross term H diag(theta) + diag(grad l_r). Behind the inverse of the same H its
first half is theta itself and cancels the direct part, which would leave -grad l_r * H^-1 grad l_f alone. The paper's
form drops that half (curvature is neglected in the cross term) and keeps gamma in the inverse. So gamma is a setting to
search, not a curvature to estimate; and with gamma 1e-6, which the authors' configurations have, the second part outweighs
theta wherever |grad l_r| > 1e-8, so that weights are ranked by |grad l_f * grad l_r|.

Where the released code differs: it adds up gradients in the model's own precision (bfloat16), which loses what later
batches bring; here they are added up in float32. It adds batch means (`sums: sum`), which is the mean with gamma divided
by the number of batches. Its variant for gamma from the Fisher information resets the counter of batches inside the loop
over them, which gives the square of the sum; `gamma: fisher` is the mean of the squares.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor

from amends.attribution.gradients import On, Sums, gradients, halved, in_batches, mean_square, parts, rows_of
from amends.core.errors import UserError
from amends.core.protocols import Params, Start
from amends.core.spec import Count, Positive, spec
from amends.core.types import Role


@spec
class Wagle:
    """WAGLE: how much a weight matters for forgetting, given that the rest of the model goes on retaining."""

    forget: Role = "forget"
    """Which rows are to go."""
    retain: Role = "retain"
    """Which rows must stay."""
    on: On = "answer"
    """What the forget loss is the cross-entropy of: the answer, or the refusal (for preference optimisation)."""
    gamma: Positive | Literal["fisher"] = 1e-6
    """Stands for the retain loss's curvature: 1e-6 in the authors' configurations, 1e-6 to 1e-2 in searches."""
    sums: Sums = "mean"
    """Gradients of the mean over all rows, or the sum of the batches' means (released code)."""
    rows: Count | None = None
    """Rows of each role, spread evenly; None: all forget rows and as many retain rows, as the released code pairs them."""
    batch: Count = 8
    """Rows of which `sums: sum` and `gamma: fisher` take the mean."""
    micro: Count = 1
    """Rows of one forward: one takes the least memory, more are faster on a GPU; the scores are the same."""
    passes: Literal[1, 2] = 2
    """1 takes two thirds of the time and twice the model's memory; 2 rounds the finished forget gradient to 16 bits."""

    def scores(self, params: Params, start: Start) -> Iterator[tuple[str, Tensor]]:
        """|S| of each parameter, in float32. Raises UserError for missing rows, or a retain loss without gradient."""
        num = len(start.data[self.forget]) if self.rows is None else self.rows
        forget = in_batches(start, rows_of(start, self.forget, num, self.on), self.batch, "forget")
        retain = in_batches(start, rows_of(start, self.retain, num), self.batch, "retain")
        gamma = mean_square(start, retain, params) if self.gamma == "fisher" else self.gamma
        if gamma == 0:
            raise UserError(f"wagle: the loss of '{self.retain}' has no gradient, so the Fisher gamma is 0: give a number")
        for part in parts(params, self.passes):
            of_forget = gradients(start, forget, part, self.sums, self.micro)
            if self.passes > 1:  # one set of gradients at a time in 32 bits
                of_forget = halved(of_forget)
            of_retain = gradients(start, retain, part, self.sums, self.micro)
            for name, p in part.items():
                yield name, score(p.detach(), of_forget.pop(name), of_retain.pop(name), gamma)


def score(weight: Tensor, of_forget: Tensor, of_retain: Tensor, gamma: float) -> Tensor:
    """|S|, written over the gradient of the retain loss.

    >>> import torch
    >>> score(torch.tensor([3.0]), torch.tensor([2.0]), torch.tensor([1.0]), 0.5)
    tensor([2.])
    """
    return of_retain.div_(-gamma).add_(weight).mul_(of_forget).abs_()
