"""How a model and the assistant that is subtracted from it make one prediction (ULD, arXiv 2406.08607, eq. 4).

A word v is plausible when log p_target(v) >= t, t = min(log p of the floor(rate V)-th best, max log p + log rate): the filter
of contrastive decoding, as DoLa has it (arXiv 2309.03883). With S the plausible words,

    p(v) = p_target(S) softmax_S(log p_target - w log p_assistant)(v)    inside S,        p(v) = p_target(v)    outside.

The most probable word always lies in S, as if the others had probability 0: the best of S has at least
p_target(S) / |S| >= exp(t), and every word outside has less. w = 0 is the target, whatever the rate.

What the released code does otherwise:

- it subtracts raw logits inside S, and outside leaves the target's logits (when scoring) or sets them to -1000 (when
  generating). Logits are defined up to a constant at each position, so how much probability S keeps when scoring depends
  on that constant. Here log-probabilities are subtracted, and S keeps the probability it had; `subtract="logits"` is the
  code's scoring. Inside S the two have the same proportions: they differ in how much S as a whole has;
- its `generate` takes the arg-max of scores times a 0/1 mask, where a filtered word wins whenever all scores are negative;
- setting words outside to 0 in scoring as well would make both agree, but one such word makes a whole answer impossible:
  truth ratios and forget quality, which read answers that nobody would give, then measure the filter alone. What is
  outside therefore keeps the target's own probability, which is small: below `rate` times the best word's.

The last two are done in neither form.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from amends.subjects.distributions import precise

Subtract = Literal["log_probs", "logits"]


def log_difference(
    target: Tensor, assistant: Tensor, weight: float, filter_rate: float, subtract: Subtract = "log_probs"
) -> Tensor:
    """log p of the combined model [..., V], from the logits of both.

    With `log_probs` adding a constant to either's logits changes nothing, and S keeps its probability; with `logits` a
    constant added to the assistant's moves probability into S or out of it.
    """
    log_t, log_a = (torch.log_softmax(precise(z), -1) for z in (target, assistant))
    inside = plausible(log_t.detach(), filter_rate)
    if subtract == "logits":
        return torch.log_softmax(torch.where(inside, log_t - weight * precise(assistant), log_t), -1)
    share = log_t.masked_fill(~inside, -math.inf).logsumexp(-1, keepdim=True)
    moved = torch.log_softmax((log_t - weight * log_a).masked_fill(~inside, -math.inf), -1) + share
    return torch.where(inside, moved, log_t)


def plausible(log_p: Tensor, rate: float) -> Tensor:
    """Which words the filter keeps, [..., V]: at least floor(rate V), and each within a factor `rate` of the best."""
    if rate == 0:
        return torch.ones_like(log_p, dtype=torch.bool)
    worst = log_p.topk(max(1, int(rate * log_p.shape[-1])), -1, sorted=False).values.amin(-1, keepdim=True)
    return log_p >= torch.minimum(worst, log_p.amax(-1, keepdim=True) + math.log(rate))
