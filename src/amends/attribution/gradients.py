"""Gradients of the ordinary cross-entropy on a role's rows, added up in float32, for chosen parameters only.

What the gradient-based attributions share. The model is in evaluation mode, so dropout and batch statistics stay out.
Only the chosen parameters ask for a gradient: backward ends at the lowest of them, and no activation below it is kept.
A parameter's gradient is moved into its float32 sum as soon as backward has it, so no second set of gradients exists,
and a weight that is used twice (embedding and head) counts once, with the sum of both uses. Rows go through the model
one at a time unless more are asked for (`micro`): what a gradient adds up does not depend on it, and a forward's
activations are what is left to save once the gradients are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from amends.core.errors import UserError
from amends.core.protocols import Params, Start
from amends.core.types import Batch, Role, Sample
from amends.engine.guards import every_kth
from amends.subjects.prefix import unshared

On = Literal["answer", "alternative"]
Sums = Literal["sum", "mean"]
_BLOCK = 1 << 24


def rows_of(start: Start, role: Role, rows: int | None, on: On = "answer") -> list[Sample]:
    """`rows` rows spread evenly over a role (all by default), or the alternatives that the data has for them."""
    samples = every_kth(start.data[role], len(start.data[role]) if rows is None else rows)
    if not samples:
        raise UserError(f"role '{role}' is empty: there is nothing to score weights by")
    if on == "answer":
        return samples
    missing = [s.id for s in samples if s.id not in start.data.alternatives]
    if missing:
        raise UserError(
            f"role '{role}': {len(missing)} row(s) have no alternative answer ({missing[0]}, ...), which `on: alternative` "
            "scores weights by: give the data a list of refusals, or use `on: answer`"
        )
    return [start.data.alternatives[s.id] for s in samples]


def in_batches(start: Start, samples: Sequence[Sample], size: int, name: str) -> list[Batch]:
    """The rows sorted by length, `size` a batch, with every random choice drawn in: each pass sees the same ones."""
    subject = start.subject
    encoded = sorted((subject.encode(s) for s in samples), key=lambda e: (e.size, e.id))
    cut = [subject.collate(encoded[i : i + size]) for i in range(0, len(encoded), size)]
    return [subject.draw(batch, start.run.rng("attribution", name, i)) for i, batch in enumerate(cut)]


def gradients(
    start: Start, batches: Sequence[Batch], params: Params, sums: Sums = "mean", micro: int = 1
) -> dict[str, Tensor]:  # fmt: skip
    """The float32 gradient of each of `params`; zeros where nothing depends on it.

    `mean` is that of the mean over all terms (tokens) of all rows, however they are cut into batches. `sum` adds up
    the batches' own means. `micro` rows of a batch go through the model at once.
    """
    total = in_blocks(params, torch.float32)

    def add(name: str, gradient: Tensor) -> None:
        total[name].add_(gradient.float())

    counts = [int(start.subject.count(batch).sum()) for batch in batches]
    divisors = counts if sums == "sum" else [sum(counts)] * len(batches)
    with _only(start, params, add), _looked_up(start, params, add):
        _backward(start, batches, params, divisors, micro)
    return total


def in_blocks(params: Params, dtype: torch.dtype) -> dict[str, Tensor]:
    """Zeros of the shape of each parameter, cut from blocks of at least 16 million numbers.

    A block that large goes back to the system when it is freed. Small tensors that outlive a backward pass do not: they
    come to lie between its activations, and the holes that those leave stay with the process.
    """
    found: dict[str, Tensor] = {}
    waiting: list[str] = []
    for name in params:
        waiting.append(name)
        sizes = [params[n].numel() for n in waiting]
        if sum(sizes) >= _BLOCK or len(found) + len(waiting) == len(params):
            block = torch.zeros(sum(sizes), dtype=dtype, device=params[name].device)
            found |= {n: piece.view(params[n].shape) for n, piece in zip(waiting, block.split(sizes), strict=True)}
            waiting = []
    return found


def halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same in bfloat16 (0.4 per cent); each original is let go as soon as it is copied."""
    half = in_blocks(tensors, torch.bfloat16)
    for name, small in half.items():
        small.copy_(tensors.pop(name))
    return half


def mean_square(start: Start, batches: Sequence[Batch], params: Params) -> float:
    """The mean over parameters of the mean over batches of the squared gradient of a batch's mean loss; keeps no gradient.

    So each batch goes through the model as a whole.
    """
    squares: list[Tensor] = []

    def add(name: str, gradient: Tensor) -> None:
        squares.append(torch.linalg.vector_norm(gradient, dtype=torch.float32) ** 2)

    with _only(start, params, add):
        _backward(start, batches, params, [int(start.subject.count(batch).sum()) for batch in batches])
    return float(sum(map(float, squares))) / len(batches) / sum(p.numel() for p in params.values())


def parts(params: Params, number: int) -> list[Params]:
    """The parameters, in the model's order, as a whole or cut where half of the weights are behind.

    The lower part comes first: what is large beside a part's own gradients (that of an output head that is tied to the
    embedding) falls into its time, when no score of another part is there yet.
    """
    if number == 1 or len(params) < 2:
        return [params]
    names, half, seen, cut = list(params), sum(p.numel() for p in params.values()) / 2, 0, 0
    while cut < len(names) - 1 and (seen < half or cut == 0):
        seen += params[names[cut]].numel()
        cut += 1
    return [{n: params[n] for n in names[:cut]}, {n: params[n] for n in names[cut:]}]


def _backward(
    start: Start, batches: Sequence[Batch], params: Params, divisors: Sequence[int], micro: int | None = None
) -> None:  # fmt: skip
    """Of each batch's summed cross-entropy over its divisor, `micro` rows at a time or all at once."""
    device = next(iter(params.values())).device
    with unshared(), start.run.progress("scoring weights", len(batches)) as bar:
        for batch, divisor in zip(batches, divisors, strict=True):
            size = micro or len(batch)
            for at in range(0, len(batch), size):
                piece = batch.rows(at, at + size).to(device)
                (start.subject.likelihood(piece).nll_B.sum() / divisor).backward()
            bar.advance()


@contextmanager
def _only(start: Start, params: Params, add: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Inside, `params` alone get gradients, which go to `add`; afterwards everything is as it was."""
    call, everything = start.subject.call, list(start.subject.module.parameters())
    before = [(p, p.requires_grad, p.grad) for p in everything]
    was_training = call.training
    chosen = {id(p) for p in params.values()}
    hooks = []
    try:
        call.eval()
        for p in everything:
            p.grad = None
            p.requires_grad_(id(p) in chosen)
        hooks += [p.register_post_accumulate_grad_hook(_to(add, name)) for name, p in params.items()]
        yield
    finally:
        call.train(was_training)
        for hook in hooks:
            hook.remove()
        for p, required, gradient in before:
            p.requires_grad_(required)
            p.grad = gradient


@contextmanager
def _looked_up(start: Start, params: Params, add: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Inside, the gradient of a lookup in an embedding goes to `add` by itself, as the rows that were looked up.

    Otherwise it is a whole table, 0 in nearly every row, and where the output head is the same weight backward holds three
    such tables until they are one. The embedding gets a parameter of its own for that, with the same storage.
    """
    names = {id(p): name for name, p in params.items()}
    modules = [m for m in start.subject.module.modules() if isinstance(m, nn.Embedding) and id(m.weight) in names]
    tables = [(m, m.weight, m.sparse) for m in modules if m.weight.device.type in ("cpu", "cuda")]
    try:
        for module, weight, _ in tables:
            module.weight, module.sparse = nn.Parameter(weight.detach()), True
            module.weight.register_post_accumulate_grad_hook(_to(add, names[id(weight)]))
        yield
    finally:
        for module, weight, sparse in tables:
            module.weight, module.sparse = weight, sparse


def _to(add: Callable[[str, Tensor], None], name: str) -> Callable[[Tensor], None]:
    """A hook that takes a parameter's gradient away as soon as it is there."""

    def take(p: Tensor) -> None:
        gradient, p.grad = p.grad, None
        assert gradient is not None
        add(name, gradient)

    return take
