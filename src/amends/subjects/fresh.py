"""Weights drawn anew in a model of the same shape: the incompetent teacher, and a sparse model that is trained from scratch.

Layers of torch draw their own (`reset_parameters`, batch statistics included); a parameter that belongs to none of them (a
class token, position embeddings) gets its own entries in another order, which keeps their scale and drops what they say.
Where a model was initialised in some other way this is another initialisation, as good as the layers' own.
"""

from __future__ import annotations

import torch
from torch import nn

from amends.core.rng import rng, stream_seed


@torch.no_grad()
def redraw(module: nn.Module, seed: int, *names: object) -> None:
    """Draws every weight from the stream `names` under `seed`, in place; the module has to be on the CPU."""
    drawn: set[int] = set()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, *names))
        for layer in module.modules():
            reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
            if callable(reset):
                reset()
                drawn |= {id(p) for p in layer.parameters()}
    for name, p in module.named_parameters():
        if id(p) not in drawn:
            order = torch.randperm(p.numel(), generator=rng(seed, *names, name))
            p.copy_(p.flatten()[order].view(p.shape))
