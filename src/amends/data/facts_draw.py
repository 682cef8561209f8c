"""How the generated world of `facts.py` is drawn, by hashes of what a value is for: dealt out evenly, and wrong answers."""

from __future__ import annotations

from collections.abc import Sequence

from amends.core.rng import stream_seed
from amends.data.splits import shuffled


def deal(values: Sequence[str], hands: int, seed: int, stream: str) -> list[str]:
    """One value a hand, each value equally often (give or take one), in an order of its own each time round."""
    rounds = -(-hands // len(values))
    return [value for r in range(rounds) for value in shuffled(values, seed, "facts", stream, r)][:hands]


def others(values: Sequence[str], value: str, count: int, seed: int, row_id: str) -> list[str]:
    """Distinct other values, drawn one by one: a hash of a whole long list for every row would take seconds."""
    found: dict[str, None] = {}
    draw = 0
    while len(found) < count:
        other = values[stream_seed(seed, "facts", "wrong", row_id, draw) % len(values)]
        found.update({other: None} if other != value else {})
        draw += 1
    return list(found)
