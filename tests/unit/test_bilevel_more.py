"""The strategies beyond the core, the outer loop, and the comparison with finite differences."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from amends.bilevel.compare import against_differences
from amends.bilevel.optimise import optimise
from amends.bilevel.problem import Linear, Point, Problem, hypergradient
from amends.bilevel.solvers import GD, Closed, Given, Projected
from amends.bilevel.strategies.active_set import ActiveSet
from amends.bilevel.strategies.bome import BOME
from amends.bilevel.strategies.cg import CG
from amends.bilevel.strategies.darts import Darts
from amends.bilevel.strategies.f2sa import F2SA
from amends.bilevel.strategies.forward import Forward
from amends.bilevel.strategies.neumann import Neumann
from amends.bilevel.strategies.stocbio import StocBiO
from amends.bilevel.strategies.sustain import Sustain
from amends.bilevel.strategies.unroll import Unroll
from amends.bilevel.strategies.woodbury import Woodbury
from amends.bilevel.strategies.zeroth import Zeroth
from amends.bilevel.trust import NotTrusted, Trust
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.protocols import Params
from amends.engine.optim import SGD, AdamW

sys.path.insert(0, str(Path(__file__).parent))
problems = importlib.import_module("bilevel_problems")
BLIND = Trust.blind()


def zeros(tree: Params) -> dict[str, Tensor]:
    return {n: torch.zeros_like(v) for n, v in tree.items()}


# ---------------------------------------------------------------------- strategies


@pytest.mark.parametrize("case", [problems.quadratic, problems.ridge, lambda: problems.ridge(scalar=True)])
def test_forward_mode_is_reverse_mode(case: Callable[[], Any]) -> None:
    made = case()
    solver = GD(steps=7, lr=0.02)
    one, other = (
        hypergradient(made.problem, made.outer, zeros(made.inner), strategy=s, solver=solver) for s in (Forward(), Unroll())
    )
    for n, g in other.gradient.items():
        torch.testing.assert_close(one.gradient[n], g)
    assert one.value == pytest.approx(other.value)
    for n, v in other.inner.items():
        torch.testing.assert_close(one.inner[n], v)


def test_forward_mode_sees_a_learned_start_and_refuses_many_numbers() -> None:
    maml = Problem(lambda x, y: (y["w"] ** 3).sum(), lambda x, y: (y["w"] ** 4).sum(), start=dict)
    w = {"w": problems.normal(3, seed="w")}
    one, other = (hypergradient(maml, w, w, strategy=s, solver=GD(steps=3, lr=0.05)) for s in (Forward(), Unroll()))
    torch.testing.assert_close(one.gradient["w"], other.gradient["w"])
    with pytest.raises(UserError, match="forward: 3 outer numbers, each a whole solution"):
        hypergradient(maml, w, w, strategy=Forward(at_most=2), solver=GD(steps=3, lr=0.05))


def test_the_difference_of_darts_is_exact_where_its_assumption_is() -> None:
    case = problems.quadratic((4.0, 4.0, 4.0, 4.0))
    right = hypergradient(case.problem, case.outer, case.inner, strategy=Darts(lr=0.25))
    torch.testing.assert_close(right.gradient["x"], case.gradient["x"], rtol=1e-6, atol=1e-6)
    other = problems.quadratic()
    off = hypergradient(other.problem, other.outer, other.inner, strategy=Darts(lr=0.25))
    assert float((off.gradient["x"] - other.gradient["x"]).norm() / other.gradient["x"].norm()) > 0.1


def test_two_values_along_random_directions_are_right_on_average() -> None:
    """Relative error sqrt((d + 1) / n): 0.14 with d = 3 and 200 directions."""
    case = problems.quadratic()
    solver = Closed(case.solve)
    found = hypergradient(case.problem, case.outer, case.inner, strategy=Zeroth(directions=200), solver=solver)
    assert float((found.gradient["x"] - case.gradient["x"]).norm() / case.gradient["x"].norm()) < 0.35
    again = hypergradient(case.problem, case.outer, case.inner, strategy=Zeroth(directions=200), solver=solver)
    assert torch.equal(found.gradient["x"], again.gradient["x"]), "equal seeds, equal directions"


def test_woodbury_inverts_the_fisher_matrix_of_rows() -> None:
    features, labels = problems.normal(9, 4, seed="F"), (problems.normal(9, seed="l") > 0).double()
    damping = 0.05

    def rows(outer: Params, inner: Params) -> Tensor:
        logits = features @ inner["w"] + inner["b"]
        return outer["x"].exp() * torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")

    def lower(outer: Params, inner: Params) -> Tensor:
        return rows(outer, inner).mean() + 0.5 * damping * (inner["w"] ** 2).sum() + 0.5 * damping * inner["b"] ** 2

    problem = Problem(lambda x, y: (y["w"] ** 2).sum() + y["b"], lower, rows)
    x = {"x": torch.tensor([0.2] * 9, dtype=torch.float64)}
    y = {"w": problems.normal(4, seed="w"), "b": torch.tensor(0.3, dtype=torch.float64)}
    answer = hypergradient(problem, x, y, strategy=Woodbury(damping=damping), trust=BLIND)

    def joined(v: Tensor) -> dict[str, Tensor]:
        return {"w": v[:4], "b": v[4]}

    flat_y = torch.cat([y["w"], y["b"].reshape(1)])
    single = torch.func.jacrev(lambda v: rows(x, joined(v)))(flat_y)
    fisher = damping * torch.eye(5, dtype=torch.float64) + single.T @ single / 9
    b = torch.cat([2 * y["w"], torch.ones(1, dtype=torch.float64)])
    cross = torch.func.jacrev(torch.func.grad(lambda v, z: lower({"x": z}, joined(v))), argnums=1)(flat_y, x["x"])
    torch.testing.assert_close(answer.gradient["x"], -cross.T @ torch.linalg.solve(fisher, b))
    assert answer.diagnosis.bias is not None and answer.diagnosis.bias > 0.01, "the Fisher matrix is not the Hessian here"
    with pytest.raises(UserError, match="woodbury: the problem needs `rows`"):
        hypergradient(replace(problem, rows=None), x, y, strategy=Woodbury())
    with pytest.raises(UserError, match=r"not \[N\] with N up to 4"):
        hypergradient(problem, x, y, strategy=Woodbury(at_most=4), trust=BLIND)


# ---------------------------------------------------------------------- a lower level that is held


def boxed() -> tuple[Problem, dict[str, Tensor], Any]:
    """min_y y'Hy/2 - x'y on the box |y| <= 0.4, and an upper loss that wants y elsewhere."""
    turn = torch.linalg.qr(problems.normal(5, 5, seed="box"))[0]
    hessian = turn @ torch.diag(torch.tensor([1.0, 1.5, 2.0, 3.0, 4.0], dtype=torch.float64)) @ turn.T
    eye, target = torch.eye(5, dtype=torch.float64), problems.normal(5, seed="target")
    problem = Problem(
        lambda x, y: 0.5 * ((y["y"] - target) ** 2).sum(),
        lambda x, y: 0.5 * y["y"] @ hessian @ y["y"] - x["x"] @ y["y"],
        constraints=Linear(torch.cat([eye, -eye]), torch.full((10,), 0.4, dtype=torch.float64)),
    )
    solver = Projected(100, 0.25, lambda inner: {n: v.clamp(-0.4, 0.4) for n, v in inner.items()})
    return problem, {"x": 2 * problems.normal(5, seed="box at")}, solver


def test_active_bounds_are_held_and_the_rest_moves_as_finite_differences_say() -> None:
    problem, x, solver = boxed()
    start = {"y": torch.zeros(5, dtype=torch.float64)}
    answer = hypergradient(problem, x, start, strategy=ActiveSet(), solver=solver)
    active = int((answer.inner["y"].abs() == 0.4).sum())
    assert 0 < active < 5, "some are held and some are not"
    seen = against_differences(answer, problem, x, start, solver=solver, width=1e-5)
    assert seen.whole and seen.degrees < 1e-3 and seen.ratio == pytest.approx(1, abs=1e-5)
    ignored = hypergradient(replace(problem, constraints=None), x, start, strategy=CG(), solver=solver, trust=BLIND)
    assert against_differences(ignored, problem, x, start, solver=solver, width=1e-5).degrees > 5
    with pytest.raises(NotTrusted) as told:
        hypergradient(replace(problem, constraints=None), x, start, strategy=CG(), solver=solver)
    assert "has not converged" in str(told.value), "without the constraints the same point is no minimum"


def simplex(v: Tensor) -> Tensor:
    """The nearest point with entries of at least 0 that add up to 1."""
    ordered = v.sort(descending=True).values
    counts = torch.arange(1, len(v) + 1, dtype=v.dtype)
    level = (ordered.cumsum(0) - 1) / counts
    return (v - level[int((ordered > level).sum()) - 1]).clamp(min=0)


def test_weights_on_a_simplex_move_as_the_derivation_says_sign_and_all() -> None:
    """lam* = argmax <lam, u> - gamma |lam|^2 / 2: dlam/du = (I - 11'/s) / gamma on the support of size s, 0 elsewhere."""
    gamma, c = 2.0, problems.normal(4, seed="c")
    u = torch.tensor([1.0, 0.6, 0.2, -3.0], dtype=torch.float64)
    eye, ones = torch.eye(4, dtype=torch.float64), torch.ones(1, 4, dtype=torch.float64)
    problem = Problem(
        lambda x, y: c @ y["lam"],
        lambda x, y: -(y["lam"] @ x["u"]) + 0.5 * gamma * (y["lam"] ** 2).sum(),
        constraints=Linear(torch.cat([ones, -eye]), torch.tensor([1.0, 0, 0, 0, 0], dtype=torch.float64), num_equal=1),
    )
    solver = Closed(lambda outer, inner: {"lam": simplex(outer["u"] / gamma)})
    answer = hypergradient(problem, {"u": u}, {"lam": u}, strategy=ActiveSet(), solver=solver)
    support = answer.inner["lam"] > 0
    assert support.tolist() == [True, True, True, False]
    expected = torch.where(support, (c - c[support].mean()) / gamma, 0.0)
    torch.testing.assert_close(answer.gradient["u"], expected)


def test_where_the_active_set_changes_there_is_no_derivative_unless_it_is_perturbed() -> None:
    """y* = max(x, 0) at x = 0."""
    one = torch.ones(1, 1, dtype=torch.float64)
    problem = Problem(
        lambda x, y: (y["y"]).sum(), lambda x, y: 0.5 * ((y["y"] - x["x"]) ** 2).sum(),
        constraints=Linear(-one, torch.zeros(1, dtype=torch.float64)),
    )  # fmt: skip
    solver = Projected(60, 0.5, lambda inner: {n: v.clamp(min=0) for n, v in inner.items()})
    zero = torch.zeros(1, dtype=torch.float64)
    with pytest.raises(NotTrusted, match="the active set is about to change"):
        hypergradient(problem, {"x": zero}, {"y": zero}, strategy=ActiveSet(), solver=solver)
    sides = set()
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        found = hypergradient(
            problem, {"x": zero}, {"y": zero}, strategy=ActiveSet(perturb=0.1), solver=solver, rng=generator,
            trust=Trust(stationarity=None),
        )  # fmt: skip
        sides.add(float(found.gradient["x"]))
    assert sides == {0.0, 1.0}, "the slope of either side"
    with pytest.raises(UserError, match="break constraint 0 by 2: the solver has to keep the constraints"):
        hypergradient(problem, {"x": zero}, {"y": zero - 2}, strategy=ActiveSet())
    with pytest.raises(UserError, match="the problem has no `constraints`: use cg"):
        hypergradient(replace(problem, constraints=None), {"x": zero}, {"y": zero}, strategy=ActiveSet())


# ---------------------------------------------------------------------- samples


def sampled(case: Any, spread: float) -> Callable[[int, int], Problem]:
    """The quadratic with noise in the lower loss's curvature and slope, and in the upper loss's slope."""

    def drawn(step: int, draw: int) -> Problem:
        bent = 1 + spread * problems.normal(1, seed=f"{step} {draw} a")
        slope = spread * problems.normal(3, seed=f"{step} {draw} b")

        def lower(outer: Params, inner: Params) -> Tensor:
            pushed = slope @ inner["many"]
            return case.problem.lower(outer, inner) + pushed + 0.5 * (bent[0] - 1) * (inner["many"] ** 2).sum()

        return Problem(lambda x, y: case.problem.upper(x, y) + slope @ y["many"], lower)

    return drawn


def at_point(case: Any, **more: Any) -> Point:
    return Point(case.problem, case.outer, case.inner, Given(), BLIND, torch.Generator().manual_seed(0), **more)


def test_sampled_implicit_differentiation_without_noise_is_the_neumann_series() -> None:
    case = problems.quadratic()
    sampled_, whole = (
        hypergradient(case.problem, case.outer, case.inner, strategy=s, trust=BLIND)
        for s in (StocBiO(step=0.2, steps=12), Neumann(step=0.2, steps=12))
    )
    torch.testing.assert_close(sampled_.gradient["x"], whole.gradient["x"])
    with pytest.raises(NotTrusted, match="the Neumann series with step 3 does not converge"):
        hypergradient(case.problem, case.outer, case.inner, strategy=StocBiO(step=3.0))


def test_sampled_estimates_are_right_on_average() -> None:
    case, strategy = problems.quadratic(), StocBiO(step=0.2, steps=4)
    draws = sampled(case, 0.3)
    each = torch.stack([
        strategy(at_point(case, draws=lambda k, step=step: draws(step, k))).gradient["x"] for step in range(100)
    ])  # fmt: skip
    series = hypergradient(case.problem, case.outer, case.inner, strategy=Neumann(step=0.2, steps=4), trust=BLIND)
    off = (each.mean(0) - series.gradient["x"]) / (each.std(0) / len(each) ** 0.5)
    assert off.abs().max() < 4, "within sampling error"


def test_a_momentum_without_noise_is_the_gradient_itself() -> None:
    case = problems.quadratic()
    strategy, memory, x, y = Sustain(lr=0.1, step=0.2, steps=8, beta=0.3), {}, case.outer, case.inner
    for step in range(4):
        point = replace(at_point(case, step=step, memory=memory), outer=x, inner=y)
        answer = strategy(point)
        plain = StocBiO(step=0.2, steps=8)(replace(point, memory={}))
        torch.testing.assert_close(answer.gradient["x"], plain.gradient["x"])
        x, y, memory = {"x": x["x"] - 0.1 * answer.gradient["x"]}, answer.inner, answer.memory


def test_a_momentum_takes_noise_out() -> None:
    """At one point the momentum is an exponential mean of samples: its variance is beta / (2 - beta) of one sample's."""
    case, beta = problems.quadratic(), 0.2
    strategy, memory, draws = Sustain(lr=1e-12, step=0.2, steps=2, beta=beta), {}, sampled(case, 0.3)
    found, single = [], []
    for step in range(100):
        point = at_point(case, step=step, memory=memory, draws=lambda k, step=step: draws(step, k))
        answer = strategy(point)
        memory = answer.memory
        found.append(answer.gradient["x"])
        single.append(strategy(replace(point, memory={})).gradient["x"])
    ratio = float(torch.stack(found[20:]).var(0).sum() / torch.stack(single[20:]).var(0).sum())
    assert 0.3 < ratio / (beta / (2 - beta)) < 2.5


# ---------------------------------------------------------------------- the outer loop


def best_penalty() -> tuple[float, float]:
    """The log of the one ridge penalty that is best, and F there, by search over closed forms."""
    case = problems.ridge(scalar=True)
    logs = torch.linspace(-2, 6, 801, dtype=torch.float64)
    values = [float(case.problem.upper({}, case.solve({"log": log}, {}))) for log in logs]
    at = int(torch.tensor(values).argmin())
    return float(logs[at]), values[at]


@pytest.mark.parametrize("strategy", [CG(), Neumann(steps=200), Unroll(), F2SA(sigma=1e4)], ids=lambda s: type(s).__name__)
def test_a_penalty_is_learned_where_a_peers_defaults_went_astray(strategy: Any) -> None:
    case = problems.ridge(scalar=True)
    log, value = best_penalty()
    start = {"log": torch.tensor(0.5, dtype=torch.float64)}
    run = Memory()
    trust = Trust(stationarity=0.05, probe=2)
    found = optimise(
        case.problem, start, zeros(case.inner), strategy=strategy, solver=GD(steps=40, lr=0.015), optim=AdamW(lr=0.3), steps=25,
        trust=trust, run=run,
    )  # fmt: skip
    assert found.values[-1] - value < 0.05 * (found.values[0] - value), (found.outer, log)
    assert [line["step"] for line in run.logged] == list(range(1, 26)) and run.logged[0]["loss"] == found.values[0]
    assert float(start["log"]) == 0.5


def test_a_warm_start_needs_fewer_inner_steps() -> None:
    """The same few steps are refused from a cold start, and suffice from where the last ones ended."""
    case = problems.ridge(scalar=True)
    options: dict[str, Any] = {
        "strategy": CG(), "solver": GD(steps=6, lr=0.015), "optim": SGD(lr=0.01), "steps": 8, "run": Memory(),
        "trust": Trust(stationarity=0.02),
    }  # fmt: skip
    optimise(case.problem, case.outer, case.inner, **options)
    with pytest.raises(NotTrusted, match="^step 0: the lower level has not converged"):
        optimise(case.problem, case.outer, zeros(case.inner), warm=False, **options)


def test_rows_of_a_step_are_drawn_by_step_and_draw() -> None:
    case = problems.quadratic()
    seen: list[tuple[int, int]] = []
    noisy = sampled(case, 0.1)

    def drawn(step: int, draw: int) -> Problem:
        seen.append((step, draw))
        return noisy(step, draw)

    options: dict[str, Any] = {"optim": SGD(lr=0.05), "steps": 15, "run": Memory()}
    found = optimise(drawn, case.outer, case.inner, strategy=StocBiO(step=0.2, steps=8), solver=GD(steps=3, lr=0.3), **options)
    assert (14, 12) in seen and len({s for s, _ in seen}) == 15
    assert found.values[-1] < found.values[0]
    again = optimise(drawn, case.outer, case.inner, strategy=StocBiO(step=0.2, steps=8), solver=GD(steps=3, lr=0.3), **options)
    assert found.values == again.values
    sustained = optimise(drawn, case.outer, case.inner, strategy=Sustain(lr=0.2, step=0.2), **options)
    assert sustained.values[-1] < sustained.values[0]
    barrier = optimise(case.problem, case.outer, case.inner, strategy=BOME(lr=0.1), solver=GD(steps=5, lr=0.3), **options)
    assert barrier.values[-1] < barrier.values[0]


# ---------------------------------------------------------------------- against finite differences


def test_the_angle_to_finite_differences_tells_right_from_biased_from_wrong() -> None:
    world = problems.logistic()
    solver = Closed(world.solve)
    right = hypergradient(world.problem, world.outer, world.start, strategy=CG(), solver=solver)
    seen = against_differences(right, world.problem, world.outer, world.start, solver=solver)
    assert seen.whole and seen.directions == 6 and seen.degrees < 0.01 and seen.ratio == pytest.approx(1, abs=1e-4)
    biased = hypergradient(world.problem, world.outer, world.start, strategy=Darts(lr=1.0), solver=solver)
    assert against_differences(biased, world.problem, world.outer, world.start, solver=solver).degrees > 1
    wrong = replace(right, gradient={n: -g for n, g in right.gradient.items()})
    assert against_differences(wrong, world.problem, world.outer, world.start, solver=solver).degrees > 179
    few = against_differences(right, world.problem, world.outer, world.start, solver=solver, directions=3)
    assert not few.whole and few.directions == 3 and few.degrees < 0.01
    with pytest.raises(UserError, match="against_differences: the lower level has to be solved anew"):
        against_differences(right, world.problem, world.outer, world.start, solver=Given())


# ---------------------------------------------------------------------- a peer


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_torchopt_agrees_on_the_implicit_hypergradient() -> None:
    """An oracle where it is installed; nothing depends on it."""
    torchopt = pytest.importorskip("torchopt")
    case = problems.ridge()
    w, log = case.inner["w"], case.outer["log"].clone().requires_grad_()

    @torchopt.diff.implicit.custom_root(
        torch.func.grad(lambda y, x: case.problem.lower({"log": x}, {"w": y}), argnums=0), argnums=1,
        solve=torchopt.linear_solve.solve_cg(maxiter=50),
    )  # fmt: skip
    def solved(start: Tensor, x: Tensor) -> Tensor:
        return w

    loss = case.problem.upper({}, {"w": solved(torch.zeros_like(w), log)})
    theirs = torch.autograd.grad(loss, log)[0]
    ours = hypergradient(case.problem, case.outer, case.inner, strategy=CG()).gradient["log"]
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
