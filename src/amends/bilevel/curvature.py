"""Second derivatives of the lower loss as products: the Hessian times a vector, the cross derivative, Lanczos' method.

One graph of the lower gradient is built; every exact product is one backward pass through it. Memory is that of one gradient,
whatever number of steps the inner parameters took to get here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from amends.bilevel.problem import Problem, scalar
from amends.bilevel.tree import detached, flat, leaves, like, slopes
from amends.core.errors import UserError
from amends.core.protocols import Params

Product = Callable[[Tensor], Tensor]
"""[D] -> [D], a symmetric matrix that is known by its products only."""


class Lower:
    """The lower loss around one point.

    Args:
        exact: build the graph of its gradient at once; without it only when an exact product is asked for, so that those who
            take differences pay for gradients alone.
    """

    def __init__(self, problem: Problem, outer: Params, inner: Params, exact: bool = True) -> None:
        self.outer, self.inner = leaves(outer), leaves(inner)
        self.products = 0
        self._loss = problem.lower
        self._base: dict[str, Tensor | None] = {}
        self._graph_D: Tensor | None = None
        if exact:
            self._graph_D = self._differentiated()
            self.slope_D = self._graph_D.detach()
            """The lower loss's gradient in y."""
        else:
            self._base = self._slopes(self.outer, self.inner)
            self.slope_D = flat(self._known({n: self._base[f"y|{n}"] for n in self.inner}))
        self._inner_D = flat(self.inner.values()).detach()
        self._width = 2 * torch.finfo(self.slope_D.dtype).eps ** 0.5 * (1 + float(self._inner_D.norm()))

    def _differentiated(self) -> Tensor:
        """[D] the gradient in y, with its graph."""
        loss = scalar(self._loss(self.outer, self.inner), "lower")
        found: tuple[Tensor | None, ...] = (None,) * len(self.inner)
        if loss.requires_grad:
            found = torch.autograd.grad(loss, list(self.inner.values()), create_graph=True, allow_unused=True)
        return flat(self._known(dict(zip(self.inner, found, strict=True))))

    def _known(self, found: dict[str, Tensor | None]) -> list[Tensor]:
        """The gradients, once it is known that every inner parameter has one."""
        for name, slope in found.items():
            if slope is None:
                raise UserError(
                    f"inner parameter '{name}' has no effect on the lower loss: leave it out of the inner parameters"
                )
        return [slope for slope in found.values() if slope is not None]

    def _slopes(self, outer: Params, inner: Params) -> dict[str, Tensor | None]:
        """Both gradients of the lower loss, without a graph of their own."""
        loss = scalar(self._loss(outer, inner), "lower")
        return slopes(loss, {**{f"x|{n}": v for n, v in outer.items()}, **{f"y|{n}": v for n, v in inner.items()}})

    @property
    def linear(self) -> bool:
        """Whether the gradient depends on no inner parameter."""
        found = self._second(self.slope_D, self.inner)
        return all(f is None for f in found.values())

    def product(self, v_D: Tensor) -> Tensor:
        """H v, one backward pass."""
        self.products += 1
        found = self._second(v_D, self.inner)
        return flat(torch.zeros_like(self.inner[n]) if f is None else f for n, f in found.items())

    def difference(self, v_D: Tensor) -> Tensor:
        """H v but for an error, for the price of one gradient: (grad_y g(y + e v) - grad_y g(y)) / e.

        e = 2 sqrt(eps) (1 + |y|) / |v| (Andrei 2009): in float32 the error is some 5e-4 of |H v|, in float64 some 1e-8.
        """
        self.products += 1
        e = self._step(v_D)
        if e == 0:
            return torch.zeros_like(v_D)
        there = leaves(like(self._inner_D.add(v_D, alpha=e), self.inner))
        found = torch.autograd.grad(scalar(self._loss(detached(self.outer), there), "lower"), list(there.values()))
        return flat(found).sub_(self.slope_D).div_(e)

    def _step(self, v_D: Tensor) -> float:
        length = float(v_D.norm())
        return self._width / length if length else 0.0

    def both(self, v_D: Tensor) -> tuple[dict[str, Tensor | None], Tensor]:
        """d<grad_y g, v>/dx, None where x has no part in it, and H v: both in one backward pass."""
        self.products += 1
        if self._base:
            return self._both_by_difference(v_D)
        x, y = ({f"{level}|{n}": v for n, v in tree.items()} for level, tree in (("x", self.outer), ("y", self.inner)))
        found = self._second(v_D, {**x, **y})
        hv_D = flat(torch.zeros_like(y[n]) if found[n] is None else found[n] for n in y)  # type: ignore[misc]
        return {n: found[f"x|{n}"] for n in self.outer}, hv_D

    def _both_by_difference(self, v_D: Tensor) -> tuple[dict[str, Tensor | None], Tensor]:
        """The same by one gradient in x and y at y + e v."""
        e = self._step(v_D) or 1.0  # for v = 0 the same point again, and so zeros
        there = leaves(like(self._inner_D.add(v_D, alpha=e), self.inner))
        found = self._slopes(self.outer, there)
        image_D = flat(self._known({n: found[f"y|{n}"] for n in self.inner})).sub_(self.slope_D).div_(e)
        here = {n: (found[f"x|{n}"], self._base[f"x|{n}"]) for n in self.outer}
        return {n: None if a is None or b is None else (a - b) / e for n, (a, b) in here.items()}, image_D

    def _second(self, v_D: Tensor, tree: Params) -> dict[str, Tensor | None]:
        if self._graph_D is None:
            self._graph_D = self._differentiated()
        if not self._graph_D.requires_grad:
            return dict.fromkeys(tree)
        given = torch.autograd.grad(self._graph_D, list(tree.values()), v_D, retain_graph=True, allow_unused=True)
        return dict(zip(tree, given, strict=True))


class Krylov(NamedTuple):
    """What Lanczos' method found: orthonormal directions as rows, and the matrix as it acts on them."""

    basis_KD: Tensor
    image_KK: Tensor
    """Tridiagonal; its eigenvalues (Ritz values) lie within the matrix's."""
    rest: float
    """What leads out of these directions; 0 when they are closed under the matrix."""

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest Ritz value."""
        values = torch.linalg.eigvalsh(self.image_KK)
        return float(values[0]), float(values[-1])


def lanczos(product: Product, start_D: Tensor, steps: int) -> Krylov:
    """At most `steps` products from a direction, each new one made orthogonal to all before (twice, against rounding).

    Keeps one vector a step. Stops where the directions are closed: no product leads out of them.
    """
    basis = [start_D / start_D.norm()]
    along, across = [], []
    scale, rest = 0.0, 0.0
    for k in range(min(steps, start_D.numel())):
        image_D = product(basis[-1])
        along.append(image_D @ basis[-1])
        so_far_KD = torch.stack(basis)
        for _ in range(2):
            image_D = image_D - so_far_KD.T @ (so_far_KD @ image_D)
        rest = float(image_D.norm())
        scale = max(scale, abs(float(along[-1])), rest)
        if rest <= 10 * torch.finfo(start_D.dtype).eps * scale or k + 1 == min(steps, start_D.numel()):
            break
        across.append(image_D.norm())
        basis.append(image_D / across[-1])
    image_KK = torch.diag(torch.stack(along))
    for k, value in enumerate(across[: len(along) - 1]):
        image_KK[k, k + 1] = image_KK[k + 1, k] = value
    return Krylov(torch.stack(basis), image_KK, 0.0 if rest <= 10 * torch.finfo(start_D.dtype).eps * scale else rest)


def largest_eigenvalue(product: Product, like_D: Tensor, steps: int, rng: torch.Generator) -> float:
    """The eigenvalue largest in size, by power iteration from a random direction: a lower bound on its size.

    The quotient |H v| / |v| of the last step; it grows from step to step for a symmetric matrix.
    """
    v_D = torch.randn(like_D.shape, generator=rng, dtype=torch.float64).to(like_D)
    found = 0.0
    for _ in range(steps):
        v_D = v_D / v_D.norm()
        v_D = product(v_D)
        found = float(v_D.norm())
        if found == 0:
            break
    return found
