"""Guards look at the model every few steps and may stop a fit, with the step and the cause, and keep the best weights.

What a guard remembers is a plain dict that goes into the checkpoint, so a resumed run stops where the
uninterrupted one would have. Not-a-number is watched by the loop itself: an update that is not finite is never applied.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch

from amends.core.spec import Count, Fraction, spec
from amends.core.types import Role, Sample


class Verdict(NamedTuple):
    """What a guard concludes: stop with this reason, and whether the weights are worth keeping."""

    stop: str | None = None
    keep: bool = False


class Probe(Protocol):
    """What a guard may ask of the model in training."""

    def probability(self, role: Role, rows: int) -> float: ...
    def answers(self, role: Role, rows: int) -> Sequence[str]: ...


class Guard(Protocol):
    """Looks every `every` steps; `memory` is its own and survives a resume, at which a method `resumed(memory)` is given it."""

    @property
    def every(self) -> int: ...
    def look(self, step: int, probe: Probe, memory: dict[str, Any]) -> Verdict: ...


@spec
class UtilityBudget:
    """Stops when the model's probability of the retain answers has lost more than its budget, and keeps the best weights.

    Utility is the mean of p(answer)^(1/n) over some rows of `role`. Weights are kept at each look within the budget,
    so the result of a stopped run is the last one that honoured it.
    """

    role: Role = "retain"
    """Whose answers must survive; a role that is not trained on is the honest choice."""
    drop: Fraction = 0.1
    """The share of the start's utility that may be lost."""
    every: Count = 5
    """Steps between two looks."""
    rows: Count = 32
    """How many rows are looked at."""

    def look(self, step: int, probe: Probe, memory: dict[str, Any]) -> Verdict:
        """Compares with the start."""
        now = probe.probability(self.role, self.rows)
        start = memory.setdefault("start", now)
        if now >= (1 - self.drop) * start:
            return Verdict(keep=True)
        return Verdict(
            f"utility budget spent: {self.role} probability {now:.3f} at step {step}, {start:.3f} at the start, "
            f"budget {self.drop:.0%}"
        )


@spec
class Forgotten:
    """Stops as soon as the forget answers are improbable enough: every further step only costs locality."""

    role: Role = "forget"
    """Whose answers are to go."""
    probability: Fraction = 0.1
    """Stop at or below this mean p(answer)^(1/n)."""
    every: Count = 5
    """Steps between two looks."""
    rows: Count = 32
    """How many rows are looked at."""

    def look(self, step: int, probe: Probe, memory: dict[str, Any]) -> Verdict:
        """Compares with the goal."""
        now = probe.probability(self.role, self.rows)
        if now <= self.probability:
            return Verdict(f"goal reached: {self.role} probability {now:.3f} at step {step}", keep=True)
        return Verdict()


@spec
class Repetition:
    """Stops when greedy answers fall into loops, the usual face of a collapse."""

    role: Role = "retain"
    """Whose questions are asked."""
    share: Fraction = 0.5
    """The share of repeated 3-grams that counts as collapse, where the start was below it."""
    every: Count = 10
    """Steps between two looks."""
    rows: Count = 4
    """How many questions are asked."""

    def look(self, step: int, probe: Probe, memory: dict[str, Any]) -> Verdict:
        """Generates and counts."""
        now = max((repeated(text) for text in probe.answers(self.role, self.rows)), default=0.0)
        start = memory.setdefault("start", now)
        if now > self.share >= start:
            return Verdict(f"collapse: {now:.0%} of the 3-grams of an answer to '{self.role}' repeat at step {step}")
        return Verdict()


def repeated(text: str) -> float:
    """The share of a text's 3-grams that occurred before in it; 0 for fewer than eight words.

    >>> repeated("a b c a b c a b c a b c") > 0.5
    True
    """
    words = text.split()
    if len(words) < 8:
        return 0.0
    grams = Counter(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(grams) / sum(grams.values())


def bf16_share_moving(weights: torch.Tensor, lr: float) -> float:
    """The share of bf16 weights that change at all when a step of size `lr` is added to them.

    At |w| = 0.02 two neighbouring bf16 numbers are 1.2e-4 apart, so most of Adam's early steps at 1e-5 round to nothing.
    """
    flat = weights.detach().reshape(-1)[:1_000_000]
    moved = (flat.float() + lr).to(torch.bfloat16) != flat.to(torch.bfloat16)
    return float(moved.float().mean()) if flat.numel() else math.nan


def every_kth(samples: Sequence[Sample], rows: int) -> list[Sample]:
    """`rows` rows spread evenly over a role: always the same ones."""
    num = min(rows, len(samples))
    return [samples[i * len(samples) // num] for i in range(num)]
