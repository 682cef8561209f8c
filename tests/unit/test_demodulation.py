"""Few-pilot demodulation by hand: the constellation, the radio's imbalance, the theoretical error, the relatives of MAML."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from amends.bilevel.problem import hypergradient
from amends.bilevel.solvers import GD
from amends.bilevel.strategies.identity import Identity
from amends.bilevel.strategies.unroll import Unroll
from amends.bilevel.trust import Trust
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.protocols import Subject
from amends.core.types import Sample
from amends.data.devices import Devices, constellation, nearest, unbalanced
from amends.engine.optim import SGD
from amends.metrics.evaluation import Evaluation
from amends.metrics.symbol_error import KnownChannel, SymbolError, adapted
from amends.subjects.demodulator import DemodulatorNet, part
from amends.train.meta import Meta
from amends.train.plain import Train

SMALL = Devices(train=6, valid=3, test=3, symbols=40)
ERROR = SymbolError(pilots=10, payload=20, looks=(0, 3, 10))


@pytest.fixture(scope="module")
def data() -> Any:
    return SMALL.load(0)


def test_the_constellation_has_sixteen_points_of_mean_energy_one_on_a_grid() -> None:
    points = constellation()
    assert len(set(map(complex, points.tolist()))) == 16
    assert float(points.abs().square().mean()) == pytest.approx(1, abs=1e-6)
    apart = (points[:, None] - points[None]).abs() + 9 * torch.eye(16)
    assert float(apart.min()) == pytest.approx(2 / math.sqrt(10), abs=1e-6)
    assert abs(complex(points.mean())) < 1e-6


def test_an_imbalance_by_hand() -> None:
    x = torch.tensor([1.0 + 0j, 0 + 1j])
    assert torch.equal(unbalanced(x, 0.0, 0.0), x)
    q = unbalanced(x, 0.1, math.pi / 6).tolist()
    cos, sin = math.sqrt(3) / 2, 0.5
    assert q[0] == pytest.approx(complex(1.1 * cos, -0.9 * sin)) and q[1] == pytest.approx(complex(-1.1 * sin, 0.9 * cos))


@pytest.mark.parametrize("snr", [10.0, 14.0])
def test_the_known_channels_error_is_the_theoretical_one(snr: float) -> None:
    """Without fading and imbalance: 1 - (1 - 3/2 Q(sqrt(SNR/5)))^2 (Proakis), within 4 standard errors."""
    data = Devices(train=1, valid=1, test=20, symbols=2100, snr=snr, fading=False, amplitude=0, phase=0).load(0)
    found = KnownChannel(payload=100).measure(Evaluation(None, data)).value
    q = 0.5 * math.erfc(math.sqrt(10 ** (snr / 10) / 5) / math.sqrt(2))
    theory = 1 - (1 - 1.5 * q) ** 2
    assert found == pytest.approx(theory, abs=4 * math.sqrt(theory * (1 - theory) / 40_000))


def test_rows_are_devices_with_their_own_points(data: Any) -> None:
    assert {role: len(rows) for role, rows in data.roles.items()} == {"train": 6, "valid": 3, "test": 3}
    row = data["train"][0].data
    assert row["received"].shape == (40, 2) and row["points"].shape == (16, 2) and int(row["symbol"].max()) < 16
    noise = row["received"] - row["points"][row["symbol"]]
    assert float(noise.square().sum(1).mean()) == pytest.approx(0.01, rel=0.6), "20 dB below a mean energy of 1"
    assert torch.equal(nearest(row["points"], row["points"]), torch.arange(16))
    many = Devices(train=300, valid=1, test=1, symbols=2).load(0)["train"]
    energy = torch.stack([r.data["points"].square().sum(1).mean() for r in many])
    assert float(energy.mean()) == pytest.approx(1, abs=0.15), "fading has mean power 1"


def test_each_symbol_is_a_term(data: Any) -> None:
    subject = DemodulatorNet(hidden=(4,)).load(data, 0)
    assert isinstance(subject, Subject)
    batch = subject.collate([subject.encode(row) for row in data["train"][:3]])
    like = subject.likelihood(batch)
    logp = torch.log_softmax(subject.module(batch["received"][1]), -1)
    own = logp.gather(1, batch["symbol"][1][:, None]).sum()
    assert float(like.nll_B[1].detach()) == pytest.approx(-float(own.detach()), rel=1e-5) and like.n_B.tolist() == [40] * 3
    two = part(batch, 0, 10), part(batch, 10, None)
    assert torch.allclose(sum(subject.likelihood(b).nll_B for b in two), like.nll_B, rtol=1e-5)
    with pytest.raises(UserError, match="has no received symbols"):
        subject.encode(Sample("a", {"label": 1}))
    with pytest.raises(UserError, match="use the data source `devices`"):
        DemodulatorNet().load(data.with_role("train", [Sample("a", {"label": 1})]), 0)


def gradients(data: Any, stage: Meta) -> tuple[dict[str, Tensor], Any, dict[str, Tensor]]:
    """The start's hypergradient at the first task in float64, that task's problem, and the start."""
    subject = DemodulatorNet(hidden=(4,)).load(data, 0)
    problem = stage.problems(subject, data, 0)(0, 0)
    start = {n: p.detach().clone() for n, p in subject.module.named_parameters()}
    solver = GD(steps=stage.lower_steps, lr=stage.lower_lr, signed=stage.signed)
    answer = hypergradient(problem, start, start, strategy=stage.strategy, solver=solver, trust=Trust.blind())
    return dict(answer.gradient), problem, start


def test_maml_is_the_derivative_through_its_steps_and_fomaml_is_not(data: Any) -> None:
    stage = Meta(on=("train",), pilots=10, lower_steps=3, lower_lr=0.3, steps=1)
    gradient, problem, start = gradients(data, stage)

    def value(point: dict[str, Tensor]) -> Tensor:
        y = point
        for _ in range(3):
            y = {n: v.requires_grad_() if not v.requires_grad else v for n, v in y.items()}
            slopes = torch.autograd.grad(problem.lower(point, y), list(y.values()), create_graph=True)
            y = {n: v - 0.3 * s for (n, v), s in zip(y.items(), slopes, strict=True)}
        return problem.upper(point, y)

    leaves = {n: v.clone().requires_grad_() for n, v in start.items()}
    wanted = torch.autograd.grad(value(leaves), list(leaves.values()))
    for one, other in zip(gradient.values(), wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    first, *_ = gradients(
        data, Meta(on=("train",), pilots=10, lower_steps=3, lower_lr=0.3, steps=1, strategy=Identity(start=True))
    )
    assert any(not torch.allclose(first[n], gradient[n], atol=1e-4) for n in gradient)


def test_signed_steps_leave_the_first_order_alone(data: Any) -> None:
    """Sign-MAML: what is unrolled through signs is what the identity gives at the same point."""
    kw: dict[str, Any] = {"on": ("train",), "pilots": 10, "lower_steps": 3, "lower_lr": 0.01, "signed": True, "steps": 1}
    one, *_ = gradients(data, Meta(**kw, strategy=Unroll()))
    other, *_ = gradients(data, Meta(**kw, strategy=Identity(start=True)))
    assert all(torch.allclose(one[n], other[n], atol=1e-6) for n in one)


def test_a_proximal_term_holds_the_adapted_weights_to_the_start(data: Any) -> None:
    _, problem, start = gradients(data, Meta(on=("train",), pilots=10, steps=1, proximal=2.0, strategy=Identity(start=True)))
    plain = gradients(data, Meta(on=("train",), pilots=10, steps=1, strategy=Identity(start=True)))[1]
    moved = {n: v + 0.1 for n, v in start.items()}
    away = 0.01 * sum(v.numel() for v in start.values())
    assert float(problem.lower(start, moved) - plain.lower(start, moved)) == pytest.approx(away, rel=1e-3)


def test_a_start_that_is_learned_moves_and_is_the_same_again(data: Any) -> None:
    subjects = [DemodulatorNet(hidden=(4,)).load(data, 0) for _ in range(2)]
    before = {n: p.detach().clone() for n, p in subjects[0].module.named_parameters()}
    for subject in subjects:
        Meta(on=("train",), pilots=10, lower_steps=2, steps=4, optim=SGD(lr=0.1))(subject, data, Memory())
    after = [dict(s.module.named_parameters()) for s in subjects]
    assert all(torch.equal(after[0][n], after[1][n]) for n in before)
    assert any(not torch.equal(before[n], after[0][n]) for n in before)
    with pytest.raises(UserError, match="pilots: row train-00000 has no symbols beyond 40 pilots"):
        Meta(on=("train",), pilots=40, steps=1).objective_on(data)


class Stopped(Memory):
    """A run that is killed when it has logged its fifth step."""

    def log(self, **values: Any) -> None:
        if values.get("step") == 5:
            raise KeyboardInterrupt
        super().log(**values)


def test_a_start_that_was_interrupted_is_learned_to_the_same_end(data: Any, tmp_path: Path) -> None:
    stage = Meta(on=("train",), pilots=10, lower_steps=2, steps=8, optim=SGD(lr=0.1, momentum=0.9), checkpoint_every=2)
    whole, again = (DemodulatorNet(hidden=(4,)).load(data, 0) for _ in range(2))
    stage(whole, data, Memory())
    with pytest.raises(KeyboardInterrupt):
        stage(DemodulatorNet(hidden=(4,)).load(data, 0), data, Stopped(folder=tmp_path))
    assert (tmp_path / "checkpoint.safetensors").is_file()
    stage(again, data, Memory(folder=tmp_path))
    assert all(map(torch.equal, whole.module.state_dict().values(), again.module.state_dict().values()))


def test_devices_adapt_apart_from_each_other(data: Any) -> None:
    """What one device's error is does not depend on which others are measured beside it."""
    subject = DemodulatorNet(hidden=(4,)).load(data, 0)
    Train(on=("train",), steps=3, batch=2, optim=SGD(lr=0.1))(subject, data, Memory())
    looks = (0, 3)
    every = ERROR._errors(Evaluation(subject, data), "test", ("gd", 0.5), looks)
    alone = ERROR._errors(Evaluation(subject, data.with_role("test", data["test"][1:2])), "test", ("gd", 0.5), looks)
    name = data["test"][1].id
    assert set(every) == {0, 3} and all(alone[n][name] == every[n][name] for n in looks)


def test_adaptation_is_gradient_descent() -> None:
    """y <- y - lr 2 (y - c): after n steps c + (1 - 2 lr)^n (y - c), for two devices at once."""
    c = torch.tensor([[1.0], [3.0]])
    found = adapted(
        {"y": torch.zeros(2, 1)}, lambda p: (p["y"] - c).square().sum(), lambda p: p["y"].tolist(), ("gd", 0.25), (0, 1, 2)
    )
    assert found == {0: [[0.0], [0.0]], 1: [[0.5], [1.5]], 2: [[0.75], [2.25]]}


def test_the_rule_is_chosen_on_other_devices_and_said(data: Any) -> None:
    found = ERROR.measure(Evaluation(DemodulatorNet(hidden=(4,)).load(data, 0), data))
    assert (
        found.n == 3
        and 0 <= found.value <= 1
        and found.note.startswith("adapts by ")
        and found.note.endswith("chosen on valid")
    )
    with pytest.raises(UserError, match="pilots: 30 of them reach into the payload"):
        SymbolError(pilots=30, payload=20).measure(Evaluation(None, data))
    with pytest.raises(UserError, match="payload: devices have 40 symbols, none from 40 on"):
        SymbolError(pilots=10, payload=40).measure(Evaluation(DemodulatorNet(hidden=(4,)).load(data, 0), data))
