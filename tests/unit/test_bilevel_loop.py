"""The outer loop: it goes on where it was killed, it remembers what a strategy asked for, it keeps no graph between steps."""

from __future__ import annotations

import gc
import importlib
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from amends.bilevel.optimise import Optimised, optimise
from amends.bilevel.problem import Point, Problem
from amends.bilevel.solvers import GD, Fitted, Given
from amends.bilevel.strategies.bome import BOME
from amends.bilevel.strategies.cg import CG
from amends.bilevel.strategies.f2sa import F2SA
from amends.bilevel.strategies.forward import Forward
from amends.bilevel.strategies.minres import MINRES
from amends.bilevel.strategies.neumann import Neumann
from amends.bilevel.strategies.stocbio import StocBiO
from amends.bilevel.strategies.sustain import Sustain
from amends.bilevel.strategies.unroll import Unroll
from amends.bilevel.strategies.zeroth import Zeroth
from amends.bilevel.trust import Trust
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.protocols import Params
from amends.engine.optim import SGD, AdamW

sys.path.insert(0, str(Path(__file__).parent))
problems = importlib.import_module("bilevel_problems")
BLIND = Trust.blind()
GRADIENT_DESCENT = GD(steps=3, lr=0.2)


def noisy(case: Any) -> Callable[[int, int], Problem]:
    """The quadratic with a slope of its own in each draw of both levels."""

    def drawn(step: int, draw: int) -> Problem:
        tilt = 0.1 * problems.normal(3, seed=f"{step} {draw} loop")
        return Problem(
            lambda x, y: case.problem.upper(x, y) + tilt @ y["many"],
            lambda x, y: case.problem.lower(x, y) + tilt @ y["many"],
        )

    return drawn


class Killed(Exception):
    """Not an error of the library's."""


def killing(problem: Callable[[int, int], Problem], at: int) -> Callable[[int, int], Problem]:
    """Dies when the rows of a step are asked for."""

    def drawn(step: int, draw: int) -> Problem:
        if step == at:
            raise Killed
        return problem(step, draw)

    return drawn


LOOPS: dict[str, dict[str, Any]] = {
    "cg, AdamW": {"strategy": CG(), "optim": AdamW(lr=0.1, schedule="cosine", warmup=0.2), "solver": GRADIENT_DESCENT},
    "cg, momentum": {"strategy": CG(), "optim": SGD(lr=0.05, momentum=0.9), "solver": GRADIENT_DESCENT},
    "cg, an optimiser below": {
        "strategy": CG(), "optim": SGD(lr=0.05), "solver": Fitted(optim=AdamW(lr=0.1), number=4), "warm": False,
    },
    "unroll": {"strategy": Unroll(), "optim": AdamW(lr=0.1), "solver": GRADIENT_DESCENT},
    "zeroth": {"strategy": Zeroth(directions=3), "optim": SGD(lr=0.01), "solver": GRADIENT_DESCENT},
    "stocbio": {"strategy": StocBiO(step=0.2, steps=3), "optim": AdamW(lr=0.1), "solver": GRADIENT_DESCENT},
    "sustain": {"strategy": Sustain(lr=0.1, step=0.2, steps=3), "optim": SGD(lr=0.05)},
    "f2sa": {"strategy": F2SA(growth=0.3), "optim": SGD(lr=0.02, momentum=0.5), "solver": GRADIENT_DESCENT},
    "bome": {"strategy": BOME(lr=0.1), "optim": SGD(lr=0.05), "solver": GRADIENT_DESCENT},
}  # fmt: skip


def loop(case: Any, problem: Any, run: Memory, **options: Any) -> Optimised:
    return optimise(problem, case.outer, case.inner, **{"steps": 11, "trust": BLIND, "run": run, **options})


def same(one: Optimised, other: Optimised) -> bool:
    pairs = [(a[n], b[n]) for a, b in ((one.outer, other.outer), (one.inner, other.inner)) for n in a]
    return one.values == other.values and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", LOOPS)
def test_a_killed_run_goes_on_to_the_same_end_bit_for_bit(name: str, tmp_path: Path) -> None:
    case, options = problems.quadratic(), LOOPS[name]
    problem = noisy(case)
    whole = loop(case, problem, Memory(), **options)
    run = Memory(folder=tmp_path)
    with pytest.raises(Killed):
        loop(case, killing(problem, 8), run, checkpoint_every=3, **options)
    seen: list[int] = []

    def watched(step: int, draw: int) -> Problem:
        seen.append(step)
        return problem(step, draw)

    again = loop(case, watched, run, checkpoint_every=3, **options)
    assert run.said == ["resumed at step 6"] and min(seen) == 6
    assert same(whole, again) and len(again.values) == 11
    assert not list(tmp_path.glob("*.tmp"))


def test_float32_and_numbers_without_axes_come_back_as_they_were(tmp_path: Path) -> None:
    """In float32 the two ends are equal only if nothing went through another type."""
    case = problems.ridge(scalar=True)
    outer, inner = ({n: v.float() for n, v in tree.items()} for tree in (case.outer, case.inner))
    features = problems.normal(30, 5, seed="X").float()

    def drawn(step: int, draw: int) -> Problem:
        return Problem(
            lambda x, y: ((features[:9] @ y["w"]) ** 2).sum() + x["log"] ** 2,
            lambda x, y: ((features @ y["w"] - 1) ** 2).mean() + (x["log"].exp() * y["w"] ** 2).sum(),
        )

    options: dict[str, Any] = {
        "strategy": CG(), "optim": AdamW(lr=0.1), "solver": GD(steps=4, lr=0.05), "steps": 9, "trust": BLIND,
        "checkpoint_every": 2,
    }  # fmt: skip
    whole = optimise(drawn, outer, inner, run=Memory(), **options)
    run = Memory(folder=tmp_path)
    with pytest.raises(Killed):
        optimise(killing(drawn, 5), outer, inner, run=run, **options)
    again = optimise(drawn, outer, inner, run=run, **options)
    assert same(whole, again) and again.outer["log"].shape == () and again.outer["log"].dtype is torch.float32


def test_a_run_that_ended_is_taken_and_one_of_other_settings_is_refused(tmp_path: Path) -> None:
    case, run = problems.quadratic(), Memory(folder=tmp_path)
    options: dict[str, Any] = {"strategy": CG(), "optim": SGD(lr=0.05), "steps": 6, "checkpoint_every": 3}
    first = loop(case, case.problem, run, **options)
    logged = len(run.logged)
    assert same(first, loop(case, case.problem, run, **options)) and len(run.logged) == logged
    for key, other in (("strategy", MINRES()), ("optim", SGD(lr=0.1)), ("steps", 5), ("solver", GRADIENT_DESCENT)):
        with pytest.raises(UserError, match=f"checkpoint.safetensors: the checkpoint was written with other {key}: .*folder"):
            loop(case, case.problem, run, **{**options, key: other})
    with pytest.raises(UserError, match="with other parameters"):
        optimise(
            case.problem, {"x": torch.zeros(3)}, case.inner, strategy=CG(), optim=SGD(lr=0.05), steps=6, run=run, trust=BLIND
        )


def test_without_a_folder_or_an_interval_nothing_is_written(tmp_path: Path) -> None:
    case = problems.quadratic()
    loop(case, case.problem, Memory(folder=tmp_path), strategy=CG(), optim=SGD(lr=0.05), steps=2)
    loop(case, case.problem, Memory(), strategy=CG(), optim=SGD(lr=0.05), steps=2, checkpoint_every=1)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- between two steps


def test_a_momentum_remembers_the_point_that_it_was_taken_at_and_not_the_one_after() -> None:
    """The optimiser moves its parameters in place: a strategy that keeps them would compare a point with itself."""
    case, lr = problems.quadratic(), 0.05
    strategy, problem = Sustain(lr=0.1, step=0.2, steps=3, beta=0.3), noisy(problems.quadratic())
    found = loop(case, problem, Memory(), strategy=strategy, optim=SGD(lr=lr), steps=5)
    x, y, memory = dict(case.outer), dict(case.inner), {}
    for step in range(5):

        def draws(k: int, step: int = step) -> Problem:
            return problem(step, k)

        point = Point(problem(step, 0), x, y, Given(), BLIND, torch.Generator().manual_seed(0), step, memory, draws)
        answer = strategy(point)
        x, y, memory = {n: v - lr * answer.gradient[n] for n, v in x.items()}, dict(answer.inner), answer.memory
    torch.testing.assert_close(found.outer["x"], x["x"], rtol=1e-12, atol=0)


def tensors_alive() -> int:
    gc.collect()
    return sum(issubclass(type(o), Tensor) for o in gc.get_objects())


GRAPHS: list[Any] = [
    CG(), MINRES(), Neumann(steps=5), Unroll(), Unroll(checkpoint=True), Unroll(last=2), Forward(), F2SA(), BOME(lr=0.1),
    StocBiO(step=0.2, steps=3), Sustain(lr=0.1, step=0.2, steps=3),
]  # fmt: skip


@pytest.fixture(scope="module")
def only_new() -> Iterator[None]:
    """What was there before is out of the collector's sight: a collection takes no time, and counts what the test made."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("only_new")
@pytest.mark.parametrize("strategy", GRAPHS, ids=lambda s: f"{type(s).__name__}{'+' * bool(getattr(s, 'checkpoint', 0))}")
def test_no_graph_and_no_tensor_outlives_its_outer_step(strategy: Any) -> None:
    """Peers' memory grew with the outer steps. Every activation is watched: what a graph saves stays alive with it."""
    case = problems.quadratic()
    watched: list[weakref.ref[Tensor]] = []
    alive: list[int] = []
    counted: list[int] = []

    def saved(inner: Params) -> Tensor:
        product = 1.0 * inner["many"]
        watched.append(weakref.ref(product))
        return 0.01 * (product**3).sum()

    def drawn(step: int, draw: int) -> Problem:
        if draw == 0 and len(alive) <= step:
            alive.append(sum(w() is not None for w in watched))
            counted.extend([tensors_alive()] if step in (2, 5) else [])
        return Problem(lambda x, y: case.problem.upper(x, y) + saved(y), lambda x, y: case.problem.lower(x, y) + saved(y))

    found = loop(case, drawn, Memory(), strategy=strategy, optim=AdamW(lr=0.01), solver=GRADIENT_DESCENT, steps=6)
    assert alive == [0] * 6 and len(watched) > 6, "no activation of an earlier step"
    assert counted[0] == counted[1], "and nothing else that grows"
    assert not any(v.requires_grad for tree in (found.outer, found.inner) for v in tree.values())


def test_a_graph_that_is_kept_would_be_noticed() -> None:
    """The control of the test above: one kept loss keeps its activations."""
    w = torch.ones(3, requires_grad=True)
    product = 1.0 * w
    seen, kept = weakref.ref(product), (product**3).sum()
    del product
    gc.collect()
    assert seen() is not None
    del kept
    gc.collect()
    assert seen() is None
