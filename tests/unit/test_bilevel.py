"""Hypergradients: closed forms, finite differences, how each strategy's error falls, and what must not pass for an answer."""

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

from amends.bilevel.curvature import Lower, lanczos, largest_eigenvalue
from amends.bilevel.problem import Answer, Problem, hypergradient
from amends.bilevel.solvers import GD, Closed, Fitted
from amends.bilevel.strategies.bome import BOME
from amends.bilevel.strategies.cg import CG, conjugate_gradients
from amends.bilevel.strategies.f2sa import F2SA
from amends.bilevel.strategies.hessian_free import HessianFree
from amends.bilevel.strategies.identity import Identity
from amends.bilevel.strategies.minres import MINRES
from amends.bilevel.strategies.neumann import Neumann
from amends.bilevel.strategies.unroll import Unroll
from amends.bilevel.tree import angle
from amends.bilevel.trust import NotTrusted, Trust
from amends.core.errors import UserError
from amends.core.protocols import Params
from amends.engine.optim import SGD, AdamW

sys.path.insert(0, str(Path(__file__).parent))
problems = importlib.import_module("bilevel_problems")

BLIND = Trust.blind()
CASES: dict[str, Callable[[], Any]] = {
    "quadratic": problems.quadratic, "ridge": problems.ridge, "ridge, one number": lambda: problems.ridge(scalar=True),
}  # fmt: skip


def zeros(tree: Params) -> dict[str, Tensor]:
    return {n: torch.zeros_like(v) for n, v in tree.items()}


def error(answer: Answer, truth: Params) -> float:
    """Relative, over all tensors."""
    off = sum(float(((answer.gradient[n] - truth[n]) ** 2).sum()) for n in truth)
    return (off / sum(float((t**2).sum()) for t in truth.values())) ** 0.5


# ---------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("strategy", [CG(), MINRES(), Neumann(steps=300)], ids=lambda s: type(s).__name__)
def test_implicit_strategies_give_the_closed_form(name: str, strategy: Any) -> None:
    case = CASES[name]()
    answer = hypergradient(case.problem, case.outer, case.inner, strategy=strategy)
    assert error(answer, case.gradient) < 1e-6
    assert answer.gradient.keys() == case.outer.keys()
    assert all(answer.gradient[n].shape == v.shape for n, v in case.outer.items()), "a number without axes keeps none"
    assert answer.diagnosis.residual is not None and answer.diagnosis.residual < 1e-6 and answer.diagnosis.exact


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("checkpoint", [False, True])
def test_unrolling_to_convergence_gives_the_closed_form(name: str, checkpoint: bool) -> None:
    case = CASES[name]()
    solver = GD(steps=200, lr=0.4 if name == "quadratic" else 0.025)
    strategy = Unroll(checkpoint=checkpoint)
    answer = hypergradient(case.problem, case.outer, zeros(case.inner), strategy=strategy, solver=solver)
    assert error(answer, case.gradient) < 1e-6
    for n, v in case.inner.items():
        torch.testing.assert_close(answer.inner[n], v)


def test_a_closed_form_of_the_lower_level_can_be_unrolled() -> None:
    """Ridge's normal equations, differentiated by autograd."""
    case = problems.ridge()
    for strategy in (Unroll(), Unroll(checkpoint=True), CG()):
        answer = hypergradient(case.problem, case.outer, zeros(case.inner), strategy=strategy, solver=Closed(case.solve))
        assert error(answer, case.gradient) < 1e-6


def test_an_outer_number_without_axes_gets_its_slope() -> None:
    """A peer returns 0 for it. y* = x, F = (x - 1)^2 / 2, dF/dx at 3 is 2."""
    problem = Problem(lambda x, y: 0.5 * (y["y"] - 1) ** 2, lambda x, y: 0.5 * (y["y"] - x["x"]) ** 2)
    three = torch.tensor(3.0)
    for strategy in (CG(), MINRES(), Neumann(), HessianFree(curvature=1.0)):
        answer = hypergradient(problem, {"x": three}, {"y": three}, strategy=strategy)
        assert answer.gradient["x"].shape == () and float(answer.gradient["x"]) == pytest.approx(2.0, rel=1e-5)
    unrolled = hypergradient(problem, {"x": three}, {"y": three}, strategy=Unroll(), solver=GD(steps=1, lr=1.0))
    assert float(unrolled.gradient["x"]) == pytest.approx(2.0)


def test_only_what_was_asked_for_is_left_as_it_was() -> None:
    case = problems.quadratic()
    before = {n: v.clone() for n, v in {**case.outer, **case.inner}.items()}
    hypergradient(case.problem, case.outer, case.inner, strategy=Unroll(), solver=GD(steps=3, lr=0.1))
    assert all(torch.equal(v, before[n]) and not v.requires_grad for n, v in {**case.outer, **case.inner}.items())


# ---------------------------------------------------------------------- how errors fall


def test_conjugate_gradients_are_exact_after_as_many_steps_as_eigenvalues_differ() -> None:
    """With eigenvalues 1, 1, 1, 5 two steps do, whatever the dimension; one step does not."""
    case = problems.quadratic((1.0, 1.0, 1.0, 5.0))
    found = [
        hypergradient(case.problem, case.outer, case.inner, strategy=CG(steps=k, tolerance=0), trust=BLIND) for k in (1, 2)
    ]
    assert error(found[0], case.gradient) > 1e-3 and error(found[1], case.gradient) < 1e-12


def test_conjugate_gradients_with_the_old_residual_would_be_noticed() -> None:
    """p' = r_old + beta p, which a peer shipped: the same loop with that line goes wrong, and the true residual says so."""
    matrix, b = torch.diag(torch.tensor([1.0, 3.0, 9.0], dtype=torch.float64)), torch.ones(3, dtype=torch.float64)

    def wrong(steps: int) -> Tensor:
        v, r = torch.zeros_like(b), b
        p = r
        for _ in range(steps):
            alpha = (r @ r) / (p @ matrix @ p)
            v, new = v + alpha * p, r - alpha * matrix @ p
            p, r = r + (new @ new) / (r @ r) * p, new
        return v

    right, _ = conjugate_gradients(lambda v: matrix @ v, b, steps=3, tolerance=0)
    torch.testing.assert_close(right, b / matrix.diagonal())
    assert float((matrix @ wrong(3) - b).norm() / b.norm()) > 0.1 > 1e-12 > float((matrix @ right - b).norm())


def test_the_neumann_series_falls_by_its_spectral_radius_at_each_term() -> None:
    case = problems.quadratic((1.0, 4.0))
    found = [
        hypergradient(case.problem, case.outer, case.inner, strategy=Neumann(steps=k, step=0.2), trust=BLIND)
        for k in (20, 21, 40)
    ]
    errors = [error(f, case.gradient) for f in found]
    assert errors[1] / errors[0] == pytest.approx(0.8, rel=1e-3) and errors[2] / errors[0] == pytest.approx(0.8**20, rel=1e-2)
    assert found[2].diagnosis.radius == pytest.approx(0.8, rel=1e-3)


def test_unrolling_falls_by_the_contraction_of_a_step_and_truncation_leaves_a_bias() -> None:
    """Error (1 - eta mu)^T times a line in T; through the last K steps at the solution it is (1 - eta mu)^K."""
    case = problems.quadratic((1.0, 1.0, 1.0, 1.0))
    lr = 0.1

    def after(steps: int, start: Params, last: int | None = None) -> float:
        strategy, solver = Unroll(last=last), GD(steps=steps, lr=lr)
        return error(
            hypergradient(case.problem, case.outer, start, strategy=strategy, solver=solver, trust=BLIND), case.gradient
        )

    whole = [after(t, case.inner) for t in (20, 30)]
    assert whole[1] / whole[0] == pytest.approx(0.9**10, rel=1e-6)
    truncated = [after(100, case.inner, last=k) for k in (5, 10, 20)]
    assert truncated[1] / truncated[0] == pytest.approx(0.9**5, rel=1e-6)
    assert truncated[2] > 0.05, "twenty steps are not enough, and it shows"
    checkpointed = Unroll(last=10, checkpoint=True)
    again = hypergradient(case.problem, case.outer, case.inner, strategy=checkpointed, solver=GD(steps=100, lr=lr), trust=BLIND)
    assert error(again, case.gradient) == pytest.approx(truncated[1])


def test_signed_steps_leave_the_direct_term_alone() -> None:
    case = problems.quadratic()
    solver = GD(steps=5, lr=0.01, signed=True)
    answer = hypergradient(case.problem, case.outer, case.inner, strategy=Unroll(), solver=solver)
    torch.testing.assert_close(answer.gradient["x"], case.outer["x"])


def test_the_penalty_is_off_by_one_over_sigma() -> None:
    case = problems.quadratic()
    found = [
        hypergradient(case.problem, case.outer, case.inner, strategy=F2SA(sigma=s), solver=GD(steps=300, lr=0.4))
        for s in (1e3, 1e4)
    ]
    errors = [error(f, case.gradient) for f in found]
    assert errors[1] < 2e-3 and errors[0] / errors[1] == pytest.approx(10, rel=0.02)


def test_the_barrier_arrives_where_the_hypergradient_is_nothing() -> None:
    """y* = H^-1 B x on a quadratic: BOME's steps end near the minimum of F, as near as their size lets them."""
    case = problems.quadratic((1.0, 1.5, 2.0, 2.5))
    x, y = case.outer, case.inner
    for _ in range(250):
        answer = hypergradient(case.problem, x, y, strategy=BOME(lr=0.05), solver=GD(steps=10, lr=0.3))
        x, y = {"x": x["x"] - 0.05 * answer.gradient["x"]}, dict(answer.inner)
    before = hypergradient(case.problem, case.outer, case.inner, strategy=CG()).gradient["x"]
    after = hypergradient(case.problem, x, y, strategy=CG(), solver=GD(steps=200, lr=0.3)).gradient["x"]
    assert float(after.norm()) < 0.06 * float(before.norm())


def test_first_order_is_the_direct_term_or_the_start_moved_rigidly() -> None:
    case = problems.quadratic()
    assert torch.equal(hypergradient(case.problem, case.outer, case.inner, strategy=Identity()).gradient["x"], case.outer["x"])
    target = torch.tensor([1.0, -2.0])
    maml = Problem(lambda x, y: 0.5 * ((y["w"] - target) ** 2).sum(), lambda x, y: 0.5 * (y["w"] ** 2).sum(), start=dict)
    w = {"w": torch.tensor([2.0, 2.0])}
    solver = GD(steps=3, lr=0.5)
    first = hypergradient(maml, w, w, strategy=Identity(start=True), solver=solver)
    torch.testing.assert_close(first.gradient["w"], w["w"] / 8 - target)
    for strategy in (Unroll(), Unroll(checkpoint=True)):
        whole = hypergradient(maml, w, w, strategy=strategy, solver=solver)
        torch.testing.assert_close(whole.gradient["w"], (w["w"] / 8 - target) / 8)


# ---------------------------------------------------------------------- finite differences


def differences(world: Any, width: float = 1e-5) -> dict[str, Tensor]:
    """Central differences of F with the lower level solved to rounding."""
    found = torch.zeros_like(world.outer["raw"])
    for i in range(len(found)):
        values = []
        for sign in (1, -1):
            moved = world.outer["raw"].clone()
            moved[i] += sign * width
            values.append(float(world.problem.upper({"raw": moved}, world.solve({"raw": moved}, world.start))))
        found[i] = (values[0] - values[1]) / (2 * width)
    return {"raw": found}


@pytest.mark.parametrize("strategy", [CG(), MINRES(), Neumann(steps=2000), Unroll()], ids=lambda s: type(s).__name__)
def test_penalties_of_logistic_regression_agree_with_finite_differences(strategy: Any) -> None:
    world = problems.logistic()
    solver: Any = Closed(world.solve) if not isinstance(strategy, Unroll) else GD(steps=200, lr=3.0)
    answer = hypergradient(world.problem, world.outer, world.start, strategy=strategy, solver=solver)
    assert error(answer, differences(world)) < 1e-6


# ---------------------------------------------------------------------- what must not pass for an answer


def refused(problem: Problem, outer: Params, inner: Params, **options: Any) -> NotTrusted:
    with pytest.raises(NotTrusted) as caught:
        hypergradient(problem, outer, inner, **options)
    return caught.value


def test_a_neumann_series_that_diverges_is_an_error_and_says_which_step_is_safe() -> None:
    """A peer's default of 1 on ridge regression went the wrong way in silence."""
    case = problems.ridge()
    told = refused(case.problem, case.outer, case.inner, strategy=Neumann(step=1.0))
    assert "does not converge" in str(told) and "lower `step` (at most 0.0167 is safe)" in str(told)
    assert told.diagnosis.radius is not None and told.diagnosis.radius > 1
    blind = hypergradient(case.problem, case.outer, case.inner, strategy=Neumann(steps=5, step=1.0), trust=BLIND)
    assert error(blind, case.gradient) > 1e3
    short = refused(case.problem, case.outer, case.inner, strategy=Neumann(steps=2, step=0.001))
    assert "its residual is" in str(short) and "raise the strategy's `steps`" in str(short)


def test_too_few_conjugate_gradients_are_an_error() -> None:
    case = problems.quadratic((0.01, 0.3, 2.0, 40.0))
    assert "its residual is" in str(refused(case.problem, case.outer, case.inner, strategy=CG(steps=2)))
    assert error(hypergradient(case.problem, case.outer, case.inner, strategy=CG(steps=4)), case.gradient) < 1e-6


def saddle() -> tuple[Problem, dict[str, Tensor], dict[str, Tensor]]:
    """g = (y1^2 - y2^2)/2 - x1 y1 + x2 y2 is stationary at y = x; f = (y1 - 1)^2/2 + (y2 - 3)^2/2, so dF/dx = x - (1, 3)."""
    sign, target = torch.tensor([1.0, -1.0], dtype=torch.float64), torch.tensor([1.0, 3.0], dtype=torch.float64)
    problem = Problem(
        lambda x, y: 0.5 * ((y["y"] - target) ** 2).sum(),
        lambda x, y: (sign * (0.5 * y["y"] ** 2 - x["x"] * y["y"])).sum(),
    )
    at = torch.tensor([2.0, 5.0], dtype=torch.float64)
    return problem, {"x": at}, {"y": at}


@pytest.mark.parametrize("probe", [0, 8])
@pytest.mark.parametrize("strategy", [CG(), Neumann(steps=40)], ids=lambda s: type(s).__name__)
def test_a_saddle_is_no_minimum(strategy: Any, probe: int) -> None:
    problem, outer, inner = saddle()
    told = str(refused(problem, outer, inner, strategy=strategy, trust=Trust(probe=probe)))
    assert "negative curvature" in told or "flat in a direction" in told or "does not converge" in told


def test_minimal_residuals_differentiate_a_saddle() -> None:
    problem, outer, inner = saddle()
    answer = hypergradient(problem, outer, inner, strategy=MINRES())
    assert answer.gradient["x"].tolist() == pytest.approx([1.0, 2.0])
    assert answer.diagnosis.smallest == pytest.approx(-1.0) and answer.diagnosis.largest == pytest.approx(1.0)


def test_a_lower_level_that_has_not_converged_is_an_error() -> None:
    case = problems.quadratic()
    few = GD(steps=3, lr=0.1)
    for probe in (0, 8):
        told = refused(case.problem, case.outer, zeros(case.inner), strategy=CG(), solver=few, trust=Trust(probe=probe))
        assert "has not converged" in str(told) and "more steps, or use unroll" in str(told)
    hypergradient(case.problem, case.outer, zeros(case.inner), strategy=CG(), solver=GD(steps=60, lr=0.4))


def flat_valley(follows: bool) -> tuple[Problem, dict[str, Tensor], dict[str, Tensor]]:
    """g sees y1 only; f sees y1, or both."""
    problem = Problem(
        lambda x, y: 0.5 * ((y["y"] - 2.0) ** 2 * torch.tensor([1.0, float(follows)], dtype=torch.float64)).sum(),
        lambda x, y: 0.5 * (y["y"][0] - x["x"]) ** 2 + 0.0 * y["y"].sum(),
    )
    return problem, {"x": torch.tensor(1.0, dtype=torch.float64)}, {"y": torch.tensor([1.0, 0.5], dtype=torch.float64)}


@pytest.mark.parametrize("strategy", [CG(), MINRES()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("probe", [0, 8])
def test_a_lower_level_with_many_minima_has_no_implicit_answer(strategy: Any, probe: int) -> None:
    told = str(refused(*flat_valley(follows=True), strategy=strategy, trust=Trust(probe=probe)))
    assert "flat in a direction" in told or "its residual is" in told


def test_damping_does_not_hide_a_flat_lower_level() -> None:
    """The damped system is solved to rounding; the true one is not, and that is what counts."""
    told = refused(*flat_valley(follows=True), strategy=CG(damping=0.01), trust=Trust(probe=0))
    assert "against the true Hessian" in str(told) or "flat" in str(told)
    only = Trust(probe=0, curvature=False, stationarity=None)
    told = refused(*flat_valley(follows=True), strategy=MINRES(damping=0.01), trust=only)
    assert "against the true Hessian" in str(told) and told.diagnosis.residual is not None and told.diagnosis.residual < 1e-9


def test_a_flat_direction_that_nothing_depends_on_is_found_by_the_probe() -> None:
    assert "flat in a direction" in str(refused(*flat_valley(follows=False), strategy=CG()))
    answer = hypergradient(*flat_valley(follows=False), strategy=CG(), trust=Trust(probe=0))
    assert float(answer.gradient["x"]) == pytest.approx(-1.0), "and without the probe the answer happens to be right"


def test_a_linear_lower_loss_has_no_minimum() -> None:
    problem = Problem(lambda x, y: (y["y"] ** 2).sum(), lambda x, y: (x["x"] * y["y"]).sum())
    one = torch.ones(2)
    assert "linear in the inner parameters" in str(refused(problem, {"x": one}, {"y": one}, strategy=CG()))


def test_what_diverges_is_not_finite_and_is_said_so() -> None:
    case = problems.quadratic()
    told = refused(case.problem, case.outer, case.inner, strategy=Unroll(), solver=GD(steps=1200, lr=2.0))
    assert "not finite" in str(told)


def test_a_graph_that_was_cut_is_an_error_and_no_zero() -> None:
    cut = Problem(lambda x, y: (y["y"] ** 2).sum(), lambda x, y: ((y["y"] - float(x["x"].detach())) ** 2).sum())
    one = torch.tensor(1.0)
    for strategy in (CG(), Unroll(), F2SA(), HessianFree(curvature=1.0)):
        with pytest.raises(UserError, match=r"outer parameter 'x' has no effect .* look for \.item\(\), \.detach\(\)"):
            hypergradient(cut, {"x": one}, {"y": one}, strategy=strategy, solver=GD(steps=2, lr=0.1), trust=BLIND)


def test_the_start_is_invisible_to_implicit_strategies_which_say_so() -> None:
    """MAML users of a peer get 0 for the start."""
    maml = Problem(lambda x, y: (y["w"] ** 2).sum(), lambda x, y: ((y["w"] - 1) ** 2).sum(), start=dict)
    w = {"w": torch.ones(2)}
    with pytest.raises(UserError, match="use unroll where it is the start"):
        hypergradient(maml, w, w, strategy=CG(), solver=GD(steps=2, lr=0.1), trust=BLIND)


def test_losses_that_do_not_fit_are_named() -> None:
    one = torch.ones(2)
    vector = Problem(lambda x, y: y["y"] * x["x"], lambda x, y: (y["y"] ** 2 * x["x"]).sum())
    with pytest.raises(UserError, match="the upper loss must be one number"):
        hypergradient(vector, {"x": one}, {"y": one}, strategy=CG())
    idle = Problem(lambda x, y: (y["y"] * x["x"]).sum(), lambda x, y: (y["y"] ** 2).sum())
    with pytest.raises(UserError, match="inner parameter 'z' has no effect on the lower loss"):
        hypergradient(idle, {"x": one}, {"y": one, "z": one}, strategy=CG())
    fine = Problem(idle.upper, lambda x, y: ((y["y"] - x["x"]) ** 2).sum())
    with pytest.raises(UserError, match="unroll: there are no steps"):
        hypergradient(fine, {"x": one}, {"y": one}, strategy=Unroll())
    with pytest.raises(UserError, match="an optimiser's steps cannot be unrolled"):
        hypergradient(fine, {"x": one}, {"y": one}, strategy=Unroll(), solver=Fitted(optim=AdamW(lr=0.1), number=2))
    with pytest.raises(UserError, match="f2sa: it solves two lower levels"):
        hypergradient(fine, {"x": one}, {"y": one}, strategy=F2SA())
    with pytest.raises(UserError, match="identity: the upper loss depends on the outer parameters through the inner"):
        hypergradient(Problem(lambda x, y: y["y"].sum(), fine.lower), {"x": one}, {"y": one}, strategy=Identity())


# ---------------------------------------------------------------------- parts


def test_an_optimiser_of_the_library_solves_the_lower_level() -> None:
    case = problems.quadratic()
    solver = Fitted(optim=SGD(lr=0.3, momentum=0.5), number=150)
    answer = hypergradient(case.problem, case.outer, zeros(case.inner), strategy=CG(), solver=solver)
    assert error(answer, case.gradient) < 1e-6


def test_products_with_second_derivatives_against_autograds_own() -> None:
    world = problems.logistic()
    at = {"w": problems.normal(6, seed="at")}
    lower = Lower(world.problem, world.outer, at)
    v = problems.normal(6, seed="v")
    dense = torch.func.jacrev(torch.func.grad(lambda w: world.problem.lower(world.outer, {"w": w})))(at["w"])
    mixed = torch.func.jacrev(torch.func.grad(lambda w, x: world.problem.lower({"raw": x}, {"w": w})), argnums=1)
    torch.testing.assert_close(lower.product(v), dense @ v)
    cross, image = lower.both(v)
    torch.testing.assert_close(image, dense @ v)
    torch.testing.assert_close(cross["raw"], mixed(at["w"], world.outer["raw"]).T @ v)
    generator = torch.Generator().manual_seed(0)
    values = torch.linalg.eigvalsh(dense)
    assert largest_eigenvalue(lower.product, v, 100, generator) == pytest.approx(float(values[-1]), rel=1e-6)
    assert lanczos(lower.product, v, 6).ends == pytest.approx((float(values[0]), float(values[-1])), rel=1e-9)
    inside = lanczos(lower.product, v, 3).ends
    assert values[0] <= inside[0] <= inside[1] <= values[-1]


def test_lanczos_stops_where_its_directions_are_closed() -> None:
    found = lanczos(lambda v: 2.0 * v, torch.ones(5), 4)
    assert found.image_KK.tolist() == [[pytest.approx(2.0)]] and found.rest == 0.0


def test_a_stand_in_for_the_hessian_is_measured_and_not_refused() -> None:
    case = problems.quadratic((1.0, 1.0, 1.0, 1.0))
    right = hypergradient(case.problem, case.outer, case.inner, strategy=HessianFree(curvature=1.0))
    assert error(right, case.gradient) < 1e-9 and right.diagnosis.bias == pytest.approx(0, abs=1e-9)
    off = hypergradient(case.problem, case.outer, case.inner, strategy=HessianFree(curvature=4.0))
    assert off.diagnosis.bias == pytest.approx(0.75)


def test_angles() -> None:
    one = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor(0.0)}
    assert angle(one, one) == 0 and angle(one, {n: -v for n, v in one.items()}) == pytest.approx(180)
    assert angle(one, {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor(0.0)}) == pytest.approx(45)
    assert angle(one, {n: 0 * v for n, v in one.items()}) == 90


def test_each_bound_can_be_switched_off_alone() -> None:
    case = problems.quadratic((0.01, 0.3, 2.0, 40.0))
    kept = replace(Trust(), residual=None, bias=None)
    assert hypergradient(case.problem, case.outer, case.inner, strategy=CG(steps=2), trust=kept).diagnosis.residual > 0.01  # type: ignore[operator]
