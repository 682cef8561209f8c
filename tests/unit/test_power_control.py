"""Fair power control by hand: rates of two links, WMMSE, the simplex, the sign of the weights' derivative, the data."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from amends.bilevel.problem import Problem, hypergradient
from amends.bilevel.simplex import onto_simplex, simplex
from amends.bilevel.solvers import Projected
from amends.bilevel.strategies.active_set import ActiveSet
from amends.bilevel.strategies.identity import Identity
from amends.bilevel.strategies.unroll import Unroll
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.protocols import Params, Subject
from amends.core.rng import rng
from amends.data.links import Links, reservoir
from amends.data.wmmse import sum_rate, wmmse
from amends.engine.optim import SGD
from amends.metrics.evaluation import Evaluation
from amends.metrics.rate_ratio import RateRatio, TaskRateRatio
from amends.subjects.power_net import PowerNet, rate_ratio
from amends.train.fair import TRUST, Fair, weighed
from amends.train.plain import Train

SMALL = Links(links=3, tasks=("rayleigh", "geometry10"), rows=40, test=12, memory=8)


@pytest.fixture(scope="module")
def data() -> Any:
    return SMALL.load(0)


def two(a: float, b: float, c: float, d: float) -> Tensor:
    """[1, 2, 2] the channels of two links: own a and d, from 0 to 1 b, from 1 to 0 c."""
    return torch.tensor([[[a, b], [c, d]]], dtype=torch.float64)


# ------------------------------------------------------------------------------------------------ rates and WMMSE


def test_the_sum_rate_of_two_links_by_hand() -> None:
    """Link 0: 4 p0 / (1 + p1 / 4); link 1: 9 p1 / (1 + p0)."""
    h, p = two(2, 1, 0.5, 3), torch.tensor([[0.5, 1.0]], dtype=torch.float64)
    assert float(sum_rate(h, p)) == pytest.approx(float(torch.log2(torch.tensor(1 + 2 / 1.25)) + torch.log2(torch.tensor(7.0))))
    assert float(sum_rate(h, p, noise=2.0)) == pytest.approx(
        float(torch.log2(torch.tensor(1 + 2 / 2.25)) + torch.log2(torch.tensor(1 + 9 / 2.5)))
    )
    assert float(sum_rate(h, torch.zeros(1, 2, dtype=torch.float64))) == 0


def test_wmmse_never_loses_and_stays_within_its_bounds() -> None:
    h = SMALL.channels("rayleigh", 200, rng(0, "test")).double()
    found = wmmse(h, most=0.7, iterations=60)
    assert float(found.rates_TB.diff(dim=0).min()) > -1e-9
    assert torch.allclose(found.rates_TB[-1], sum_rate(h, found.power_BK)), "the last rate is that of the answer"
    assert float(found.power_BK.min()) >= 0 and float(found.power_BK.max()) <= 0.7 + 1e-12
    assert float((found.rates_TB[-1] / found.rates_TB[0]).mean()) > 1.1, "and gains something"


def grid_best(h_BKK: Tensor, points: int = 41) -> Tensor:
    """[B] the best sum rate of two links on a grid of powers."""
    steps = torch.linspace(0, 1, points, dtype=torch.float64)
    power_P2 = torch.cartesian_prod(steps, steps)
    return torch.stack([sum_rate(h.expand(len(power_P2), 2, 2), power_P2).max() for h in h_BKK])


def test_wmmse_of_two_links_against_every_power_on_a_grid() -> None:
    """Never above the best, which lies at a corner; and it is the best unless full power starts near a worse corner."""
    h = Links(links=2, tasks=("rayleigh",)).channels("rayleigh", 60, rng(0, "pairs")).double()
    found, best = wmmse(h, iterations=3000, tolerance=1e-9).rates_TB[-1], grid_best(h)
    assert float((found - best).max()) < 1e-6
    assert float((found > best - 1e-3).double().mean()) > 0.75
    weak, strong = two(2, 0.1, 0.1, 1), two(3, 2, 2, 1)
    assert torch.allclose(wmmse(weak, iterations=500, tolerance=1e-9).power_BK, torch.ones(1, 2, dtype=torch.float64))
    one_only = wmmse(strong, iterations=500, tolerance=1e-9).power_BK[0]
    assert float(one_only[0]) == 1 and float(one_only[1]) < 1e-3, "the weaker of two strong neighbours is switched off"
    even = wmmse(two(2, 2, 2, 2), iterations=500).power_BK[0]
    assert float(even[0]) == float(even[1]), "what the docstring warns of: equal links stay equal"


# ------------------------------------------------------------------------------------------------ data and model


def test_roles_labels_and_the_reservoir(data: Any) -> None:
    sizes = {role: len(rows) for role, rows in data.roles.items()}
    assert sizes == {
        "rayleigh": 40, "geometry10": 40, "test_rayleigh": 12, "test_geometry10": 12, "memory_geometry10": 8,
    }  # fmt: skip
    row = data["rayleigh"][0].data
    again = wmmse(row["channel"][None]).power_BK
    assert torch.allclose(again[0], row["power"]) and row["rate"] == pytest.approx(float(sum_rate(row["channel"][None], again)))
    assert {r.id for r in data["memory_geometry10"]} <= {r.id for r in data["rayleigh"]}, (
        "what is kept are rows of earlier tasks"
    )
    assert SMALL.load(0).fingerprint() == data.fingerprint() != SMALL.load(1).fingerprint()
    assert not data.labelled


def test_a_reservoir_gives_every_row_the_same_chance() -> None:
    rows: list[Any] = list(range(20))
    drawn = Counter(kept for k in range(2000) for kept in reservoir(rows, 5, rng(k, "reservoir")))
    assert sum(drawn.values()) == 10_000 and all(abs(drawn[i] - 500) < 100 for i in rows)
    assert reservoir(rows[:3], 5, rng(0, "reservoir")) == (0, 1, 2)


def test_channels_have_the_power_they_should() -> None:
    """E|z|^2 = 1; a line of sight adds none; 1 / (1 + d^2) over a square takes most of it away."""
    many = Links(links=10)
    mean = {
        t: float(many.channels(t, 400, rng(0, t)).square().mean()) for t in ("rayleigh", "rice", "geometry10", "geometry50")
    }
    assert mean["rayleigh"] == pytest.approx(1, abs=0.03) and mean["rice"] == pytest.approx(1, abs=0.03)
    assert mean["geometry50"] < 0.1 * mean["geometry10"] < 0.1
    spread = {t: float(many.channels(t, 400, rng(0, t)).square().std()) for t in ("rayleigh", "rice")}
    assert spread["rayleigh"] == pytest.approx(1, abs=0.06) and spread["rice"] == pytest.approx(0.75**0.5, abs=0.06)


def test_a_task_that_is_none_and_one_twice() -> None:
    with pytest.raises(UserError, match=r"data.tasks.1: expected rayleigh, rice or geometry with a side .*'ricean'"):
        Links(tasks=("rice", "ricean")).load(0)
    with pytest.raises(UserError, match=r"data.tasks.1: rice stands twice"):
        Links(tasks=("rice", "rice")).load(0)


def test_the_likelihood_is_the_squared_error_and_the_ratio_is_the_rates(data: Any) -> None:
    subject = PowerNet(hidden=(6,)).load(data, 0)
    assert isinstance(subject, Subject)
    batch = subject.collate([subject.encode(row) for row in data["rayleigh"][:4]])
    like = subject.likelihood(batch)
    power_BK = subject.module(batch["channel"])
    assert torch.allclose(like.nll_B, (power_BK - batch["power"]).square().sum(1), atol=1e-6)
    assert torch.allclose(rate_ratio(like, batch), sum_rate(batch["channel"], power_BK) / batch["rate"])
    wmmses = type(like)(like.nll_B, like.n_B, type(like.dist)(batch["power"], batch["power"], like.n_B))
    assert torch.allclose(rate_ratio(wmmses, batch), torch.ones(4), atol=1e-5), "WMMSE reaches itself"
    with pytest.raises(UserError, match="has no 'power': this model allocates power"):
        subject.encode(type(data["rayleigh"][0])("a", {"channel": torch.ones(2, 2)}))


def test_the_worst_task_is_the_worst_and_rows_without_channels_are_refused(data: Any) -> None:
    evaluation = Evaluation(PowerNet(hidden=(6,)).load(data, 0), data)
    worst = TaskRateRatio(tasks=("test_rayleigh", "test_geometry10")).measure(evaluation)
    each = [RateRatio(role=role).measure(evaluation).value for role in ("test_rayleigh", "test_geometry10")]
    assert worst.value == min(each) and worst.note.startswith("of test_")
    mean = TaskRateRatio(tasks=("test_rayleigh", "test_geometry10"), says="mean").measure(evaluation)
    assert mean.value == pytest.approx(sum(each) / 2)
    with pytest.raises(UserError, match="use the data source `links`"):
        PowerNet().load(data.with_role("rayleigh", [type(data["rayleigh"][0])("a", {"label": 1})]), 0)


# ------------------------------------------------------------------------------------------------ the simplex


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
        ([1.0, 1.0, 1.0], [1 / 3, 1 / 3, 1 / 3]),
        ([2.0, 0.0, -1.0], [1.0, 0.0, 0.0]),
        ([0.9, 0.5, -2.0], [0.7, 0.3, 0.0]),
        ([-5.0], [1.0]),
    ],
)
def test_the_projection_onto_the_simplex(given: list[float], nearest: list[float]) -> None:
    assert onto_simplex(torch.tensor(given)).tolist() == pytest.approx(nearest, abs=1e-6)


def test_no_other_point_of_the_simplex_is_nearer() -> None:
    v = torch.randn(6, generator=rng(0, "v"), dtype=torch.float64)
    y = onto_simplex(v)
    others = torch.rand(500, 6, generator=rng(0, "others"), dtype=torch.float64)
    others = others / others.sum(1, keepdim=True)
    assert float(y.sum()) == pytest.approx(1) and float(y.min()) >= 0
    assert float((others - v).norm(dim=1).min()) >= float((y - v).norm())
    held = simplex(6, v)
    assert float((held.matrix_MD @ y - held.bound_M).max()) < 1e-12 and held.num_equal == 1


def problem(data: Any, score: Any, gamma: float) -> tuple[Problem, dict[str, Tensor]]:
    """Both levels on six rows in float64, with some weights at 0 and some above it."""
    from amends.bilevel.waist import Stateless

    subject = PowerNet(hidden=(5,)).load(data, 0)
    subject.module.double()
    batch = subject.collate([subject.encode(row) for row in data["rayleigh"][:6]])
    batch = type(batch)(batch.ids, {k: v.double() for k, v in batch.tensors.items()})
    params = {n: p.detach().clone() for n, p in subject.module.named_parameters()}
    return weighed(Stateless(subject), batch, score, gamma), params


def gradient(at: Problem, params: Params, strategy: Any, gamma: float) -> dict[str, Tensor]:
    solver = Fair(on=("a",), steps=1, gamma=gamma).solver
    return dict(hypergradient(at, params, {"weight": torch.zeros(1)}, strategy=strategy, solver=solver, trust=TRUST).gradient)


@pytest.mark.parametrize("score", ["rate", "loss"])
def test_the_weights_derivative_has_the_sign_of_finite_differences(data: Any, score: str) -> None:
    gamma = 0.3
    at, params = problem(data, score, gamma)
    assert at.start is not None

    def weights(point: Params) -> Tensor:
        solver = Fair(on=("a",), steps=1, gamma=gamma).solver
        with torch.no_grad():
            return solver.step(at, point, at.start(point))["weight"]  # type: ignore[misc]

    def value(point: Params) -> float:
        with torch.no_grad():
            return float(at.upper(point, {"weight": weights(point)}))

    assert 0 < int((weights(params) == 0).sum()) < 5, "some coordinates are inactive, or nothing is tested"
    way = {n: torch.randn(p.shape, generator=rng(1, n), dtype=torch.float64) for n, p in params.items()}
    size = 1e-6
    ends = [value({n: p + sign * size * way[n] for n, p in params.items()}) for sign in (1, -1)]
    slope = (ends[0] - ends[1]) / (2 * size)
    found = {
        name: float(sum((g * way[n]).sum() for n, g in gradient(at, params, strategy, gamma).items()))
        for name, strategy in (("unroll", Unroll()), ("active_set", ActiveSet()), ("identity", Identity()))
    }
    assert found["unroll"] == pytest.approx(slope, rel=1e-5)
    assert found["active_set"] == pytest.approx(slope, rel=1e-5)
    indirect = slope - found["identity"]
    assert abs(indirect) > 1e-3 * abs(slope)
    opposite = found["identity"] - indirect
    assert opposite != pytest.approx(slope, rel=1e-3), "with the opposite sign it is no derivative"


def test_min_max_is_its_own_gradient(data: Any) -> None:
    """max over weights of <weights, l> - gamma / 2 |weights|^2 differentiates as if the weights were constants (Danskin)."""
    at, params = problem(data, "loss", 0.3)
    assert at.start is not None
    solver = Fair(on=("a",), steps=1, gamma=0.3).solver

    def value(point: Params) -> float:
        with torch.no_grad():
            y = solver.step(at, point, at.start(point))  # type: ignore[misc]
            return -float(at.lower(point, y))

    way = {n: torch.randn(p.shape, generator=rng(2, n), dtype=torch.float64) for n, p in params.items()}
    ends = [value({n: p + sign * 1e-6 * way[n] for n, p in params.items()}) for sign in (1, -1)]
    found = sum((g * way[n]).sum() for n, g in gradient(at, params, Identity(), 0.3).items())
    assert float(found) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)


def test_one_exact_step_is_where_many_small_ones_lead(data: Any) -> None:
    """And 20 steps of 0.1, as released, are still 12 % of the way off where no bound is met."""
    at, params = problem(data, "rate", 1.0)
    assert at.start is not None
    small = Projected(400, 0.1, lambda y: {n: onto_simplex(v) for n, v in y.items()})
    with torch.no_grad():
        y = start = at.start(params)
        exact = Fair(on=("a",), steps=1).solver.step(at, params, start)["weight"]
        for step in range(400):
            y = small.step(at, params, y)
            if step == 19:
                off = float((y["weight"] - exact).norm() / (start["weight"] - exact).norm())
    assert torch.allclose(y["weight"], exact, atol=1e-9)
    assert off == pytest.approx(0.9**20, abs=0.05)


# ------------------------------------------------------------------------------------------------ the stage


def test_very_even_weights_are_plain_training(data: Any) -> None:
    """For a large gamma every row weighs 1/n, so that the same rows give the same steps as `train` does."""
    plain, fair = (PowerNet(hidden=(6,)).load(data, 0) for _ in range(2))
    Train(on=("rayleigh",), steps=5, batch=10, optim=SGD(lr=0.01))(plain, data, Memory())
    run = Memory()
    Fair(on=("rayleigh",), steps=5, batch=10, gamma=1e6, optim=SGD(lr=0.01))(fair, data, run)
    for one, other in zip(plain.module.parameters(), fair.module.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert len(run.logged) == 5 and not fair.module.training


def test_active_set_and_unroll_train_the_same_model(data: Any) -> None:
    """In float32, where often a single weight is above 0 and no direction is free; H = gamma I needs one product."""
    one, other = (PowerNet(hidden=(6,)).load(data, 0) for _ in range(2))
    on = ("geometry10", "memory_geometry10")
    Fair(on=on, steps=4, batch=12, gamma=0.5, optim=SGD(lr=0.05))(one, data, Memory())
    Fair(on=on, steps=4, batch=12, gamma=0.5, strategy=ActiveSet(steps=1), optim=SGD(lr=0.05))(other, data, Memory())
    for a, b in zip(one.module.parameters(), other.module.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_roles_without_rows_are_refused(data: Any) -> None:
    with pytest.raises(UserError, match="data has no role 'ryleigh'"):
        Fair(on=("ryleigh",), steps=1).objective_on(data)
    with pytest.raises(UserError, match="on: give at least one role"):
        Fair(on=(), steps=1).objective_on(data)
