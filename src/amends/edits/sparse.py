"""What pruning shares: which weights may be pruned, the mask that a pruned model's zeros are, and how sparse it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.edits.mask_file import Mask

Which = Literal["convolutions", "weights"]
"""What is pruned: kernels of convolutions (the papers, on residual networks), or those of linear layers as well."""


def prunable(model: nn.Module, which: Which) -> dict[str, Tensor]:
    """The weights that may be pruned, by name; biases and norms never. Raises UserError where there are none."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d) if which == "convolutions" else (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    inside = {id(m.weight) for m in model.modules() if isinstance(m, kinds)}
    found: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if id(p) in inside}
    if not found:
        raise UserError(f"the model has no {which} to prune" + (": set `which: weights`" if which == "convolutions" else ""))
    return found


def of_zeros(model: nn.Module, which: Which) -> Mask:
    """The mask of a model that is pruned already: its exact zeros. Raises UserError where it has none."""
    chosen = {n: torch.ones_like(p, dtype=torch.bool) for n, p in model.named_parameters()}
    chosen |= {n: p.detach() != 0 for n, p in prunable(model, which).items()}
    mask = Mask.of(chosen, "zeros")
    if mask.table["total"]["kept"] == mask.table["total"]["size"]:
        raise UserError("the start model has no weight that is 0: prune it first, or give `prune` or `file`")
    return mask


@torch.no_grad()
def put_on(model: nn.Module, mask: Mask) -> None:
    """Sets what the mask freezes to 0."""
    for name, p in model.named_parameters():
        if name in mask.bits:
            p.masked_fill_(mask.frozen(name, p.device), 0)


def holds(model: nn.Module, mask: Mask) -> bool:
    """Whether everything that the mask freezes is 0."""
    return not any(p[mask.frozen(n, p.device)].any() for n, p in model.named_parameters() if n in mask.bits)


def zeros(model: nn.Module) -> float | None:
    """The share of kernels of convolutions that is exactly 0, of all weights of layers where there are none; else None."""
    for which in ("convolutions", "weights"):
        try:
            return sparsity(model, which)["sparsity"]
        except UserError:
            continue
    return None


def sparsity(model: nn.Module, which: Which) -> Mapping[str, float]:
    """The share of zeros, of what may be pruned and of all parameters."""
    among, every = list(prunable(model, which).values()), list(model.parameters())
    zeros, size = (sum(f(p) for p in among) for f in (lambda p: int((p == 0).sum()), lambda p: p.numel()))
    return {
        "sparsity": zeros / size,
        "sparsity_of_all": sum(int((p == 0).sum()) for p in every) / sum(p.numel() for p in every),
    }


def told(module: nn.Module, which: Which, run: Context) -> float:
    """Says and logs how sparse a model is; the share of the prunable weights that is 0."""
    shares = sparsity(module, which)
    run.say(f"sparsity {shares['sparsity']:.2%} of the {which}, {shares['sparsity_of_all']:.2%} of all parameters")
    run.log(**shares)
    return shares["sparsity"]
