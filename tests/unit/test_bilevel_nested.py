"""Parameters in any nesting: the answer is that of the same tensors by name, in the nesting that was asked in."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from amends.bilevel.compare import against_differences
from amends.bilevel.nested import named, rebuilt
from amends.bilevel.optimise import optimise
from amends.bilevel.problem import Problem, hypergradient
from amends.bilevel.solvers import GD, Closed, Momentum, Projected
from amends.bilevel.strategies.cg import CG
from amends.bilevel.strategies.unroll import Unroll
from amends.bilevel.strategies.woodbury import Woodbury
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.engine.optim import SGD


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


class Pair(NamedTuple):
    """A tuple with names is one, too."""

    left: Tensor
    right: Tensor


OUTER: Any = {"scale": [number(2.0)], "shift": number(0.5)}
INNER: Any = {"layers": [{"w": number(1.0)}, Pair(number(0.5), number(0.0))]}


def lower(x: Any, y: Any) -> Tensor:
    """y* = (s t, s / 2, t) for the outer s and t."""
    (s,), t, (first, pair) = x["scale"], x["shift"], y["layers"]
    return (first["w"] - s * t) ** 2 + 2 * (pair.left - s / 2) ** 2 + 3 * (pair.right - t) ** 2


def upper(x: Any, y: Any) -> Tensor:
    first, pair = y["layers"]
    return first["w"] + pair.left**2 + 2 * pair.right


NESTED = Problem(upper, lower)
TRUTH = (0.5 + 2.0 / 2, 2.0 + 2)
"""F = s t + s^2 / 4 + 2 t: dF/ds = t + s / 2, dF/dt = s + 2."""


def exact(x: Any, y: Any) -> Any:
    (s,), t = x["scale"], x["shift"]
    return {"layers": [{"w": s * t}, Pair(s / 2, t)]}


@pytest.mark.parametrize(
    ("strategy", "solver"),
    [
        (CG(), Closed(exact)),
        (CG(), GD(steps=200, lr=0.15)),
        (Unroll(), Closed(exact)),
        (Unroll(checkpoint=True), GD(steps=200, lr=0.15)),
        (CG(), Projected(200, 0.15, lambda y: {"layers": [y["layers"][0], y["layers"][1]]})),
        (Unroll(), Momentum(400, 0.05, 0.5, project=lambda y: {"layers": list(y["layers"])})),
    ],
    ids=lambda part: type(part).__name__,  # functions have addresses in their names
)
def test_answers_come_in_the_nesting_of_the_question(strategy: Any, solver: Any) -> None:
    found = hypergradient(NESTED, OUTER, INNER, strategy=strategy, solver=solver)
    (ds,), dt = found.gradient["scale"], found.gradient["shift"]
    assert float(ds) == pytest.approx(TRUTH[0], rel=1e-6) and float(dt) == pytest.approx(TRUTH[1], rel=1e-6)
    first, pair = found.inner["layers"]
    assert isinstance(pair, Pair) and float(first["w"]) == pytest.approx(1.0) and float(pair.right) == pytest.approx(0.5)
    compared = against_differences(found, NESTED, OUTER, INNER, solver=Closed(exact))
    assert compared.degrees < 1e-3 and compared.ratio == pytest.approx(1, rel=1e-6)


def test_one_tensor_on_each_level_is_a_tree() -> None:
    problem = Problem(lambda x, y: 0.5 * (y - 1) ** 2, lambda x, y: 0.5 * (y - x) ** 2)
    found = hypergradient(problem, number(3.0), number(3.0), strategy=CG())
    assert float(found.gradient) == pytest.approx(2.0) and float(found.inner) == 3.0


def test_rows_and_a_start_are_handed_trees() -> None:
    """Woodbury's Fisher matrix is that of the same problem by names, and a learned start moves as it should."""
    targets = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)

    def listed(of: Any) -> Problem:
        def rows(x: Any, y: Any) -> Tensor:
            return 0.5 * (of(y) * targets - of(x)) ** 2

        return Problem(lambda x, y: of(y) ** 2, lambda x, y: rows(x, y).mean(), rows)

    one, solver = number(1.0), GD(steps=100, lr=0.5)
    nested = hypergradient(listed(lambda t: t[0]), [one], (one,), strategy=Woodbury(), solver=solver).gradient[0]
    by_name = hypergradient(listed(lambda t: t["v"]), {"v": one}, {"v": one}, strategy=Woodbury(), solver=solver).gradient["v"]
    assert float(nested) == float(by_name) != 0
    maml = Problem(lambda x, y: (y[0] - 1) ** 2, lambda x, y: 0.5 * y[0] ** 2, start=lambda x: [x[0]])
    slope = hypergradient(maml, [number(2.0)], [number(0.0)], strategy=Unroll(), solver=GD(steps=2, lr=0.5)).gradient[0]
    assert float(slope) == pytest.approx(2 * (0.25 * 2 - 1) * 0.25)


def test_the_loop_takes_and_gives_trees_and_steps_as_by_names() -> None:
    seen: list[float] = []

    def problem(step: int, draw: int) -> Problem:
        return NESTED

    def watched(x: Any, y: Any) -> dict[str, float]:
        seen.append(float(x["scale"][0]))
        return {"right": float(y["layers"][1].right)}

    run = Memory()
    found = optimise(
        problem, OUTER, INNER, strategy=CG(), solver=Closed(exact), optim=SGD(lr=0.1), steps=2, run=run, watch=watched
    )
    plain = Problem(
        lambda x, y: upper(rebuilt(x, OUTER), rebuilt(y, INNER)), lambda x, y: lower(rebuilt(x, OUTER), rebuilt(y, INNER))
    )
    by_name = optimise(
        plain, named(OUTER, "outer"), named(INNER, "inner"), strategy=CG(),
        solver=Closed(lambda x, y: named(exact(rebuilt(x, OUTER), None), "inner")), optim=SGD(lr=0.1), steps=2, run=Memory(),
    )  # fmt: skip
    assert named(found.outer, "outer") == by_name.outer and named(found.inner, "inner") == by_name.inner
    assert seen[0] == 2.0 and seen[1] == pytest.approx(2.0 - 0.1 * TRUTH[0]) and "right" in run.logged[-1]
    assert float(OUTER["scale"][0]) == 2.0, "what was given is left as it was"


@pytest.mark.parametrize(
    ("outer", "inner", "said"),
    [
        ({"x": 1.0}, {"y": number(1.0)}, "outer parameter 'x' is a float, which has no gradient: give a tensor of floats"),
        ({"x": torch.tensor(1)}, {"y": number(1.0)}, "outer parameter 'x' is a tensor of torch.int64, which has no gradient"),
        ({"x": number(1.0)}, {"a": [None]}, "inner parameter 'a/0' is a NoneType"),
        ({}, {"y": number(1.0)}, "there are no outer parameters: give at least one tensor"),
        ({"x": number(1.0)}, [], "there are no inner parameters"),
        ({"a/b": number(1.0), "a": {"b": number(1.0)}}, number(1.0), "two tensors are called 'a/b': rename one of them"),
    ],
    ids=str,
)
def test_what_is_no_tree_of_tensors_is_said_in_a_sentence(outer: Any, inner: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        hypergradient(NESTED, outer, inner, strategy=CG())
