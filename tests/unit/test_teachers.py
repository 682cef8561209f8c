"""Unlearners of classifiers that are fits with a twist: turns, teachers, an extra class."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.spec import Weighted
from amends.data.bundle import Bundle
from amends.engine.fit import fit
from amends.engine.optim import SGD, AdamW
from amends.subjects.distributions import classes
from amends.subjects.head import num_classes
from amends.terms.kl import KL
from amends.terms.nll import NLL
from amends.unlearn.bad_teacher import BadTeacher
from amends.unlearn.boundary_expand import BoundaryExpand
from amends.unlearn.scrub import Scrub

PLAIN = SGD(lr=0.05)


def trained(world: Any, seed: int = 0) -> Any:
    subject = world.make(seed)
    both = [Weighted(term=NLL(role=role)) for role in ("forget", "retain")]
    fit(subject, both, world.data, steps=40, optim=AdamW(lr=1e-2), batch=12, run=Memory())
    return subject


def flat(subject: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in subject.module.parameters()])


def batch(subject: Any, data: Bundle, role: str) -> Any:
    return subject.collate([subject.encode(s) for s in data[role]])


# ---------------------------------------------------------------------- SCRUB


def test_scrub_takes_turns_and_ends_on_the_one_that_repairs(classifier_world: Any) -> None:
    """12 rows each in batches of 5: 3 steps a pass."""
    stage = Scrub(epochs=3, max_epochs=2, batch=5)
    assert stage.turns(classifier_world.data) == ([(0, 3), (6, 9)], [(3, 6), (9, 12), (12, 15)])
    run = Memory()
    assert (
        Scrub(epochs=3, max_epochs=2, batch=5, optim=PLAIN)(trained(classifier_world), classifier_world.data, run).steps == 15
    )
    lines = [line for line in run.logged if line["step"]]
    away = [line["0.during.forget.multiplier"] for line in lines]
    assert away == [1] * 3 + [0] * 3 + [1] * 3 + [0] * 6
    assert all(line["1.during.retain.multiplier"] == 1 - line["0.during.forget.multiplier"] for line in lines)


def test_scrub_is_fits_one_after_the_other(classifier_world: Any) -> None:
    """Plain descent on whole batches; the teacher is the first start throughout, so the parts get it as their reference."""
    from amends.subjects.reference import frozen_copy

    one, parts = trained(classifier_world), trained(classifier_world)
    Scrub(epochs=2, max_epochs=1, batch=12, optim=PLAIN, gamma=0.9, alpha=0.3, temperature=2)(
        one, classifier_world.data, Memory()
    )
    teacher = frozen_copy(parts)
    away = [Weighted(term=KL(role="forget", temperature=2), weight=-1)]
    back = [Weighted(term=NLL(), weight=0.9), Weighted(term=KL(temperature=2), weight=0.3)]
    for objective, steps in ((away, 1), (back, 2)):
        fit(parts, objective, classifier_world.data, steps=steps, optim=PLAIN, batch=12, reference=teacher, run=Memory())
    torch.testing.assert_close(flat(one), flat(parts))


def test_scrub_without_a_pass_away_only_keeps(classifier_world: Any) -> None:
    assert len(Scrub(max_epochs=0).objective_on(classifier_world.data)) == 2
    with pytest.raises(UserError, match="no role 'forgot'"):
        Scrub(role="forgot").objective_on(classifier_world.data)


# ---------------------------------------------------------------------- bad teaching


def test_each_role_has_its_own_teacher(classifier_world: Any) -> None:
    subject, data = trained(classifier_world), classifier_world.data
    teachers = BadTeacher(steps=1).teachers(subject, data, Memory(seed=4))
    forget, retain = batch(subject, data, "forget"), batch(subject, data, "retain")
    with torch.no_grad():
        assert torch.equal(teachers.likelihood(retain).nll_B, subject.likelihood(retain).nll_B)
    assert teachers.likelihood(forget).nll_B.mean() > 5 * teachers.good.likelihood(forget).nll_B.mean()
    again, other = (BadTeacher(steps=1).teachers(subject, data, Memory(seed=s)) for s in (4, 5))
    assert torch.equal(teachers.likelihood(forget).nll_B, again.likelihood(forget).nll_B)
    assert not torch.equal(teachers.likelihood(forget).nll_B, other.likelihood(forget).nll_B)
    assert all(p.requires_grad for p in subject.module.parameters())


def test_the_student_comes_to_know_as_little_as_the_teacher_and_keeps_the_rest(classifier_world: Any) -> None:
    """Forget rows of one class, retain rows of the others."""
    rows = [s for samples in classifier_world.data.roles.values() for s in samples]
    data = Bundle({
        "forget": tuple(s for s in rows if s.data["label"] == 0), "retain": tuple(s for s in rows if s.data["label"] != 0)
    })  # fmt: skip
    subject, stage = trained(classifier_world), BadTeacher(steps=60, batch=18, optim=AdamW(lr=5e-3))
    teachers = stage.teachers(subject, data, Memory())
    stage(subject, data, Memory())
    forget, retain = batch(subject, data, "forget"), batch(subject, data, "retain")
    with torch.no_grad():
        apart = classes(teachers.bad.likelihood(forget)).kl(classes(subject.likelihood(forget))).mean()
        assert apart < 0.1 and subject.likelihood(forget).nll_B.mean() > 0.7
        assert subject.likelihood(retain).nll_B.mean() < 0.3


# ---------------------------------------------------------------------- boundary expand


def test_the_extra_class_takes_the_rows_and_is_gone_afterwards(classifier_world: Any) -> None:
    subject, data = trained(classifier_world), classifier_world.data
    shapes = {n: p.shape for n, p in subject.module.named_parameters()}
    forget = batch(subject, data, "forget")
    before = subject.likelihood(forget).nll_B.mean().item()
    run = Memory()
    outcome = BoundaryExpand(steps=30, batch=12, optim=AdamW(lr=1e-2))(subject, data, run)
    assert outcome.steps == 30 and run.logged[-1]["0.nll.forget"] < 0.1 < run.logged[0]["0.nll.forget"]
    assert {n: p.shape for n, p in subject.module.named_parameters()} == shapes
    assert num_classes(subject, data["forget"][0]) == 4 and subject.likelihood(forget).nll_B.mean() > before
    assert all(p.requires_grad for p in subject.module.parameters())


def test_before_any_training_the_extra_class_leaves_the_others_as_they_are(classifier_world: Any) -> None:
    subject, data = trained(classifier_world), classifier_world.data
    start = flat(subject).clone()
    BoundaryExpand(steps=1, optim=SGD(lr=1e-12))(subject, data, Memory())
    torch.testing.assert_close(flat(subject), start)
    with pytest.raises(UserError, match="give either `steps` or `epochs`"):
        BoundaryExpand().objective_on(data)


def test_rows_without_a_class_are_refused(lm_world: Any) -> None:
    with pytest.raises(UserError, match="has no label"):
        BoundaryExpand(steps=1).objective_on(lm_world.data)
