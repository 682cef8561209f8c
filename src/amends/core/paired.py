"""An exact test for pairs of yes and no, without any library."""

from __future__ import annotations

from math import comb


def mcnemar(won: int, lost: int) -> float:
    """The exact two-sided p-value of `won` against `lost` discordant pairs (McNemar 1947): a fair coin; 1 where there are none.

    >>> round(mcnemar(8, 1), 4), mcnemar(0, 0), mcnemar(2, 2)
    (0.0391, 1.0, 1.0)
    """
    n = won + lost
    return min(1.0, 2 * sum(comb(n, k) for k in range(min(won, lost) + 1)) / 2**n)
