"""UGradSL, ascent with negative label smoothing (Label Smoothing Improves Machine Unlearning, arXiv 2406.07698).

Generalised label smoothing over K classes, y^alpha = (1 - alpha) y + (alpha / K) 1, and the forget half of the loss is

    L = -CE(y^alpha, p) = -(1 - alpha) l_y - (alpha / K) sum_k l_k,    l_k = -log p_k.

With alpha = -a < 0 this is -[1 + a (K - 1) / K] l_y + (a / K) sum_{k != y} l_k: ascent on the true class and descent on every
other one, which draws the prediction towards "any of the others" instead of anywhere. alpha = 0 is `ascent`.

The paper's mixing ratio p is the weights of two terms, p `nll` on retain and 1 - p `ugradsl` on forget. UGradSL counts
epochs by the forget rows and UGradSL+ by the retain rows; `epochs` counts by the first term, so they differ in which one
stands first. Both roles have as many rows a step, so sums in place of means would only rescale the learning rate.

With `threshold` the rate is adaptive: row j gets alpha_j = -c_j / n with c_j how many of the step's n retain rows lie closer
to it than the threshold, in the model as it is, in evaluation mode. The paper leaves open how distance is measured
(`distance`), says that a row in a dense retain neighbourhood needs LESS effort while its formula gives it more (`invert`),
and divides by the number of forget rows (`divide`). The loss has no floor: `cap` stops pushing a row once its own
cross-entropy passes it, and the edit `clip` bounds the step; the paper describes neither. There was no released code to
compare with.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from amends.core.protocols import Need, Per, View
from amends.core.spec import Fraction, Positive, spec
from amends.core.types import Mean, Role
from amends.subjects.distributions import classes, precise, row_sums


@spec
class UGradSL:
    """Ascent with negative label smoothing: away from the true class, towards every other one."""

    role: Role = "forget"
    """Which rows are to go."""
    alpha: Annotated[float, Field(lt=1, allow_inf_nan=False)] = -0.2
    """The smoothing rate; negative in the paper, 0 is ascent, positive is ascent on ordinarily smoothed labels."""
    threshold: Fraction | None = None
    """The paper's beta: adaptive rates from how many retain rows lie closer than this; None for the fixed `alpha`."""
    near: Role = "retain"
    """The rows whose distance counts."""
    distance: Literal["softmax", "features"] = "softmax"
    """Half of 1 minus the cosine of two predictions, or of two activations behind block `layer`."""
    layer: int | Fraction = -2
    """The block for `distance: features`; -2 is what a classifier's last layer reads, before any pooling."""
    divide: Literal["forget", "near"] = "forget"
    """Whether counts are divided by the step's forget rows (the paper), or by the rows that are counted."""
    sign: Literal["negative", "positive"] = "negative"
    """The sign of adaptive rates: the paper's text has them negative."""
    invert: bool = False
    """Take 1 minus the share, so that a row with many retain rows close by gets the LOWER rate, as the text has it."""
    cap: Positive | None = None
    """Nats: rows whose own cross-entropy is above it are left alone. None: no cap."""
    per: Per = "token"
    """`token`: mean over all likelihood terms (a class is one); `row`: length-normalised."""

    @property
    def needs(self) -> frozenset[Need]:  # type: ignore[override]
        """Classes; the rows beside it, and activations, only for adaptive rates."""
        adaptive = {Need.BESIDE} if self.threshold is not None else set()
        return frozenset({Need.CLASSES} | adaptive)

    @property
    def beside(self) -> tuple[Role, ...]:
        """The roles that adaptive rates look at."""
        return (self.role, self.near)

    def __call__(self, view: View) -> Mean:
        """-CE of the smoothed label at each term."""
        dist, n_B = classes(view.policy), view.policy.n_B
        true_N = dist.nll()
        all_N = dist.logits_NV.logsumexp(1) - dist.logits_NV.mean(1)  # (1/K) sum_k l_k
        alpha_N = self.rates(view)[dist.row_N] if self.threshold is not None else self.alpha
        loss_B = row_sums((1 - alpha_N) * true_N + alpha_N * all_N, dist.row_N, len(n_B))
        if self.cap is not None:
            loss_B = torch.where(view.policy.nll_B.detach() / n_B < self.cap, loss_B, 0.0)
        return Mean.average(-loss_B, n_B, self.per)

    def rates(self, view: View) -> Tensor:
        """[B] the adaptive rate of each row; at most a little below 1 when positive, so that labels stay in order."""
        assert self.threshold is not None
        own, near = view.beside(self.role), view.beside(self.near)
        place = {name: i for i, name in enumerate(own.batch.ids)}
        mine_BC = self._place(own)[[place[name] for name in view.batch.ids]]
        close_B = (apart(mine_BC, self._place(near)) < self.threshold).sum(1)
        share_B = (close_B / len(own.batch if self.divide == "forget" else near.batch)).clamp(max=1)
        share_B = 1 - share_B if self.invert else share_B
        return -share_B if self.sign == "negative" else share_B.clamp(max=0.99)

    def _place(self, view: View) -> Tensor:
        """Where each row lies: its mean prediction, or its mean activation."""
        if self.distance == "softmax":
            dist = classes(view.policy)
            values_NC, row_N = dist.logits_NV.softmax(1), dist.row_N
        else:
            hidden = view.hidden(self.layer)
            values_NC, row_N = precise(hidden.state_NC), hidden.row_N
        sums_BC = values_NC.new_zeros(len(view.batch), values_NC.shape[1]).index_add(0, row_N, values_NC)
        return sums_BC / torch.bincount(row_N, minlength=len(view.batch))[:, None]


def apart(a_BC: Tensor, b_MC: Tensor) -> Tensor:
    """(1 - cosine) / 2 of every pair, [B, M]: 0 for one direction, 1/2 at a right angle, 1 for opposite ones.

    >>> apart(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])).tolist()
    [[0.0, 0.5, 1.0]]
    """
    a, b = (torch.nn.functional.normalize(x, dim=1) for x in (a_BC, b_MC))
    return (1 - a @ b.T) / 2
