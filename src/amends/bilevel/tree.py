"""Arithmetic on named tensors: what outer and inner parameters are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from amends.core.protocols import Params


def leaves(tree: Params) -> dict[str, Tensor]:
    """The same values, cut from every graph, asking for a gradient."""
    return {name: value.detach().requires_grad_() for name, value in tree.items()}


def detached(tree: Params) -> dict[str, Tensor]:
    """The same values, cut from every graph."""
    return {name: value.detach() for name, value in tree.items()}


def add(tree: Params, other: Params, scale: float = 1.0) -> dict[str, Tensor]:
    """tree + scale * other."""
    return {name: value + scale * other[name] for name, value in tree.items()}


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """[D] all numbers in a row; a tensor without axes is one number."""
    return torch.cat([t.reshape(-1) for t in tensors])


def like(vector_D: Tensor, tree: Params) -> dict[str, Tensor]:
    """The inverse of `flat` for a tree of these names and shapes."""
    pieces = vector_D.split([value.numel() for value in tree.values()])
    return {name: piece.view(value.shape) for (name, value), piece in zip(tree.items(), pieces, strict=True)}


def size(tree: Params) -> int:
    """How many numbers a tree has."""
    return sum(value.numel() for value in tree.values())


def angle(one: Params, other: Params) -> float:
    """Degrees between two trees; 90 where one of them is 0 and the other is not.

    >>> angle({"a": torch.tensor([1.0, 0.0])}, {"a": torch.tensor([0.0, 2.0])})
    90.0
    """
    a, b = (flat(tree.values()).double() for tree in (one, {name: other[name] for name in one}))
    lengths = float(a.norm() * b.norm())
    if lengths == 0:
        return 0.0 if float(a.norm() + b.norm()) == 0 else 90.0
    # the half-angle form: an arc cosine loses half of the digits near 0
    apart, along = a / a.norm() - b / b.norm(), a / a.norm() + b / b.norm()
    return float(torch.rad2deg(2 * torch.atan2(apart.norm(), along.norm())))


def slopes(value: Tensor, tree: Params, *, graph: bool = False, keep: bool = False) -> dict[str, Tensor | None]:
    """d value / d each tensor of a tree, None where it does not depend on it; `graph` for one to be differentiated again."""
    if not value.requires_grad:
        return dict.fromkeys(tree)
    found = torch.autograd.grad(value, list(tree.values()), create_graph=graph, retain_graph=graph or keep, allow_unused=True)
    return dict(zip(tree, found, strict=True))


def filled(found: Mapping[str, Tensor | None], tree: Params) -> dict[str, Tensor]:
    """Zeros where there was no slope."""
    return {name: torch.zeros_like(tree[name]) if slope is None else slope for name, slope in found.items()}
