"""SalUn-soft (arXiv 2310.12508, its released `RL_proximal`): a mask that moves with training instead of one made before it.

After each step theta - theta_o is shrunk towards 0 by a soft threshold, chosen so that a share of the weights comes back to
exactly where it started: the share falls linearly from `share` to 0 over the run. With `relabelled` rows and `nll` on the
retain rows this is SalUn-soft; `weight_mask` by `saliency` is the hard one.

The released code takes theta_o anew at the beginning of each epoch, so its weights creep away from the original in every
epoch, and its share falls once an epoch, not once a step (a counter that is never used); here theta_o is the start model
throughout. It sorts all weights; here the threshold comes from a histogram (`edits/quantile.py`), off by 0.4 per cent.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softshrink

from amends.core.errors import UserError
from amends.core.protocols import Params, Start, Step
from amends.core.spec import Fraction, spec
from amends.edits import quantile
from amends.edits.prox_l1 import Strength, strength
from amends.engine.fit import is_lora
from amends.engine.parallel import local, total


@spec
class SoftMask:
    """Draws weights back to where they started, a share of them all the way (SalUn-soft)."""

    share: Fraction = 0.5
    """The share of the weights that each step puts back exactly, at its peak."""
    schedule: Strength = "decaying"
    """How the share changes over the run: falls to 0 (the released code), grows from 0, or stays."""

    def init(self, params: Params, start: Start) -> dict[str, Tensor]:
        """Keeps a copy of the start; raises UserError for an adapter."""
        if is_lora(start.subject):
            raise UserError("soft_mask: what an adapter changes has no start of its own to go back to: leave `lora` out")
        return {name: p.detach().clone() for name, p in params.items() if p.requires_grad}

    def grads(self, params: Params, state: dict[str, Tensor], step: Step) -> dict[str, Tensor]:
        """Leaves the gradients alone."""
        return state

    @torch.no_grad()
    def weights(self, params: Params, state: dict[str, Tensor], step: Step) -> dict[str, Tensor]:
        """Shrinks what has moved."""
        share = self.share * strength(self.schedule, step, 0.0)
        if not share:
            return state
        moved = {name: local(p) - local(state[name]) for name, p in params.items() if name in state}
        threshold = cut_at(moved, share)
        for name, change in moved.items():
            local(params[name]).copy_(local(state[name]) + softshrink(change, threshold))
        return state


def cut_at(moved: dict[str, Tensor], share: float) -> float:
    """The least size that `share` of all changes do not pass, or one up to 0.4 per cent above it."""
    device = next(iter(moved.values())).device
    counts = sum((quantile.tally(quantile.pack(m)) for m in moved.values()), torch.zeros(quantile.CODES, dtype=torch.int64))
    seen = total(counts.to(device)).cumsum(0).cpu()
    return quantile.largest(int(torch.searchsorted(seen, math.ceil(share * int(seen[-1])))))
