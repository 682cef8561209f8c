"""A learned multiplier in place of a coefficient: its arithmetic, its life inside a fit, and its way through a checkpoint."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.protocols import Need
from amends.core.spec import Weighted, build_use
from amends.edits.clip import Clip
from amends.engine.fit import fit
from amends.engine.optim import SGD, AdamW
from amends.terms.ascent import Ascent
from amends.terms.constraint import Constraint
from amends.terms.kl import KL
from amends.terms.nll import NLL

KEPT = NLL(role="retain")
FORGET = Weighted(term=Ascent(cap=8.0))


def trained(world: Any, objective: list[Weighted], steps: int = 6, lr: float = 3e-3, **options: Any) -> tuple[Any, Memory]:
    subject, run = world.make(), options.pop("run", None) or Memory()
    fit(
        subject, objective, world.data, steps=steps, optim=AdamW(lr=lr), batch=6, reference="start", run=run,
        edits=[Clip(norm=1.0)], **options,
    )  # fmt: skip
    return subject, run


def multipliers(run: Memory, label: str = "1.constraint.retain") -> list[float]:
    return [line[f"{label}.multiplier"] for line in run.logged if line["step"]]


# ---------------------------------------------------------------------- arithmetic


def test_the_multiplier_moves_by_rate_times_what_the_bound_is_exceeded_by() -> None:
    term = Constraint(at_most=0.3, rate=5, start=2)
    assert term.first() == 2
    assert term.following(2.0, 0.5, 0) == pytest.approx(2 + 5 * 0.2)
    assert term.following(2.0, 0.1, 0) == pytest.approx(2 - 5 * 0.2)


def test_the_multiplier_is_never_negative_and_never_above_the_ceiling() -> None:
    term = Constraint(at_most=1.0, rate=10, start=50, ceiling=7)
    assert term.first() == 7
    assert term.following(0.5, 0.0, 0) == 0
    assert term.following(6.0, 100.0, 0) == 7


def test_the_multiplier_waits_for_the_warm_up() -> None:
    term = Constraint(warmup=2, at_most=0.0, rate=1)
    assert [term.following(1.0, 0.5, step) for step in range(4)] == [1.0, 1.0, 1.5, 1.5]


# ---------------------------------------------------------------------- what it wraps


def test_it_is_the_term_inside_in_everything_but_its_weight(lm_world: Any) -> None:
    term = Constraint(term=KL(role="neighbour"))
    assert (term.role, term.per, term.needs) == ("neighbour", "token", {Need.REFERENCE_DIST})


def test_a_recipe_names_the_term_inside_by_its_use() -> None:
    built = build_use("terms", {"use": "constraint", "term": {"use": "kl", "role": "retain"}, "at_most": 0.1}, "objective.1")
    assert built.term == Constraint(term=KL(role="retain"), at_most=0.1)
    assert built.weight == 1


def test_a_weight_inside_would_be_lost_so_it_is_refused() -> None:
    inside = {"use": "nll", "role": "retain", "weight": 2}
    with pytest.raises(UserError, match=r"objective\.1\.term: .*the multiplier takes the place of the weight"):
        build_use("terms", {"use": "constraint", "term": inside}, "objective.1")


def test_a_constraint_of_a_constraint_is_refused() -> None:
    with pytest.raises(ValueError, match="not another constraint"):
        Constraint(term=Constraint())


# ---------------------------------------------------------------------- in a fit


def test_the_multiplier_rises_while_the_bound_is_broken(lm_world: Any) -> None:
    _, run = trained(lm_world, [FORGET, Weighted(term=Constraint(term=KEPT, at_most=0.1))])
    found = multipliers(run)
    assert found[0] == 1
    assert all(b > a for a, b in pairwise(found))


def test_the_multiplier_falls_to_nought_while_there_is_room_and_the_term_with_it(lm_world: Any) -> None:
    _, run = trained(lm_world, [FORGET, Weighted(term=Constraint(term=KEPT, at_most=100.0, rate=0.005))])
    found = multipliers(run)
    assert found[0] == 1 and found[-1] == 0
    assert run.logged[-1]["1.constraint.retain"] == 0


def test_a_multiplier_of_nought_is_no_term_at_all(lm_world: Any) -> None:
    one, _ = trained(lm_world, [FORGET, Weighted(term=Constraint(term=KEPT, at_most=100.0, start=0))])
    other, _ = trained(lm_world, [FORGET])
    for p, q in zip(one.module.parameters(), other.module.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_each_step_follows_from_the_one_before_it(lm_world: Any) -> None:
    """What is logged is weight x multiplier x mean; the next multiplier rests on that mean alone."""
    term = Constraint(term=KEPT, at_most=0.5, rate=0.3, start=2.0, warmup=1)
    _, run = trained(lm_world, [FORGET, Weighted(term=term, weight=4.0)])
    m = 2.0
    for step, line in enumerate(line for line in run.logged if line["step"]):
        assert line["1.constraint.retain.multiplier"] == pytest.approx(m, rel=1e-5)
        m = term.following(m, line["1.constraint.retain"] / (4.0 * m), step)
    assert m > 2.5


def test_the_bound_holds_what_ascent_alone_destroys(lm_world: Any) -> None:
    def kept(subject: Any) -> float:
        batch = subject.collate([subject.encode(s) for s in lm_world.data["retain"]])
        like = subject.likelihood(batch)
        return float(like.nll_B.sum().detach() / like.n_B.sum())

    at_start = kept(lm_world.make())
    free, _ = trained(lm_world, [FORGET], steps=25)
    bound, run = trained(lm_world, [FORGET, Weighted(term=Constraint(term=KEPT, at_most=at_start, start=0, rate=20))], steps=25)
    assert kept(free) > at_start + 0.5
    assert kept(bound) < at_start + 0.25 < kept(free)
    assert max(multipliers(run)) > 0


def test_pieces_of_a_batch_move_it_once_and_by_the_whole(lm_world: Any) -> None:
    """open-unlearning, set to move by steps, moves once for each piece of an accumulated batch."""
    objective = [FORGET, Weighted(term=Constraint(term=KEPT, at_most=0.1))]
    whole, pieces = trained(lm_world, objective)[1], trained(lm_world, objective, micro=2)[1]
    assert multipliers(pieces) == pytest.approx(multipliers(whole), rel=1e-4)


def test_a_resumed_fit_has_the_multipliers_of_an_uninterrupted_one(lm_world: Any, tmp_path: Path) -> None:
    objective = [FORGET, Weighted(term=Constraint(term=KEPT, at_most=0.1))]
    straight, run = trained(lm_world, objective, steps=8)
    trained(lm_world, objective, steps=4, run=Memory(folder=tmp_path), checkpoint_every=2)
    again = Memory(folder=tmp_path)
    resumed, _ = trained(lm_world, objective, steps=8, run=again, checkpoint_every=2)
    assert "resumed at step 4" in again.said
    assert multipliers(again) == multipliers(run)[4:]
    for p, q in zip(straight.module.parameters(), resumed.module.parameters(), strict=True):
        assert torch.equal(p, q)


def test_an_update_that_is_not_applied_leaves_the_multiplier_alone(lm_world: Any, tmp_path: Path) -> None:
    """The step diverges, so neither weights nor multiplier of it may be believed."""
    subject, run = lm_world.make(), Memory()
    with torch.no_grad():
        subject.module.get_input_embeddings().weight[:] = torch.inf
    fit(subject, [Weighted(term=Constraint(term=KEPT))], lm_world.data, steps=2, optim=SGD(), run=run)
    assert not run.logged and "diverged" in run.said[-1]
