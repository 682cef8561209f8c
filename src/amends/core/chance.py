"""What is said of a judge that knows no more than a coin, wherever one is held against the truth."""

from __future__ import annotations

import math


def no_better(tpr: float, tnr: float, balanced: float, high: float) -> str:
    """Why a judge should not be believed, or nothing; also nothing where a class did not occur (`balanced` is not a number).

    Args:
        tpr: share of violated constraints that it calls violated.
        tnr: share of met ones that it calls met; guessing gives `tpr + tnr = 1`.
        balanced: the mean of the two.
        high: the upper end of the 95 % interval of `balanced`.

    >>> no_better(0.0, 1.0, 0.5, 0.5)
    'no better than chance: it calls 0% of the violated constraints violated, and 0% of the met ones'
    >>> no_better(0.9, 0.8, 0.85, 0.95)
    ''
    """
    if math.isnan(balanced):
        return ""
    if high < 0.5:
        return f"worse than chance: balanced accuracy {balanced:.2f}, at most {high:.2f}"
    if tpr + tnr <= 1:
        return (
            f"no better than chance: it calls {tpr:.0%} of the violated constraints violated, and {1 - tnr:.0%} of the met ones"
        )
    return ""
