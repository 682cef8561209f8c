"""Alternation with an exact upper minimiser, SGD with momentum as a function of its state, and losses summed in parts."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from amends.bilevel.alternate import Best, alternate
from amends.bilevel.parts import in_parts
from amends.bilevel.problem import Problem, hypergradient
from amends.bilevel.solvers import GD, VELOCITY, Closed, Momentum, at_rest
from amends.bilevel.strategies.cg import CG
from amends.bilevel.strategies.unroll import Unroll
from amends.bilevel.trust import NotTrusted
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.protocols import Params

POINTS = torch.tensor([0.0, 1.0, 2.0, 10.0])


def trimmed() -> Problem:
    """x chooses points, y is the mean of those chosen, and f is least for those within 4 of y: least trimmed squares."""

    def upper(x: Params, y: Params) -> Tensor:
        return (x["w"] * ((POINTS - y["mean"]).square() - 16)).sum()

    def lower(x: Params, y: Params) -> Tensor:
        return (x["w"] * (POINTS - y["mean"]).square()).sum() / x["w"].sum()

    return Problem(upper, lower)


def nearest(y: Params) -> Best:
    w = ((POINTS - y["mean"]).square() < 16).float()
    return Best({"w": w}, float(trimmed().upper({"w": w}, y)), {"chosen": float(w.sum())})


def test_alternation_ends_where_each_level_is_the_best_answer_to_the_other() -> None:
    run = Memory()
    found = alternate(trimmed(), {"mean": torch.tensor(4.5)}, best=nearest, solver=GD(steps=40, lr=0.2), rounds=4, run=run)
    assert found.first.outer["w"].tolist() == [0, 1, 1, 0]
    assert found.best.outer["w"].tolist() == [1, 1, 1, 0] and float(found.inner["mean"]) == pytest.approx(1, abs=1e-4)
    assert [line["round"] for line in run.logged] == [0, 1, 2, 3, 4] and run.logged[-1]["chosen"] == 3
    assert list(found.values) == [line["upper"] for line in run.logged]
    for choice in itertools.product((0.0, 1.0), repeat=4):
        assert float(trimmed().upper({"w": torch.tensor(choice)}, found.inner)) >= found.best.value - 1e-6


def test_no_rounds_leave_the_start_and_each_step_has_a_draw_of_its_own() -> None:
    asked: list[tuple[int, int]] = []

    def at(number: int, draw: int) -> Problem:
        asked.append((number, draw))
        return trimmed()

    start = {"mean": torch.tensor(4.5)}
    none = alternate(at, start, best=nearest, solver=GD(steps=3, lr=0.1), rounds=0, run=Memory())
    assert not asked and none.inner["mean"] == 4.5 and none.best is none.first
    alternate(at, start, best=nearest, solver=GD(steps=3, lr=0.1), rounds=2, run=Memory())
    assert {(r, k) for r in (0, 1) for k in (0, 1, 2)} == set(asked)


class Killed(Exception):
    """Not an error of the library's."""


def drawn(asked: list[tuple[int, int]], die: tuple[int, int] | None = None) -> Any:
    """The mean, pulled aside on each draw of each round; dies when the rows of one are asked for."""

    def at(number: int, draw: int) -> Problem:
        asked.append((number, draw))
        if (number, draw) == die and draw:
            raise Killed
        tilt = 0.3 * torch.sin(torch.tensor(float(7 * number + draw)))
        return Problem(trimmed().upper, lambda x, y: trimmed().lower(x, y) + tilt * y["mean"])

    return at


@pytest.mark.parametrize("die", [(0, 1), (0, 3), (1, 1), (1, 4), (2, 2), (3, 4)], ids=str)
def test_a_killed_alternation_goes_on_to_the_same_end_bit_for_bit(die: tuple[int, int], tmp_path: Path) -> None:
    """Five steps a round, a checkpoint every second one, so that rounds end between two of them and on one."""
    options: Any = {"best": nearest, "solver": Momentum(5, 0.05, 0.9), "rounds": 4}
    start, whole, run = {"mean": torch.tensor(4.5)}, Memory(), Memory(folder=tmp_path)
    straight = alternate(drawn([]), start, run=whole, **options)
    with pytest.raises(Killed):
        alternate(drawn([], die), start, run=run, checkpoint_every=2, **options)
    steps = 5 * die[0] + die[1]  # that were taken
    saved = steps - steps % 2
    asked: list[tuple[int, int]] = []
    before = len(run.logged)
    again = alternate(drawn(asked), start, run=run, checkpoint_every=2, **options)
    assert run.said == ([f"resumed at step {saved}"] if saved else [])
    assert not saved or min(number for number, _ in asked) == (saved - 1) // 5
    assert again.values == straight.values and torch.equal(again.inner["mean"], straight.inner["mean"])
    assert torch.equal(again.inner["mean" + VELOCITY], straight.inner["mean" + VELOCITY])
    assert torch.equal(again.best.outer["w"], straight.best.outer["w"]) and again.first.value == straight.first.value
    rounds = [line for line in run.logged[before:] if line["round"]]
    assert rounds == whole.logged[-len(rounds) :]


def test_an_alternation_that_ended_is_taken_and_other_settings_are_refused(tmp_path: Path) -> None:
    options: Any = {"best": nearest, "run": Memory(folder=tmp_path), "checkpoint_every": 3}
    start = {"mean": torch.tensor(4.5)}
    first = alternate(drawn([]), start, solver=Momentum(3, 0.05), rounds=2, **options)
    again = alternate(drawn([]), start, solver=Momentum(3, 0.05), rounds=2, **options)
    assert again.values == first.values and options["run"].said == ["resumed at step 6"]
    for changed in ({"solver": Momentum(3, 0.06), "rounds": 2}, {"solver": Momentum(3, 0.05), "rounds": 3}):
        with pytest.raises(UserError, match="the checkpoint was written with other (solver|rounds): .*another folder"):
            alternate(drawn([]), start, **changed, **options)


@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.0), (0.9, 0.05)])
def test_momentum_takes_torchs_steps_and_is_carried_over(momentum: float, decay: float) -> None:
    centre = torch.tensor([1.0, -2.0, 0.5])

    def lower(x: Params, y: Params) -> Tensor:
        return (torch.tensor([1.0, 3.0, 0.2]) * (y["a"] - centre).square()).sum()

    problem = Problem(lower, lower)
    theirs = torch.zeros(3, requires_grad=True)
    sgd = torch.optim.SGD([theirs], lr=0.05, momentum=momentum, weight_decay=decay)
    y: Any = {"a": torch.zeros(3)}
    solver = Momentum(1, 0.05, momentum, decay, lambda tree: {n: v.clamp(-1, 1) for n, v in tree.items()})
    with torch.no_grad():
        for _ in range(12):
            y = solver.step(problem, {}, y)
    for _ in range(12):
        sgd.zero_grad()
        lower({}, {"a": theirs}).backward()
        sgd.step()
        theirs.data.clamp_(-1, 1)
    assert torch.allclose(y["a"], theirs, atol=1e-6) and y["a"].max() <= 1


@pytest.mark.parametrize("checkpoint", [False, True])
def test_momentum_can_be_unrolled(checkpoint: bool) -> None:
    """y after two steps on (y - x)^2/2 from 0: v1 = -x, y1 = .1 x, v2 = .5 v1 - .9 x, y2 = .24 x; d(y2)/dx = .24."""
    problem = Problem(lambda x, y: y["y"].sum(), lambda x, y: 0.5 * (y["y"] - x["x"]).square().sum())
    x, y = {"x": torch.tensor([2.0])}, at_rest({"y": torch.zeros(1)})
    answer = hypergradient(problem, x, y, strategy=Unroll(checkpoint=checkpoint), solver=Momentum(2, 0.1, 0.5))
    assert float(answer.gradient["x"]) == pytest.approx(0.24) and float(answer.inner["y"]) == pytest.approx(0.48)


def test_a_sum_in_parts_has_the_value_and_the_slope_of_the_sum() -> None:
    y = {"a": torch.tensor([0.5, -1.0], requires_grad=True)}

    def part(x: Params, y: Params, k: int) -> Tensor:
        return (k * y["a"].square()).sum() * x["w"]

    x = {"w": torch.tensor(2.0)}
    parts = [lambda x, y, k=k: part(x, y, k) for k in (1, 2, 3)]
    found = in_parts(parts, x, y)
    (slope,) = torch.autograd.grad(found, y["a"])
    assert float(found.detach()) == pytest.approx(12 * 1.25) and slope.tolist() == pytest.approx([12.0, -24.0])
    with torch.no_grad():
        assert float(in_parts(parts, x, y)) == pytest.approx(12 * 1.25)
    with pytest.raises(UserError, match="no parts"):
        in_parts([], x, y)


def test_what_has_no_second_derivative_is_refused_by_those_who_need_one() -> None:
    problem = Problem(
        lambda x, y: (y["y"] * x["x"]).sum(), lambda x, y: in_parts([lambda x, y: (y["y"] - x["x"]).square().sum()], x, y)
    )
    x, y = {"x": torch.tensor([1.0])}, {"y": torch.tensor([1.0])}
    with pytest.raises(NotTrusted, match="linear in the inner parameters"):
        hypergradient(problem, x, y, strategy=CG(), solver=Closed(lambda x, y: y))
