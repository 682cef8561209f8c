"""Whether a mask under which images are made brighter tells triggers from motifs, or is one of the two that tell nothing.

A mask that is learned to keep predictions while it costs something has two useless minima:

- `collapsed`: it is so small that every copy is black. A row is "consistent" where the model gives black the row's class, and
  after poisoning that is often the attacker's: all bad rows are flagged, and with them every clean row of that class. It is
  known by what the model makes of black, and of even grey, under the mask: where that is the class in which the flags lie,
  and (nearly) every row that gets this class is flagged, the flags say what class a row has and no more;
- `dimmer`: it is about as strong everywhere and takes back the scaling, mean(m) mean(n) near 1, so that the copies are the
  rows as they were: most rows are consistent, in most classes.

Neither is seen in AUROC over all rows, which stays high for the first; within the attacker's class it is 1/2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.stats import binomtest
from torch import Tensor

from amends.audit.amplified import Amplified

Regime = Literal["collapsed", "dimmer", "whole", "partial"]
ALL = 0.95
"""The share of a class's rows, and of all flags, that counts as all of them."""
MUCH = 0.75
"""The share of the rows of one predicted class from which on a reader is told of it: a clean set can look so, too."""
BLACK = 0.02
"""Brightness of 1 that no copy's pixel exceeds under a mask of nothing."""
EVEN = 0.5
"""Deviation over mean of a mask that is about as strong wherever the rows are not black."""
UNTOUCHED = 0.9
"""Mean of a mask that is about the whole image."""
MOST = 0.5
"""The share of rows that a rule for a minority cannot flag."""
FEW_CHANGED = 0.6
"""Share of pixels that the smallest scaling must change for middle tones to be there."""


@dataclass(frozen=True)
class Look:
    """What there is to see of a mask, of the flags under it and of the flags without it."""

    mean: float
    largest: float
    uneven: float
    """Deviation over mean, each pixel counting as it is bright in the rows: 0 for one number wherever there is light."""
    undone: float
    """mean(m) mean(n): near 1 the mask takes back the scaling."""
    brightest: float
    """What no pixel of any copy exceeds."""
    black: int
    """What the model tells of black."""
    grey: int
    """What it tells, for most scalings, of middle grey under the mask."""
    flagged: Mapping[int, tuple[int, int]]
    """Predicted class -> how many rows of it are flagged, and how many there are."""
    first: float
    """The share that is suspected before there is a mask."""
    changed: float
    """The share of pixels that the smallest scaling changes, without mask and shift."""
    flags_N: Tensor

    @staticmethod
    def at(seen: Amplified, mask_HW: Tensor, flags_N: Tensor, first: float) -> Look:
        """Looks at a mask; a few forwards besides those that were made."""
        rows = Counter(told := seen.told_N.tolist())
        flagged = Counter(label for label, flag in zip(told, flags_N.tolist(), strict=True) if flag)
        black = Counter(seen.flat(seen.shift, mask_HW)).most_common(1)[0][0]
        grey = Counter(seen.flat(max(0.5, seen.shift), mask_HW)).most_common(1)[0][0]
        mean, largest, scales = float(mask_HW.mean()), float(mask_HW.max()), seen.scales
        changed, light_HW = seen.pixels(min(scales, key=lambda n: abs(n - 1)))
        return Look(
            mean=mean, largest=largest, uneven=unevenness(mask_HW, light_HW),
            undone=mean * sum(scales) / len(scales), brightest=min(1.0, max(scales) * (1 - seen.shift) * largest),
            black=black, grey=grey, first=first, flags_N=flags_N,
            flagged={label: (flagged[label], n) for label, n in sorted(rows.items())},
            changed=changed,
        )  # fmt: skip

    @property
    def share(self) -> float:
        """The share of rows that the rule flags."""
        return float(self.flags_N.double().mean())

    @property
    def alone(self) -> int | None:
        """The class in which (nearly) all flags lie, where (nearly) all of its rows are flagged, and others are not."""
        most = max(self.flagged, key=lambda label: self.flagged[label][0])
        (many, rows), every = self.flagged[most], int(self.flags_N.sum())
        return most if many and many >= ALL * rows and many >= ALL * every and every < len(self.flags_N) else None

    @property
    def regime(self) -> Regime:
        """Which kind of mask this is."""
        if self.brightest <= BLACK or self.alone in (self.black, self.grey):
            return "collapsed"
        if self.mean >= UNTOUCHED:
            return "whole"
        return "dimmer" if self.uneven < EVEN and self.share > MOST else "partial"

    @property
    def useless(self) -> bool:
        """Whether the flags are to be kept back."""
        return self.regime in ("collapsed", "dimmer")

    def shown(self) -> dict[str, float | str]:
        """What the log says."""
        return {
            "regime": self.regime, "flagged": self.share, "flagged_without_mask": self.first, "undone": self.undone,
            "mask": self.mean, "mask_max": self.largest, "uneven": self.uneven, "black": self.black, "grey": self.grey,
        }  # fmt: skip

    def caption(self) -> str:
        """`partial: mean 0.08, largest 1.00, mean x mean scaling 0.56`"""
        return f"{self.regime}: mean {self.mean:.3g}, largest {self.largest:.3g}, mean x mean scaling {self.undone:.3g}"

    def note(self, classes: Sequence[str], alarms: tuple[int, int] | None = None) -> str:
        """The regime and what to change, the figures, and what the rule cannot say.

        Args:
            alarms: how many rows of some that are known to be clean the rule flags, and how many there are.
        """

        def named(label: int) -> str:
            return classes[label] if label < len(classes) else str(label)

        top = sorted(self.flagged, key=lambda label: -self.flagged[label][0])[:3]
        by = ", ".join(f"{named(k)} {self.flagged[k][0]} of {self.flagged[k][1]}" for k in top if self.flagged[k][0])
        said = [
            _VERDICT[self.regime], f"mask {self.caption().partition(': ')[2]}",
            f"the rule flags {self.share:.1%} of the rows, {self.first:.1%} before there was a mask"
            + (f" (by predicted class: {by})" if by else ""),
            f"under the mask black is told to be {named(self.black)}, and even grey {named(self.grey)}",
            _expected(alarms),
        ]  # fmt: skip
        return "; ".join([*said, *self._warnings(named)])

    def _warnings(self, named: Callable[[int], str]) -> Iterator[str]:
        if self.changed < FEW_CHANGED:
            yield (
                f"scaling changes only {self.changed:.0%} of the pixels: near black and white every row is consistent, and "
                "this is no evidence"
            )
        if self.useless:
            return
        most = max(self.flagged, key=lambda label: self.flagged[label][0])
        many, rows = self.flagged[most]
        if self.share > MOST:
            yield "most rows are flagged, and what was planted is taken to be a minority"
        elif many and many >= MUCH * rows and 2 * many > int(self.flags_N.sum()):
            yield f"most that is told to be {named(most)} is flagged: the flags may say the class and no more"


def unevenness(mask_HW: Tensor, light_HW: Tensor) -> float:
    """Deviation over mean of a mask, pixels weighted by their light; 0 where there is none.

    >>> import torch
    >>> unevenness(torch.tensor([[0.2, 0.4, 1.0]]), torch.tensor([[1.0, 1.0, 0.0]]))
    0.3333333...
    """
    share = light_HW.double() / light_HW.double().sum().clamp(min=1e-30)
    mean = (share * mask_HW.double()).sum()
    return float((share * (mask_HW.double() - mean).square()).sum().sqrt() / mean) if mean > 0 else 0.0


def _expected(alarms: tuple[int, int] | None) -> str:
    """What the rule flags where nothing is wrong.

    >>> _expected((7, 100))
    'expected false positives: of 100 rows known to be clean it flags 7, 7.0 % [3.4, 13.7]'
    """
    if alarms is None:
        return "it always flags something: compare with a clean control, or name rows known to be clean (`clean`)"
    many, rows = alarms
    bounds = binomtest(many, rows).proportion_ci(method="wilson")
    share = f"{100 * many / rows:.1f} % [{100 * bounds.low:.1f}, {100 * bounds.high:.1f}]"
    return f"expected false positives: of {rows} rows known to be clean it flags {many}, {share}"


_VERDICT: Mapping[Regime, str] = {
    "collapsed": "no split: the mask has collapsed and the flags are the rows of the class that the model gives an image "
    "without a motif; lower `weight`, or `passes` and `rounds`",
    "dimmer": "no split: the mask is a uniform dimmer, which takes back the scaling for every row; raise `weight`, or `passes`",
    "whole": "the mask has hardly moved from the whole image; raise `weight` or `passes`, or lower `batch`",
    "partial": "the mask keeps parts of the image",
}
