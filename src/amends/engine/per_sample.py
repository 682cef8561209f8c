"""The gradient of each row's own loss, of many rows at once, through `torch.func`: no loop over samples.

The model is a function of its weights that sees one row; `grad` differentiates it and `vmap` takes a batch of rows through it
together. In evaluation mode, so that a batch norm uses its running statistics: in training mode a row would have no
gradient of its own.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from amends.core.errors import UserError
from amends.core.protocols import Params
from amends.core.types import Batch


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
    one, was_training = _OneRow(subject), subject.call.training
    places = {id(p): name for name, p in one.named_parameters()}
    chosen = {places[id(p)]: p.detach() for p in params.values()}
    subject.call.eval()
    try:
        slope = grad(lambda weights, row: functional_call(one, weights, (row,)))
        found = vmap(slope, in_dims=(None, 0))(chosen, dict(batch.tensors))
    except RuntimeError as error:
        if "vmap" not in str(error):
            raise
        raise UserError(f"a {type(subject).__name__} gives no gradients of single rows: {str(error).splitlines()[0]}") from None
    finally:
        subject.call.train(was_training)
    return {name: found[places[id(p)]] for name, p in params.items()}
