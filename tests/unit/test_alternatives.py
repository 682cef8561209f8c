"""Rows whose every term looks at the alternative alone: their own answers are not run, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.protocols import Need
from amends.core.spec import Weighted
from amends.engine.fit import fit
from amends.engine.loader import Loader
from amends.engine.optim import SGD
from amends.engine.view import RoleView
from amends.runs.about import cost
from amends.subjects.image_classifier import ImageClassifier
from amends.terms.ascent import Ascent
from amends.terms.constraint import Constraint
from amends.terms.dpo import DPO
from amends.terms.idk import Idk
from amends.terms.nll import NLL

LR = 0.1
ALONE = [Weighted(term=Idk()), Weighted(term=NLL())]
BOTH = [*ALONE, Weighted(term=Ascent(), weight=0.0)]
"""The same objective with a term that asks for the rows' own answers and pulls at nothing."""


def one_step(subject: Any, data: Any, objective: list[Weighted], micro: int | None = None) -> tuple[dict[str, Any], list[int]]:
    """The gradient of a step, and how many rows each forward had."""
    before = {n: p.detach().clone() for n, p in subject.module.named_parameters()}
    sizes: list[int] = []
    subject.call.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    fit(subject, objective, data, steps=1, optim=SGD(lr=LR), batch=6, micro=micro, run=Memory())
    return {n: (before[n] - p.detach()) / LR for n, p in subject.module.named_parameters()}, sizes


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for name, g in one.items():
        torch.testing.assert_close(g, other[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("micro", [None, 2])
def test_the_gradient_is_the_one_of_both_halves(world: Any, micro: int | None) -> None:
    alone, fewer = one_step(world.make(), world.data, ALONE, micro)
    both, more = one_step(world.make(), world.data, BOTH, micro)
    same(alone, both)
    if world.kind != "causal_lm":  # which runs a batch's common beginning apart
        assert sum(more) == 1.5 * sum(fewer), "a third of the rows were the forget rows' own answers"


def test_with_batch_statistics_and_drawn_augmentation_it_is_the_same_too(classifier_world: Any) -> None:
    """A row and its alternative are one image, flipped and shifted alike, so the batch's mean and variance are the same."""
    model = ImageClassifier(net="conv", width=4, augment={"crop": 1})  # type: ignore[arg-type]
    data = classifier_world.data
    alone, _ = one_step(model.load(data, 0), data, ALONE)
    both, _ = one_step(model.load(data, 0), data, BOTH)
    same(alone, both)
    assert any(g.abs().max() > 1e-3 for g in alone.values())


def test_a_term_on_both_answers_still_has_both(world: Any) -> None:
    """`dpo` beside `idk`, and `idk` inside a wrapper, which passes on what it needs."""
    rows, others = world.data["forget"], world.data.alternatives
    view = RoleView(world.make(), Loader(world.make(), "forget", rows, others, rows=6, seed=0).at(0)[0].batch, 6, None)
    assert len(view.policy.nll_B) == len(view.alternative.policy.nll_B) == 6
    assert Need.ALTERNATIVE_ONLY not in DPO().needs
    assert Need.ALTERNATIVE_ONLY in Constraint(term=Weighted(term=Idk())).needs  # type: ignore[arg-type]


def test_own_answers_that_were_not_run_are_refused_by_name(world: Any) -> None:
    subject = world.make()
    loader = Loader(subject, "forget", world.data["forget"], world.data.alternatives, rows=6, seed=0, own=False)
    micro = loader.at(0)[0]
    view = RoleView(subject, micro.batch, micro.num_rows, None)
    assert micro.num_rows == 0 and all(i.endswith(("/idk", "/other")) for i in view.alternative.batch.ids)
    assert len(view.alternative.policy.nll_B) == 6
    for look in (lambda: view.policy, lambda: view.batch, lambda: view.reference):
        with pytest.raises(UserError, match="declared alternative_only, so their own answers were not run"):
            look()


def test_the_listing_counts_one_forward_for_it() -> None:
    alone, both = (cost([w.term for w in objective]) for objective in (ALONE, BOTH))
    assert (alone.forwards, alone.backwards) == (2, 2)
    assert (both.forwards, both.backwards) == (3, 3)
