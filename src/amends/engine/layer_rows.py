"""Gradients of single rows from one ordinary forward and backward, layer by layer.

The gradient of a layer's weights is a product of what went into it and what came back to it. An ordinary backward pass sums it
over rows; here both are caught on the way and multiplied for each row apart, so a row's gradient costs what a batch's does.
`torch.func.vmap` over `grad`, which takes any model, is the measure and the fallback (see `per_sample`).

Layers that are known: linear, convolution in two dimensions, batch norm with running statistics, layer norm, group norm.
Nothing is returned for a model with chosen weights elsewhere, for one that changes a layer's input in place, or whose layers
see something else than one entry for each row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from amends.core.protocols import Params
from amends.core.types import Batch

Rule = Callable[[Any, Tensor, Tensor], dict[str, Tensor]]

FEW_PLACES = 64  # below it, many channels in copied windows are multiplied faster than a convolution in groups runs


def by_layers(subject: Any, batch: Batch, params: Params) -> dict[str, Tensor] | None:
    """[B, *shape] for each of `params`, by name, or None where layers do not tell. In the mode that the subject is in."""
    owners = _owners(subject.call, params)
    if owners is None:
        return None
    tape = _Tape(len(batch.ids))
    hooks = [module.register_forward_hook(tape.record) for module in owners]
    trained = {p: p.requires_grad for p in subject.call.parameters()}
    try:
        for p in trained:
            p.requires_grad_(False)
        with torch.enable_grad():
            like = subject.likelihood(batch)
            loss = (like.nll_B / like.n_B).sum()
        if loss.requires_grad and not tape.broken:
            torch.autograd.grad(loss, tape.leaves, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
        for p, was in trained.items():
            p.requires_grad_(was)
    if tape.broken:
        return None
    return {name: tape.found[p] if p in tape.found else p.new_zeros((tape.num, *p.shape)) for name, p in params.items()}


def _owners(call: nn.Module, params: Params) -> list[nn.Module] | None:
    """The layers that hold `params`, if all of them are known."""
    wanted, held = set(params.values()), set()
    owners = []
    for module in call.modules():
        own = wanted & set(module.parameters(recurse=False))
        if not own:
            continue
        if type(module) not in RULES or not _plain(module):
            return None
        owners.append(module)
        held |= own
    return owners if held == wanted else None


def _plain(module: Any) -> bool:
    """A layer that its rule describes: zeros around the image, statistics that do not depend on the batch."""
    if isinstance(module, nn.Conv2d):
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
        return module.running_mean is not None and not module.training
    return True


class _Tape:
    """What goes into layers, and, once it comes back, the gradients of rows that follow from it."""

    def __init__(self, num: int) -> None:
        self.num = num
        self.leaves: list[Tensor] = []
        self.found: dict[Tensor, Tensor] = {}
        self.broken = False

    def record(self, module: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """A forward hook. Where no gradient would come back, since no weight takes one, the output becomes a leaf."""
        alone = len(inputs) == 1 and inputs[0].ndim > 1  # not by keyword, which a hook is not told of
        self.broken |= not alone or len(inputs[0]) != self.num or len(output) != self.num
        if self.broken:
            return None
        x = inputs[0].detach()
        changed = None
        if not output.requires_grad:
            self.leaves.append(output.detach().requires_grad_())
            output = changed = self.leaves[-1].clone()  # since what follows may change it in place, and a leaf may not be
        version = x._version

        def back(slope: Tensor) -> None:
            self.broken |= x._version != version
            if self.broken:
                return
            for name, value in RULES[type(module)](module, x, slope).items():
                p = getattr(module, name)
                if p is not None:
                    self.found[p] = self.found[p] + value if p in self.found else value

        output.register_hook(back)
        return changed


def _linear(layer: nn.Linear, x: Tensor, slope: Tensor) -> dict[str, Tensor]:
    slope_BTO, x_BTI = slope.reshape(len(x), -1, slope.shape[-1]), x.reshape(len(x), -1, x.shape[-1])
    return {"weight": slope_BTO.transpose(1, 2) @ x_BTI, "bias": slope_BTO.sum(1)}


def _conv(layer: nn.Conv2d, x: Tensor, slope: Tensor) -> dict[str, Tensor]:
    places = slope.shape[2] * slope.shape[3]
    rule = _conv_windows if places < FEW_PLACES and layer.groups == 1 and layer.dilation == (1, 1) else _conv_groups
    return {"weight": rule(layer, x, slope), "bias": slope.sum((2, 3))}


def _conv_groups(layer: nn.Conv2d, x: Tensor, slope: Tensor) -> Tensor:
    """The rows are the groups of one convolution with a single image."""
    num, shape = len(x), layer.weight.shape
    images, slopes = x.reshape(1, -1, *x.shape[2:]), slope.reshape(1, -1, *slope.shape[2:])
    groups = num * layer.groups
    weight = conv2d_weight(
        images, (num * shape[0], *shape[1:]), slopes, layer.stride, layer.padding, layer.dilation, groups
    )  # fmt: skip
    return weight.reshape(num, *shape)


def _conv_windows(layer: nn.Conv2d, x: Tensor, slope: Tensor) -> Tensor:
    """Every window of the image as a column, times what came back from its place."""
    (high, wide), (down, right) = layer.kernel_size, layer.stride
    up, left = map(int, layer.padding)
    padded = F.pad(x, (left, left, up, up))
    (b, c, h, w), (rows, columns) = padded.stride(), slope.shape[2:]
    windows = padded.as_strided((*x.shape[:2], high, wide, rows, columns), (b, c, h, w, h * down, w * right))
    columns_BPL = windows.reshape(len(x), -1, rows * columns)
    return (slope.flatten(2) @ columns_BPL.transpose(1, 2)).reshape(len(x), *layer.weight.shape)


def _batch_norm(layer: nn.BatchNorm2d, x: Tensor, slope: Tensor) -> dict[str, Tensor]:
    """From the sum of what came back and its product with what went in: one pass over the image for each."""
    slope_BCN, mean_C, var_C = _places(slope), layer.running_mean, layer.running_var
    assert mean_C is not None and var_C is not None
    bias_BC = slope_BCN.sum(2)
    product_BC = torch.linalg.vecdot(slope_BCN, _places(x))
    return {"weight": (product_BC - mean_C * bias_BC) * (var_C + layer.eps).rsqrt(), "bias": bias_BC}


def _group_norm(layer: nn.GroupNorm, x: Tensor, slope: Tensor) -> dict[str, Tensor]:
    unit = F.group_norm(x, layer.num_groups, eps=layer.eps)
    return {"weight": _places(slope * unit).sum(2), "bias": _places(slope).sum(2)}


def _places(image: Tensor) -> Tensor:
    """[B, C, N] all places of a channel in a row; one where there are no axes behind it."""
    return image.reshape(*image.shape[:2], -1)


def _layer_norm(layer: nn.LayerNorm, x: Tensor, slope: Tensor) -> dict[str, Tensor]:
    unit, shape = F.layer_norm(x, layer.normalized_shape, eps=layer.eps), (len(x), -1, *layer.normalized_shape)
    return {"weight": (slope * unit).reshape(shape).sum(1), "bias": slope.reshape(shape).sum(1)}


RULES: Mapping[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
}
