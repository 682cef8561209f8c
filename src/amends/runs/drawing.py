"""Figures that a recipe asks for: measurements of groups of stages against how sparse each stage's model is, and scores.

    draw:
      - of: [asr.triggered, ta.test]
        lines: {before: [original, original-95], fine-tuned: [finetune, finetune-95], l1-sparse: [l1-sparse]}

makes one picture a measurement (or `seconds`, what making each stage took), with a line for each group and a 95 % interval over
seeds at each of its points. How sparse a model is, its own stage says (`pruned`, `prune_first`), or it is counted in its
weights; no number has to be written twice.

Some measurements leave scores that are worth seeing as a whole: `over: place` draws them from the largest down, on a
logarithmic scale (the singular values of an update), and `over: size` how many lie where (the lengths of neurons). A line is
then a single stage. So it is with `over: step`, which draws what a stage logged at each of its steps: `of` then holds keys of
`metrics.jsonl`.

`over: stages` sets a measurement against the place of each stage in its line: what a model can do as one task follows another.
`over: measurements` is one picture of all measurements of `of` in their order, for a stage a line: errors against the number of
pilots. `ticks` names the places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from amends.core.errors import UserError, nearest
from amends.core.spec import spec

SECONDS = "seconds"
"""What making a stage took, which is drawn as a measurement is."""
MOST = 5
"""Lines that can still be told apart without colour."""


@spec
class Drawing:
    """One picture for each measurement: a line a group of stages over their sparsity, or a stage's own scores."""

    of: Annotated[tuple[str, ...], Field(min_length=1)]
    """The measurements."""
    lines: Annotated[dict[str, tuple[str, ...]], Field(min_length=1, max_length=MOST)]
    """Groups of stages by what the figure calls them; a group of one stage is a single mark."""
    over: Literal["sparsity", "place", "size", "step", "stages", "measurements"] = "sparsity"
    """What goes across: the sparsity of the stages, the place of each score from the largest down, the scores' size, the
    stage's steps, the stages in the order of their line, or the measurements in theirs."""
    ticks: tuple[str, ...] = ()
    """What the places are called, over stages or measurements."""
    level: str | None = None
    """A measurement of the first stage that is named, drawn as a level across the picture: a bound that no line can pass."""
    title: str = ""
    """What stands above the pictures, in front of the measurement's name."""

    def check(self, at: str, stages: Sequence[str], metrics: Sequence[str]) -> None:
        """Raises UserError when a stage or a measurement exists nowhere in the recipe."""
        known = (*metrics, SECONDS) if self.over == "sparsity" else metrics
        for i, name in enumerate(self.of):
            if name not in known and self.over != "step":
                raise UserError(f"{at}.of.{i}: nothing measured is called {name!r}{nearest(name, known)}")
        if self.level is not None and self.level not in metrics:
            raise UserError(f"{at}.level: nothing measured is called {self.level!r}{nearest(self.level, metrics)}")
        ordered = {"stages": max(map(len, self.lines.values())), "measurements": len(self.of)}
        for key, given in (("ticks", len(self.ticks)), ("level", self.level)):
            if given and self.over not in ordered:
                raise UserError(f"{at}.{key}: is for figures over stages or measurements, and this one is over {self.over}")
        if self.ticks and len(self.ticks) != ordered[self.over]:
            raise UserError(f"{at}.ticks: {len(self.ticks)} name(s) for {ordered[self.over]} place(s) across")
        for line, names in self.lines.items():
            if not names:
                raise UserError(f"{at}.lines.{line}: give at least one stage")
            if self.over not in ("sparsity", "stages") and len(names) > 1:
                raise UserError(f"{at}.lines.{line}: over {self.over} a line is one stage: name one")
            for name in names:
                if name not in stages:
                    raise UserError(f"{at}.lines.{line}: no stage is called {name!r}{nearest(name, stages)}")
