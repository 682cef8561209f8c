"""What went wrong in other libraries and orders of convergence: each holds here, or is refused in words."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from amends.bilevel.adam import Adam
from amends.bilevel.curvature import Lower
from amends.bilevel.optimise import optimise
from amends.bilevel.problem import Linear, Problem, hypergradient
from amends.bilevel.solvers import GD, Fitted, Projected
from amends.bilevel.strategies.active_set import ActiveSet
from amends.bilevel.strategies.cg import CG
from amends.bilevel.strategies.forward import Forward
from amends.bilevel.strategies.hessian_free import HessianFree
from amends.bilevel.strategies.minres import MINRES
from amends.bilevel.strategies.neumann import Neumann
from amends.bilevel.strategies.stocbio import StocBiO
from amends.bilevel.strategies.sustain import Sustain
from amends.bilevel.strategies.unroll import Unroll
from amends.bilevel.strategies.woodbury import Woodbury
from amends.bilevel.trust import NotTrusted, Trust
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.protocols import Params
from amends.engine.optim import SGD, AdamW

sys.path.insert(0, str(Path(__file__).parent))
problems = importlib.import_module("bilevel_problems")
BLIND = Trust.blind()


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


# ---------------------------------------------------------------------- Adam unrolled where gradients are 0


def at_rest() -> tuple[Problem, dict[str, Tensor], dict[str, Tensor]]:
    """g = |y - x|^2 / 2 begins at its minimum: every gradient of every step is 0, and so is every second moment."""
    x = torch.tensor([1.0, -2.0], dtype=torch.float64)
    problem = Problem(lambda x, y: y["y"].sum() + 0 * x["x"].sum(), lambda x, y: 0.5 * ((y["y"] - x["x"]) ** 2).sum())
    return problem, {"x": x}, {"y": x}


@pytest.mark.parametrize("strategy", [Unroll(), Unroll(checkpoint=True), Forward()], ids=["kept", "checkpointed", "forward"])
def test_adam_unrolled_at_a_gradient_of_nothing_has_the_slope_of_its_step(strategy: Any) -> None:
    """A peer gives NaN, from the derivative of sqrt(0). One step is y + lr (x - y) / (|x - y| + eps): the slope is lr / eps."""
    solver = Adam(number=1, lr=0.1, eps=0.5)
    answer = hypergradient(*at_rest(), strategy=strategy, solver=solver)
    assert answer.gradient["x"].tolist() == pytest.approx([0.2, 0.2], rel=1e-12)
    several = hypergradient(*at_rest(), strategy=strategy, solver=Adam(number=5, lr=0.1, eps=0.5))
    assert torch.isfinite(several.gradient["x"]).all() and float(several.gradient["x"].min()) > 0.2


def test_adam_unrolled_agrees_with_finite_differences_also_where_one_gradient_is_nothing() -> None:
    problem, outer, inner = at_rest()
    inner = {"y": inner["y"] + torch.tensor([0.0, 0.7], dtype=torch.float64)}
    solver = Adam(number=4, lr=0.1, eps=0.5)

    def upper_at(x: Tensor) -> float:
        return hypergradient(problem, {"x": x}, inner, strategy=Unroll(), solver=solver).value

    found = hypergradient(problem, outer, inner, strategy=Unroll(), solver=solver).gradient["x"]
    for i in range(2):
        # |g| has a kink at 0, which enters the second step by its square root: a one-sided width that shrinks would do as well
        e = torch.zeros(2, dtype=torch.float64)
        e[i] = 1e-6
        seen = (upper_at(outer["x"] + e) - upper_at(outer["x"] - e)) / 2e-6
        assert float(found[i]) == pytest.approx(seen, rel=1e-4)


def test_adams_steps_are_those_of_the_librarys_optimiser() -> None:
    case = problems.ridge()
    zeros = {n: torch.zeros_like(v) for n, v in case.inner.items()}
    one, other = (
        hypergradient(case.problem, case.outer, zeros, strategy=CG(), solver=solver, trust=BLIND).inner["w"]
        for solver in (Adam(number=7, lr=0.05), Fitted(optim=AdamW(lr=0.05), number=7))
    )
    torch.testing.assert_close(one, other)


# ---------------------------------------------------------------------- a learned start


def maml() -> tuple[Problem, dict[str, Tensor]]:
    """min |w|^2 after steps on |w - 1|^2 / 2 that begin at the outer parameters."""
    problem = Problem(lambda x, y: 0.5 * (y["w"] ** 2).sum(), lambda x, y: 0.5 * ((y["w"] - 1) ** 2).sum(), start=dict)
    return problem, {"w": torch.tensor([3.0, -1.0], dtype=torch.float64)}


@pytest.mark.parametrize(
    "strategy",
    [CG(), MINRES(), Neumann(steps=5), HessianFree(curvature=1.0), StocBiO(step=0.5)],
    ids=lambda s: type(s).__name__,
)
def test_no_implicit_strategy_gives_a_start_the_slope_of_nothing(strategy: Any) -> None:
    """The implicit function theorem knows no start: a peer answers 0, which a meta-learner takes for an answer."""
    problem, w = maml()
    with pytest.raises(UserError, match="outer parameter 'w' has no effect .* use unroll where it is the start"):
        hypergradient(problem, w, w, strategy=strategy, solver=GD(steps=2, lr=0.5), trust=BLIND)


def test_unrolling_gives_a_start_its_slope() -> None:
    """Two steps of 0.5 on a curvature of 1: y - 1 = (w - 1) / 4, so dF/dw = y / 4."""
    problem, w = maml()
    found = hypergradient(problem, w, w, strategy=Unroll(), solver=GD(steps=2, lr=0.5)).gradient["w"]
    torch.testing.assert_close(found, (1 + (w["w"] - 1) / 4) / 4)


# ---------------------------------------------------------------------- no single minimum, or none


def valley(curvature: float) -> tuple[Problem, dict[str, Tensor], dict[str, Tensor]]:
    """g = (y1 - x)^2 / 2 + curvature y2^2 / 2 at its stationary point, with rows, and a box that nothing touches."""
    at = torch.tensor([2.0, 0.0], dtype=torch.float64)

    def lower(x: Params, y: Params) -> Tensor:
        return 0.5 * (y["y"][0] - x["x"]) ** 2 + 0.5 * curvature * y["y"][1] ** 2

    eye = torch.eye(2, dtype=torch.float64)
    problem = Problem(
        lambda x, y: 0.5 * ((y["y"] - 1) ** 2).sum(), lower, rows=lambda x, y: lower(x, y).reshape(1),
        constraints=Linear(torch.cat([eye, -eye]), torch.full((4,), 9.0, dtype=torch.float64)),
    )  # fmt: skip
    return problem, {"x": number(2.0)}, {"y": at}


IMPLICIT: list[Any] = [
    CG(), CG(product="difference"), MINRES(), Neumann(steps=50), Woodbury(), HessianFree(curvature=1.0), ActiveSet(),
    StocBiO(step=0.5, steps=30), Sustain(lr=0.1, step=0.5, steps=30),
]  # fmt: skip


def named(strategy: Any) -> str:
    return f"{type(strategy).__name__} {getattr(strategy, 'product', '')}".strip()


@pytest.mark.parametrize("strategy", IMPLICIT, ids=named)
def test_every_implicit_strategy_refuses_a_flat_lower_level_with_a_remedy(strategy: Any) -> None:
    with pytest.raises(NotTrusted, match="flat in a direction .* regularise it, or use unroll, f2sa or bome"):
        hypergradient(*valley(0.0), strategy=strategy)


@pytest.mark.parametrize("strategy", [s for s in IMPLICIT if not isinstance(s, MINRES)], ids=named)
def test_every_implicit_strategy_but_minres_refuses_negative_curvature_with_a_remedy(strategy: Any) -> None:
    with pytest.raises(NotTrusted, match="negative curvature .*, regularise it, or use unroll, forward or f2sa"):
        hypergradient(*valley(-0.5), strategy=strategy)


@pytest.mark.parametrize("strategy", [*IMPLICIT[:4], *IMPLICIT[6:]], ids=lambda s: type(s).__name__)
def test_and_takes_the_same_lower_level_once_it_is_curved(strategy: Any) -> None:
    answer = hypergradient(*valley(0.4), strategy=strategy)
    assert float(answer.gradient["x"]) == pytest.approx(1.0, rel=1e-3)


def test_a_probe_of_samples_looks_at_their_mean() -> None:
    """Each draw alone has a direction that it is flat in; together they have none, and that is the lower level."""
    eye = torch.eye(2, dtype=torch.float64)

    def drawn(step: int, draw: int) -> Problem:
        return Problem(lambda x, y: 0.5 * ((y["y"] - 1) ** 2).sum(), lambda x, y: (eye[draw % 2] @ y["y"] - x["x"]) ** 2)

    def mean_is_flat(step: int, draw: int) -> Problem:
        return Problem(drawn(0, 0).upper, drawn(0, 0).lower)

    start = {"x": number(2.0)}, {"y": torch.tensor([2.0, 2.0], dtype=torch.float64)}
    options: dict[str, Any] = {"strategy": StocBiO(step=0.2, steps=8), "optim": SGD(lr=0.01), "steps": 2, "run": Memory()}
    optimise(drawn, *start, **options)
    with pytest.raises(NotTrusted, match="^step 0: the lower loss is flat"):
        optimise(mean_is_flat, *start, **options)


# ---------------------------------------------------------------------- orders


def relative(found: Params, truth: Params) -> float:
    off = sum(float(((found[n] - truth[n]) ** 2).sum()) for n in truth)
    return (off / sum(float((t**2).sum()) for t in truth.values())) ** 0.5


def test_products_by_a_difference_are_off_by_the_root_of_rounding() -> None:
    world = problems.logistic()
    at, v = {"w": problems.normal(6, seed="at")}, problems.normal(6, seed="v")
    for dtype, bound in ((torch.float64, 1e-6), (torch.float32, 5e-3)):
        outer, inner = ({n: t.to(dtype) for n, t in tree.items()} for tree in (world.outer, at))
        lower = Lower(world.problem if dtype is torch.float64 else single(world), outer, inner)
        exact = lower.product(v.to(dtype))
        assert float((lower.difference(v.to(dtype)) - exact).norm() / exact.norm()) < bound
        assert not lower.difference(torch.zeros_like(exact)).any()
        by_gradients = Lower(world.problem if dtype is torch.float64 else single(world), outer, inner, exact=False)
        torch.testing.assert_close(by_gradients.slope_D, lower.slope_D)
        for (cross, image_D), (other, other_D) in ((lower.both(v.to(dtype)), by_gradients.both(v.to(dtype))),):
            assert relative({"H": other_D}, {"H": image_D}) < bound and relative(other, cross) < bound
        nothing, zeros_D = by_gradients.both(torch.zeros_like(exact))
        assert not zeros_D.any() and not any(c.any() for c in nothing.values())
    case = problems.ridge()
    answer = hypergradient(case.problem, case.outer, case.inner, strategy=CG(product="difference"))
    assert relative(answer.gradient, case.gradient) < 1e-5
    assert answer.diagnosis.residual is not None and 0 < answer.diagnosis.residual < 1e-5
    with pytest.raises(UserError, match="has no effect on the lower loss"):
        Lower(
            Problem(case.problem.upper, lambda x, y: (x["a"] ** 2).sum()),
            {"a": torch.ones(1)},
            {"y": torch.ones(1)},
            exact=False,
        )


def single(world: Any) -> Problem:
    """The logistic problem's lower loss in float32."""
    features, labels = world.features.float(), world.labels.float()

    def lower(outer: Params, inner: Params) -> Tensor:
        loss = torch.nn.functional.binary_cross_entropy_with_logits(features @ inner["w"], labels)
        return loss + 0.5 * (torch.nn.functional.softplus(outer["raw"]) * inner["w"] ** 2).sum() / len(labels)

    return Problem(lower, lower)


@pytest.mark.parametrize("mu", [0.5, 2.0])
def test_the_error_of_unrolling_falls_by_one_less_the_step_times_the_smallest_curvature(mu: float) -> None:
    """From a start that is no solution, and of two curvatures: in the long run the smaller one decides."""
    case, lr = problems.quadratic((mu, mu, 4.0, 4.0)), 0.1
    start = {n: torch.zeros_like(v) for n, v in case.inner.items()}

    def after(steps: int) -> float:
        solver = GD(steps=steps, lr=lr)
        found = hypergradient(case.problem, case.outer, start, strategy=Unroll(), solver=solver, trust=BLIND)
        return relative(found.gradient, case.gradient)

    few, more = (100, 140) if mu < 1 else (40, 50)
    assert after(more) / after(few) == pytest.approx((1 - lr * mu) ** (more - few), rel=0.02)


def test_the_neumann_error_falls_by_the_largest_factor_of_the_spectrum() -> None:
    case = problems.quadratic((0.5, 1.0, 2.0, 4.0))
    errors = [
        relative(hypergradient(case.problem, case.outer, case.inner, strategy=Neumann(steps=k, step=0.3), trust=BLIND).gradient,
                 case.gradient) for k in (30, 60)
    ]  # fmt: skip
    assert errors[1] / errors[0] == pytest.approx(0.85**30, rel=0.02)


@pytest.mark.parametrize("x", [-0.1, 0.0, 0.15])
def test_a_perturbed_kink_is_smoothed_into_the_normal_distribution(x: float) -> None:
    """y* = max(x - e, 0) with e ~ N(0, s^2): on average dF/dx is P(e < x) = Phi(x / s), which has no kink (SIGD)."""
    one, s, draws = torch.ones(1, 1, dtype=torch.float64), 0.1, 150
    problem = Problem(
        lambda x, y: y["y"].sum(), lambda x, y: 0.5 * ((y["y"] - x["x"]) ** 2).sum(),
        constraints=Linear(-one, torch.zeros(1, dtype=torch.float64)),
    )  # fmt: skip
    solver = Projected(1, 1.0, lambda inner: {n: v.clamp(min=0) for n, v in inner.items()})
    at = torch.tensor([x], dtype=torch.float64)
    found = [
        float(hypergradient(
            problem, {"x": at}, {"y": at.clamp(min=0)}, strategy=ActiveSet(perturb=s), solver=solver,
            rng=torch.Generator().manual_seed(seed), trust=Trust(stationarity=None, multiplier=None, probe=0),
        ).gradient["x"]) for seed in range(draws)
    ]  # fmt: skip
    wanted = 0.5 * (1 + math.erf(x / s / 2**0.5))
    assert sum(found) / draws == pytest.approx(wanted, abs=4 * (wanted * (1 - wanted) / draws) ** 0.5)


def closed_minimum(case: Any) -> Tensor:
    """Where dF/dx, which is linear in x on the quadratic, is 0; by its values at 0 and along the axes."""

    def slope(x: Tensor) -> Tensor:
        at = case.solve({"x": x}, {})
        return hypergradient(case.problem, {"x": x}, at, strategy=CG(), trust=BLIND).gradient["x"]

    zero = torch.zeros(3, dtype=torch.float64)
    base = slope(zero)
    matrix = torch.stack([slope(e) - base for e in torch.eye(3, dtype=torch.float64)], 1)
    return torch.linalg.solve(matrix, -base)


STOCHASTIC: dict[str, dict[str, Any]] = {
    "stocbio": {"strategy": StocBiO(step=0.5, steps=6), "solver": GD(steps=4, lr=0.4)},
    "sustain": {"strategy": Sustain(lr=0.4, step=0.5, steps=6, beta=0.3)},
}


def tilted(case: Any, spread: float) -> Callable[[int, int], Problem]:
    """Noise in the slopes of both levels, with mean 0: the minimum stays where it is."""

    def drawn(step: int, draw: int) -> Problem:
        tilt = spread * problems.normal(3, seed=f"{step} {draw} t")
        return replace(
            case.problem, upper=lambda x, y: case.problem.upper(x, y) + tilt @ y["many"],
            lower=lambda x, y: case.problem.lower(x, y) - tilt @ y["many"],
        )  # fmt: skip

    return drawn


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_loops_reach_the_closed_form(name: str) -> None:
    """Without noise to the series' own error, which 7 terms leave; with noise to a distance that falls with the step size."""
    case = problems.quadratic((1.0, 1.5, 2.0, 2.5))
    best, options = closed_minimum(case), {**STOCHASTIC[name], "trust": Trust(probe=4), "run": Memory()}
    start = float((case.outer["x"] - best).norm())
    still = optimise(case.problem, case.outer, case.inner, optim=SGD(lr=0.2), steps=50, **options)
    assert float((still.outer["x"] - best).norm()) < 0.01 * start
    noisy = optimise(tilted(case, 0.3), case.outer, case.inner, optim=SGD(lr=0.2, schedule="linear"), steps=50, **options)
    assert float((noisy.outer["x"] - best).norm()) < 0.12 * start


# ---------------------------------------------------------------------- a peer


def test_higher_agrees_on_the_unrolled_hypergradient() -> None:
    """An oracle where it is installed; nothing depends on it."""
    higher = pytest.importorskip("higher")
    case, lr, steps = problems.ridge(), 0.01, 6
    log = case.outer["log"].clone().requires_grad_()

    class Weights(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros_like(case.inner["w"]))

        def forward(self) -> Tensor:
            return self.w

    module = Weights()
    with higher.innerloop_ctx(module, torch.optim.SGD(module.parameters(), lr=lr), copy_initial_weights=False) as (net, opt):
        for _ in range(steps):
            opt.step(case.problem.lower({"log": log}, {"w": net()}))
        theirs = torch.autograd.grad(case.problem.upper({}, {"w": net()}), log)[0]
    zeros = {n: torch.zeros_like(v) for n, v in case.inner.items()}
    for strategy in (Unroll(), Unroll(checkpoint=True), Forward()):
        ours = hypergradient(case.problem, case.outer, zeros, strategy=strategy, solver=GD(steps=steps, lr=lr))
        torch.testing.assert_close(ours.gradient["log"], theirs, rtol=1e-9, atol=1e-12)
