"""What transformers calls the keys and values of earlier positions: `past_key_values` up to 5.23, `cache` since 5.24."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any


@cache
def cache_name() -> str:
    """The name in this release, of the argument of a forward and of the field of its output."""
    from transformers.modeling_outputs import CausalLMOutputWithPast

    names = {field.name for field in fields(CausalLMOutputWithPast)}
    return "cache" if "cache" in names else "past_key_values"


def as_cache(held: Any) -> dict[str, Any]:
    """Keys and values as a keyword of this release."""
    return {cache_name(): held}
