"""Bi-level problems with known answers, for the tests: a quadratic, ridge regression, logistic regression."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from amends.bilevel.problem import Problem
from amends.core.protocols import Params
from amends.core.rng import rng


def normal(*shape: int, seed: str = "x") -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, generator=rng(0, "bilevel tests", seed), dtype=torch.float64)


class Case(NamedTuple):
    """A problem at a point, where the lower level is solved, and the hypergradient there."""

    problem: Problem
    outer: dict[str, Tensor]
    inner: dict[str, Tensor]
    gradient: dict[str, Tensor]
    solve: Callable[[Params, Params], dict[str, Tensor]]


def quadratic(spectrum: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)) -> Case:
    """g = y'Hy/2 - y'Bx, f = |y - c|^2/2 + |x|^2/2: y* = H^-1 B x and dF/dx = x + B'H^-1(y* - c).

    y is spread over two tensors, one of them without axes.
    """
    size = len(spectrum)
    turn = torch.linalg.qr(normal(size, size, seed="turn"))[0]
    hessian = turn @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ turn.T
    mix, c, x = normal(size, 3, seed="mix"), normal(size, seed="c"), normal(3, seed="at")

    def joined(inner: Params) -> Tensor:
        return torch.cat([inner["many"], inner["one"].reshape(1)])

    def lower(outer: Params, inner: Params) -> Tensor:
        y = joined(inner)
        return 0.5 * y @ hessian @ y - y @ mix @ outer["x"]

    def upper(outer: Params, inner: Params) -> Tensor:
        return 0.5 * ((joined(inner) - c) ** 2).sum() + 0.5 * (outer["x"] ** 2).sum()

    def solve(outer: Params, inner: Params) -> dict[str, Tensor]:
        y = torch.linalg.solve(hessian, mix @ outer["x"])
        return {"many": y[:-1], "one": y[-1]}

    y = joined(solve({"x": x}, {}))
    gradient = x + mix.T @ torch.linalg.solve(hessian, y - c)
    return Case(Problem(upper, lower), {"x": x}, {"many": y[:-1], "one": y[-1]}, {"x": gradient}, solve)


def ridge(*, scalar: bool = False) -> Case:
    """Ridge regression whose penalty exp(x) is learned on other rows, one number a weight or one for all, without axes.

    y* = A^-1 X't, A = X'X + D, and dF/dx_i = -exp(x_i) y*_i (A^-1 V'(V y* - s))_i; their sum for a single x.
    """
    features, others, truth = normal(30, 5, seed="X"), normal(20, 5, seed="V"), 0.5 * normal(5, seed="w2")
    targets, wanted = features @ truth + 2 * normal(30, seed="t"), others @ truth + 2 * normal(20, seed="s")
    x = torch.tensor(0.3, dtype=torch.float64) if scalar else 0.5 * normal(5, seed="log penalty")

    def lower(outer: Params, inner: Params) -> Tensor:
        rest = features @ inner["w"] - targets
        return 0.5 * (rest**2).sum() + 0.5 * (outer["log"].exp() * inner["w"] ** 2).sum()

    def upper(outer: Params, inner: Params) -> Tensor:
        return 0.5 * ((others @ inner["w"] - wanted) ** 2).sum()

    def solve(outer: Params, inner: Params) -> dict[str, Tensor]:
        system = features.T @ features + torch.diag(outer["log"].exp().expand(5))
        return {"w": torch.linalg.solve(system, features.T @ targets)}

    system = features.T @ features + torch.diag(x.exp().expand(5))
    w = solve({"log": x}, {})["w"]
    each = -x.exp() * w * torch.linalg.solve(system, others.T @ (others @ w - wanted))
    return Case(Problem(upper, lower), {"log": x}, {"w": w}, {"log": each.sum() if scalar else each}, solve)


class Logistic(NamedTuple):
    """Logistic regression with a penalty for each weight, learned on other rows; solved by Newton's method."""

    problem: Problem
    outer: dict[str, Tensor]
    start: dict[str, Tensor]
    features: Tensor
    labels: Tensor

    def solve(self, outer: Params, inner: Params) -> dict[str, Tensor]:
        """The lower level's minimum, to rounding."""
        w, rows = inner["w"].detach(), len(self.labels)
        penalty = softplus(outer["raw"].detach()) / rows
        for _ in range(12):
            p = torch.sigmoid(self.features @ w)
            slope = self.features.T @ (p - self.labels) / rows + penalty * w
            hessian = self.features.T @ ((p * (1 - p))[:, None] * self.features) / rows + penalty.diag()
            w = w - torch.linalg.solve(hessian, slope)
        return {"w": w}


def logistic(size: int = 6) -> Logistic:
    """40 rows to learn from and 30 to choose the penalties by."""
    features, others = normal(40, size, seed="LX"), normal(30, size, seed="LV")
    truth = normal(size, seed="w")
    labels, wanted = (
        (features @ truth + normal(40, seed="a") > 0).double(),
        (others @ truth + normal(30, seed="b") > 0).double(),
    )

    def lower(outer: Params, inner: Params) -> Tensor:
        loss = binary_cross_entropy_with_logits(features @ inner["w"], labels)
        return loss + 0.5 * (softplus(outer["raw"]) * inner["w"] ** 2).sum() / len(labels)

    def upper(outer: Params, inner: Params) -> Tensor:
        return binary_cross_entropy_with_logits(others @ inner["w"], wanted)

    start = {"w": torch.zeros(size, dtype=torch.float64)}
    return Logistic(Problem(upper, lower), {"raw": normal(size, seed="raw")}, start, features, labels)
