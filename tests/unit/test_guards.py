"""Guards, alone and in a fit, and updates that are not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from amends.core.context import Memory
from amends.core.spec import Weighted
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.engine import checkpoint
from amends.engine.fit import fit
from amends.engine.guards import Forgotten, Repetition, UtilityBudget, Verdict, every_kth, repeated
from amends.engine.optim import SGD, AdamW
from amends.engine.score import nll_by_id
from amends.subjects.classifier import Classifier
from amends.terms.ascent import Ascent
from amends.terms.nll import NLL

KEEP = Weighted(term=NLL())
PUSH = Weighted(term=Ascent())


# ---------------------------------------------------------------------- guards on a given probe


class Given:
    """A model whose probabilities and answers are simply given."""

    def __init__(self, probability: float = 0.0, answers: Sequence[str] = ()) -> None:
        self.p, self.texts = probability, list(answers)

    def probability(self, role: str, rows: int) -> float:
        return self.p

    def answers(self, role: str, rows: int) -> list[str]:
        return self.texts


def test_the_budget_is_a_share_of_the_start() -> None:
    guard, memory = UtilityBudget(drop=0.25), {}
    assert guard.look(0, Given(0.8), memory) == Verdict(None, keep=True)
    assert guard.look(5, Given(0.61), memory) == Verdict(None, keep=True)
    verdict = guard.look(10, Given(0.59), memory)
    assert not verdict.keep
    assert verdict.stop == "utility budget spent: retain probability 0.590 at step 10, 0.800 at the start, budget 25%"


def test_forgotten_stops_at_the_goal_and_keeps_it() -> None:
    guard = Forgotten(probability=0.1)
    assert guard.look(5, Given(0.11), {}) == Verdict()
    assert guard.look(10, Given(0.1), {}) == Verdict("goal reached: forget probability 0.100 at step 10", keep=True)


LOOP = "the cat sat on the cat sat on the cat sat on the cat sat on"
PROSE = "one two three four five six seven eight nine ten"


def test_repetition_by_hand() -> None:
    assert repeated(PROSE) == 0
    assert repeated("yes yes yes") == 0, "too short to tell"
    assert repeated(" ".join("ab" * 6)) == pytest.approx(1 - 2 / 10)
    assert repeated(LOOP) == pytest.approx(1 - 4 / 14)


def test_repetition_stops_for_a_loop_that_was_not_there_at_the_start() -> None:
    guard, memory = Repetition(share=0.5), {}
    assert guard.look(0, Given(answers=[PROSE]), memory).stop is None
    verdict = guard.look(10, Given(answers=[PROSE, LOOP]), memory)
    assert verdict.stop == "collapse: 71% of the 3-grams of an answer to 'retain' repeat at step 10"
    looped_from_the_start: dict[str, Any] = {}
    assert guard.look(0, Given(answers=[LOOP]), looped_from_the_start).stop is None
    assert guard.look(10, Given(answers=[LOOP]), looped_from_the_start).stop is None
    assert guard.look(10, Given(answers=[]), {}).stop is None


def test_probes_are_spread_over_the_whole_role() -> None:
    rows = [Sample(str(i), {}) for i in range(63)]
    chosen = [int(s.id) for s in every_kth(rows, 32)]
    assert len(chosen) == 32 and chosen[0] == 0 and chosen[-1] >= 60
    assert {b - a for a, b in pairwise(chosen)} == {1, 2}
    assert every_kth(rows[:5], 32) == rows[:5]


# ---------------------------------------------------------------------- guards in a fit


def test_a_spent_budget_stops_the_fit_and_names_step_and_cause(lm_world: Any) -> None:
    subject, run = lm_world.make(), Memory()
    start = probability(subject, lm_world.data["retain"])
    guards = [UtilityBudget(drop=0.2, every=1)]
    outcome = fit(
        subject, [Weighted(term=Ascent(role="retain"))], lm_world.data, steps=50, optim=AdamW(lr=3e-3), guards=guards, run=run
    )
    assert outcome.stopped is not None and 1 < outcome.steps < 50
    assert f"at step {outcome.steps}" in outcome.stopped and run.said[-2] == outcome.stopped
    assert run.said[-1] == f"kept the weights of step {outcome.steps - 1}"
    assert probability(subject, lm_world.data["retain"]) >= 0.8 * start


def probability(subject: Any, rows: Sequence[Sample]) -> float:
    scored = nll_by_id(subject, rows).values()
    return sum(math.exp(-nll / n) for nll, n in scored) / len(scored)


def test_a_goal_stops_the_fit_and_keeps_the_weights_that_reached_it(lm_world: Any) -> None:
    subject = lm_world.make()
    goal = 0.5 * probability(subject, lm_world.data["forget"])
    guards = [Forgotten(probability=goal, every=1)]
    outcome = fit(subject, [PUSH], lm_world.data, steps=80, optim=AdamW(lr=3e-3), guards=guards, run=Memory())
    assert outcome.stopped is not None and "goal reached" in outcome.stopped and outcome.steps < 80
    assert probability(subject, lm_world.data["forget"]) <= goal


@pytest.mark.parametrize("budget_first", [True, False])
def test_a_goal_reached_by_breaking_the_budget_is_not_kept(lm_world: Any, budget_first: bool) -> None:
    subject, run = lm_world.make(), Memory()
    before = [p.detach().clone() for p in subject.module.parameters()]
    goal = 0.8 * probability(subject, lm_world.data["forget"])
    guards = [UtilityBudget(drop=0.2, every=30), Forgotten(probability=goal, every=30)]  # both look at the start and the end
    outcome = fit(
        subject, [PUSH, Weighted(term=Ascent(role="retain"))], lm_world.data, steps=30, optim=AdamW(lr=3e-3),
        guards=guards if budget_first else guards[::-1], run=run,
    )  # fmt: skip
    assert probability(subject, lm_world.data["forget"]) > goal, "the start again"
    assert outcome.stopped is not None and "budget spent" in outcome.stopped and outcome.steps == 30
    assert run.said[-1] == "kept the weights of step 0"
    assert all(torch.equal(p, q) for p, q in zip(subject.module.parameters(), before, strict=True))


def test_best_weights_of_an_earlier_run_are_not_taken_for_this_ones(classifier_world: Any, tmp_path: Path) -> None:
    stale = {f"w|{n}": torch.zeros_like(p) for n, p in classifier_world.make().module.named_parameters()}
    checkpoint.save(tmp_path / "best.safetensors", stale, step=77)
    run = Memory(folder=tmp_path)
    fit(broken(), [KEEP], classifier_world.data, steps=3, optim=SGD(lr=1.0), guards=[Forgotten(probability=0.0)], run=run)
    assert not any("step 77" in text for text in run.said)


def test_looping_answers_stop_a_fit(lm_world: Any) -> None:
    """A model taught nothing but one word answers with nothing but that word."""
    rows = [
        Sample(f"r{i}", {"question": s.data["question"], "answer": "red " * 30})
        for i, s in enumerate(lm_world.data["retain"][:4])
    ]
    subject, run = lm_world.make(), Memory()
    data = Bundle({"retain": tuple(rows)})
    outcome = fit(subject, [KEEP], data, steps=60, optim=AdamW(lr=1e-2), guards=[Repetition(every=20, share=0.6)], run=run)
    assert outcome.stopped is not None and outcome.stopped.startswith("collapse:") and outcome.steps in (20, 40, 60)


# ---------------------------------------------------------------------- not a number


def broken(at: float = math.nan) -> Classifier:
    """A classifier whose output becomes `at` after the third forward pass."""

    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.calls = nn.Parameter(torch.ones(1, 4)), 0

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            self.calls += self.training
            value = image.flatten(1)[:, :4] * self.scale
            return value * at if self.calls > 2 else value

    return Classifier(Breaks().eval())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_update_that_is_not_finite_is_never_applied(classifier_world: Any, value: float) -> None:
    subject, run = broken(value), Memory()
    outcome = fit(subject, [KEEP], classifier_world.data, steps=10, optim=AdamW(lr=1e-2, weight_decay=0.1), batch=12, run=run)
    assert outcome.steps == 2 and len(run.logged) == 2
    assert (
        outcome.stopped is not None and outcome.stopped.startswith("diverged: ") and "not finite at step 2" in outcome.stopped
    )
    assert "0.nll.retain" in outcome.stopped and "lr" in outcome.stopped
    reference = broken(1.0)
    fit(reference, [KEEP], classifier_world.data, steps=2, optim=AdamW(lr=1e-2, weight_decay=0.1), batch=12, run=Memory())
    assert torch.equal(subject.module.scale, reference.module.scale)
