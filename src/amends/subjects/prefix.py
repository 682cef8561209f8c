"""Computing what all rows of a batch begin with only once: a chat template's system prompt, an instruction.

In a causal model the states of a row's first tokens do not depend on what follows, so where every row of a batch begins
with the same P tokens, those go through the network as ONE row, and the rest of each row attends to their keys and
values. The likelihoods and their gradients are the same up to rounding; with dropout switched on, rows would share what is
dropped there. A tenth to a third of the tokens of a chat model's short questions and answers need not be computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor

from amends.subjects.caches import as_cache

WORTH = 1 / 8
"""The share of a batch's positions that must be saved for a second, short forward to pay."""


def shared_length(input_ids: Tensor, first: int) -> int:
    """How many leading tokens all rows [B, T] have in common, at most `first`; 0 where sharing them would not pay.

    >>> import torch
    >>> ids = torch.tensor([[5, 6, 7, 1, 2], [5, 6, 7, 3, 4]])
    >>> shared_length(ids, 4), shared_length(ids, 2), shared_length(ids[:1], 4)
    (3, 2, 0)
    """
    rows, length = input_ids.shape
    common = min(first, int((input_ids == input_ids[0]).all(0).int().cumprod(0).sum()))
    return common if (rows - 1) * common >= WORTH * rows * length else 0


_SWITCHED_ON = ContextVar("sharing", default=True)


@contextmanager
def unshared() -> Iterator[None]:
    """Inside, every row goes through the network whole.

    A shared beginning uses each weight twice, and backward holds all gradients of the rows' rests until it comes to the
    beginning: a second set of gradients, where memory is short. And whoever looks at activations would see it only once.
    """
    token = _SWITCHED_ON.set(False)
    try:
        yield
    finally:
        _SWITCHED_ON.reset(token)


def can_share(model: Any) -> bool:
    """Whether a model attends to everything before a token, through a cache of keys and values that gradients pass."""
    if not _SWITCHED_ON.get() or not type(_plain(model)).__module__.startswith("transformers."):
        return False
    if any(type(p).__name__ == "DTensor" for p in model.parameters()):  # processes with other rows would call blocks less often
        return False
    config = model.config
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    full = set(getattr(config, "layer_types", None) or ("full_attention",)) == {"full_attention"}
    return config.model_type in _KNOWN and full and not windowed


_KNOWN = frozenset(
    {"gemma", "gpt2", "gpt_neox", "granite", "llama", "mistral", "olmo", "olmo2", "phi", "phi3", "qwen2", "qwen3", "smollm3"}
)
"""Architectures with nothing but such attention; others (states of their own, windows, encoders) take the plain way."""


def rest_logits(model: Any, input_ids: Tensor, common: int) -> Tensor:
    """The model's output for the tokens behind the first `common` ones, [B, T - common, V] before the head's selection."""
    from transformers import DynamicCache

    cache: Any = DynamicCache(config=model.config)
    _before_head(model)(input_ids=input_ids[:1, :common], **as_cache(cache), use_cache=True)
    for layer in cache.layers:
        layer.keys = layer.keys.expand(len(input_ids), -1, -1, -1)
        layer.values = layer.values.expand(len(input_ids), -1, -1, -1)
    return model(input_ids=input_ids[:, common:], **as_cache(cache), use_cache=True).logits


def _before_head(model: Any) -> Any:
    """The model without its output head, adapters included: a prefix has nothing to predict."""
    plain = _plain(model)
    return getattr(plain, plain.base_model_prefix)


def _plain(model: Any) -> Any:
    """transformers' own model, without peft's shell around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
