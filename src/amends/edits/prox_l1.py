"""l1-sparse unlearning (Model Sparsity Can Simplify Machine Unlearning, arXiv 2304.04934): fine-tuning that prunes as it goes.

theta_u = argmin L(theta; D_r) + gamma(t) ||theta||_1: `nll` on the retain rows with this edit. The strength falls to 0 over
the run (the best of the paper's three schedules), grows, or stays. `proximal` takes the l1 step after the optimiser's as a
soft threshold, theta <- sign(theta) max(|theta| - lr gamma, 0), which arrives at exact zeros and leaves momentum and
adaptive steps alone. `subgradient` adds gamma sign(theta) to the gradient, as the released code does by automatic
differentiation: weights then swing around 0 without reaching it, and an adaptive optimiser rescales the penalty.

The released code changes the strength once an epoch; here it changes each step, by t / T. Its penalty is over ALL
parameters, biases and norms included (`on: all`); `weights` takes matrices and kernels alone. Its command line's default
of 0.2 belongs to another method: useful strengths are about 1e-6 to 1e-3 for a ResNet-18.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softshrink

from amends.core.protocols import Params, Start, Step
from amends.core.spec import Fraction, NonNegative, spec
from amends.engine.parallel import local

Strength = Literal["decaying", "growing", "constant"]


def strength(schedule: Strength, step: Step, free: float) -> float:
    """The factor on the strength at a step; 0 in the last share `free` of the run.

    >>> [strength("decaying", Step(t, 4, 0.1), 0.0) for t in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    >>> [strength("growing", Step(t, 4, 0.1), 0.5) for t in range(4)]
    [0.0, 0.5, 0.0, 0.0]
    """
    last = round((1 - free) * step.of, 6)
    if step.number >= last:
        return 0.0
    return {"decaying": 1 - step.number / last, "growing": step.number / last, "constant": 1.0}[schedule]


@spec
class ProxL1:
    """Draws weights towards 0 by their size (l1-sparse): with retain descent, fine-tuning that forgets more."""

    gamma: NonNegative = 1e-4
    """The strength of the penalty at its peak."""
    schedule: Strength = "decaying"
    """How it changes: falls to 0 (the released code), grows from 0, or stays."""
    free: Fraction = 0.0
    """The last share of the steps without it: the released code's `no_l1_epochs`."""
    form: Literal["proximal", "subgradient"] = "proximal"
    """A soft threshold after the step, or gamma sign(theta) in the gradient (the released code)."""
    on: Literal["all", "weights"] = "all"
    """`all` parameters (the released code), or matrices and kernels alone, without biases and norms."""

    def init(self, params: Params, start: Start) -> None:
        """Keeps nothing."""

    @torch.no_grad()
    def grads(self, params: Params, state: None, step: Step) -> None:
        """Adds the subgradient, where that is the form."""
        gamma = self.gamma * strength(self.schedule, step, self.free)
        if self.form == "subgradient" and gamma:
            for p in self._chosen(params):
                if p.grad is not None:
                    local(p.grad).add_(local(p).sign(), alpha=gamma)

    @torch.no_grad()
    def weights(self, params: Params, state: None, step: Step) -> None:
        """Takes the soft threshold, where that is the form."""
        threshold = step.lr * self.gamma * strength(self.schedule, step, self.free)
        if self.form == "proximal" and threshold:
            for p in self._chosen(params):
                local(p).copy_(softshrink(local(p), threshold))

    def _chosen(self, params: Params) -> list[Tensor]:
        return [p for p in params.values() if self.on == "all" or p.ndim > 1]
