"""Cuts a decoder behind one of its blocks, so that its final norm and head read the middle of the network."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from amends.core.errors import UserError
from amends.subjects.blocks import place
from amends.subjects.causal_lm import CausalLM


def cut(subject: Any, at: float) -> list[nn.Parameter]:
    """Leaves out every block behind block `at`, in place, and unties the head from the embeddings.

    `at` is an index from 0, or a float: a share of the depth. Returns the parameters that now follow the last block: the
    final norm's and the head's. Raises UserError for a model that is no decoder, or has no such block.
    """
    if not isinstance(subject, CausalLM):
        raise UserError(f"reads the blocks of causal language models, not of a {type(subject).__name__}")
    model = getattr(subject.module, "target", subject.module)  # blocks of a model with a subtracted assistant are its target's
    parent, name = _stack(model)
    kept = place(at, len(getattr(parent, name))) + 1
    setattr(parent, name, nn.ModuleList(list(getattr(parent, name))[:kept]))
    _tell(model.config, kept)
    head = copy.deepcopy(model.get_output_embeddings())
    model.set_output_embeddings(head)
    model.config.tie_word_embeddings = False
    subject.wrap(model)
    children = list(parent.named_children())
    behind = [child for _, child in children[[n for n, _ in children].index(name) + 1 :]]
    return [p for module in (*behind, head) for p in module.parameters()]


def _stack(model: nn.Module) -> tuple[nn.Module, str]:
    """The module that holds the longest list of blocks, and the list's name there; lists inside blocks are none."""
    found: list[tuple[int, nn.Module, str]] = []
    waiting = [model]
    while waiting:
        module = waiting.pop()
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList):
                found.append((len(child), module, name))
            else:
                waiting.append(child)
    if not found:
        raise UserError("the model has no list of blocks to cut")
    _, parent, name = max(found, key=lambda f: f[0])
    return parent, name


def _tell(config: Any, kept: int) -> None:
    """The model's config with its new depth, which caches and loops over blocks read."""
    config.num_hidden_layers = kept
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:kept]


def depth_name(at: float) -> str:
    """A depth as part of an attack's name.

    >>> depth_name(0.5), depth_name(3)
    ('50', 'L3')
    """
    return f"{round(100 * at)}" if isinstance(at, float) else f"L{at}"


def depth_label(at: float) -> str:
    """A depth in words.

    >>> depth_label(0.5), depth_label(3)
    ('50 % of the depth', 'block 3')
    """
    return f"{round(100 * at)} % of the depth" if isinstance(at, float) else f"block {at}"
