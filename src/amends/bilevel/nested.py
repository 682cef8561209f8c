"""Parameters of any nesting: dicts, lists and tuples of tensors to any depth, or one tensor, as the engine's named tensors.

The engine counts on a dict of tensors, and passes one through as it is. What is nested otherwise is named by its path
(`layers/0/weight`), and everything that the user wrote, losses, start, a projection or a solution of their own, is handed the
nesting in which the parameters were given. A solver's `step` of one's own sees names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from amends.bilevel.problem import Answer, Loss, Problem, Solver
from amends.bilevel.solvers import Closed, Momentum, Projected
from amends.core.errors import UserError
from amends.core.protocols import Params

Tree = Any
"""A tensor, or a dict, list or tuple of trees."""


@dataclass(frozen=True)
class Nesting:
    """How the parameters of both levels were given; leaves everything as it is where both are dicts of tensors."""

    outer: Tree
    inner: Tree

    @property
    def plain(self) -> bool:
        """Whether there is nothing to do."""
        return _plain(self.outer) and _plain(self.inner)

    def problem(self, given: Problem) -> Problem:
        """The problem as a function of named tensors."""
        if self.plain:
            return given
        return replace(
            given, upper=self._loss(given.upper), lower=self._loss(given.lower),
            rows=None if given.rows is None else self._loss(given.rows),
            start=None if given.start is None else self._onto_inner(given.start, self.outer),
        )  # fmt: skip

    def solver(self, given: Solver) -> Solver:
        """The solver, whose functions by the user see trees."""
        if self.plain:
            return given
        if isinstance(given, Closed):
            solve = given.solve
            return replace(given, solve=lambda x, y: named(solve(self.above(x), self.below(y)), "inner"))
        if isinstance(given, (Projected, Momentum)):
            return replace(given, project=self._onto_inner(given.project, self.inner))
        return given

    def answer(self, found: Answer) -> Answer:
        """The answer in the nesting of what was asked; velocities that a solver put beside nested parameters are left out."""
        return replace(found, gradient=self.above(found.gradient), inner=self.below(found.inner))

    def above(self, values: Params) -> Tree:
        """Named outer parameters as they were given."""
        return values if self.plain else rebuilt(values, self.outer)

    def below(self, values: Params) -> Tree:
        """Named inner parameters as they were given."""
        return values if self.plain else rebuilt(values, self.inner)

    def _loss(self, given: Loss) -> Loss:
        return lambda x, y: given(self.above(x), self.below(y))

    @staticmethod
    def _onto_inner(given: Callable[[Any], Any], like: Tree) -> Callable[[Params], Params]:
        return lambda values: named(given(rebuilt(values, like)), "inner")


def named(tree: Tree, level: str) -> dict[str, Tensor]:
    """The tensors by their paths; of a dict of tensors the dict itself, in its order.

    Raises UserError for a tree without tensors, for a leaf that is none, and for numbers that have no slope.
    """
    found: dict[str, Tensor] = {}
    for path, leaf in _leaves(tree, ""):
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            what = f"a tensor of {leaf.dtype}" if isinstance(leaf, Tensor) else f"a {type(leaf).__name__}"
            raise UserError(
                f"{level} parameter '{path}' is {what}, which has no gradient: give a tensor of floats, such as "
                "torch.tensor(1.0)"
            )
        if path in found:
            raise UserError(f"{level} parameters: two tensors are called '{path}': rename one of them")
        found[path] = leaf
    if not found:
        raise UserError(f"there are no {level} parameters: give at least one tensor")
    return found


def rebuilt(values: Params, like: Tree, path: str = "") -> Tree:
    """Named tensors in the nesting of a tree."""
    if isinstance(like, Tensor):
        return values[path]
    if isinstance(like, Mapping):
        return {key: rebuilt(values, below, _join(path, key)) for key, below in like.items()}
    parts = [rebuilt(values, below, _join(path, i)) for i, below in enumerate(like)]
    return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)


def _leaves(tree: Tree, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, (Mapping, list, tuple)):
        for key, below in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from _leaves(below, _join(path, key))
    else:
        yield path, tree


def _join(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)


def _plain(tree: Tree) -> bool:
    return isinstance(tree, Mapping) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in tree.items())
