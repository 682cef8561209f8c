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
    over: Literal["sparsity", "place", "size", "step"] = "sparsity"
    """What goes across: the sparsity of the stages, the place of each score from the largest down, the scores' size, or
    the stage's steps."""
    title: str = ""
    """What stands above the pictures, in front of the measurement's name."""

    def check(self, at: str, stages: Sequence[str], metrics: Sequence[str]) -> None:
        """Raises UserError when a stage or a measurement exists nowhere in the recipe."""
        known = (*metrics, SECONDS) if self.over == "sparsity" else metrics
        for i, name in enumerate(self.of):
            if name not in known and self.over != "step":
                raise UserError(f"{at}.of.{i}: nothing measured is called {name!r}{nearest(name, known)}")
        for line, names in self.lines.items():
            if not names:
                raise UserError(f"{at}.lines.{line}: give at least one stage")
            if self.over != "sparsity" and len(names) > 1:
                raise UserError(f"{at}.lines.{line}: over {self.over} a line is one stage: name one")
            for name in names:
                if name not in stages:
                    raise UserError(f"{at}.lines.{line}: no stage is called {name!r}{nearest(name, stages)}")
