"""The gradient of each row's own loss, of many rows at once: no loop over samples.

Two ways. `torch.func`: the model is a function of its weights that sees one row, `grad` differentiates it and `vmap` takes a
batch of rows through it together; that takes any model whose forward does not look into its rows. And layer by layer
(`engine/layer_rows.py`), faster (`benchmarks/per_sample.py`), for models of known layers, once it has been held against the
first on a row. In evaluation mode, so that a batch norm uses its running statistics: in training mode a row would have no
gradient of its own.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from amends.core.errors import UserError
from amends.core.protocols import Params
from amends.core.types import Batch
from amends.engine.layer_rows import by_layers

AGREE = 1e-3  # of a weight's gradient: far above rounding in float32, far below what a layer that is missed makes
_HELD: WeakKeyDictionary[nn.Module, dict[frozenset[str], bool]] = WeakKeyDictionary()


class _OneRow(nn.Module):
    """The mean loss of one row, as a function of the row's tensors."""

    def __init__(self, subject: Any) -> None:
        super().__init__()
        self.call = subject.call
        self._likelihood = subject.likelihood

    def forward(self, row: dict[str, Tensor]) -> Tensor:
        like = self._likelihood(Batch(("row",), {k: v[None] for k, v in row.items()}))
        return (like.nll_B / like.n_B).sum()


def per_sample(subject: Any, batch: Batch, params: Params) -> dict[str, Tensor]:
    """[B, *shape] for each of `params`, by name: the gradient of that row's mean loss. The subject is left as it was.

    Raises UserError for a model whose forward depends on what is in its rows (packed tokens), which `vmap` cannot follow.
    """
    was_training = subject.call.training
    subject.call.eval()
    try:
        known = _HELD.setdefault(subject.call, {})
        held = known.get(frozenset(params))
        found = by_layers(subject, batch, params) if held is not False else None
        if held is None:
            known[frozenset(params)] = found is not None and _agree(found, of_function(subject, batch.rows(0, 1), params))
        return found if found is not None and known[frozenset(params)] else of_function(subject, batch, params)
    finally:
        subject.call.train(was_training)


def of_function(subject: Any, batch: Batch, params: Params) -> dict[str, Tensor]:
    """The same through `torch.func`, for any model that `vmap` can follow, in the mode that it is in."""
    one = _OneRow(subject)
    places = {id(p): name for name, p in one.named_parameters()}
    chosen = {places[id(p)]: p.detach() for p in params.values()}
    try:
        slope = grad(lambda weights, row: functional_call(one, weights, (row,)))
        with torch.no_grad():  # of what is outside: weights that were not chosen leave no graph behind
            found = vmap(slope, in_dims=(None, 0))(chosen, dict(batch.tensors))
    except RuntimeError as error:
        if "vmap" not in str(error):
            raise
        raise UserError(f"a {type(subject).__name__} gives no gradients of single rows: {str(error).splitlines()[0]}") from None
    return {name: found[places[id(p)]] for name, p in params.items()}


def _agree(found: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Whether the first row has the same gradient both ways: a weight that is used outside its layer would be missed."""
    sizes = {name: float(value.abs().max()) for name, value in right.items()}
    least = 1e-3 * max(sizes.values())
    return all(torch.allclose(found[n][0], v[0], rtol=0, atol=AGREE * max(sizes[n], least)) for n, v in right.items())
