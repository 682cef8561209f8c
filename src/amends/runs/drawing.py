"""Figures that a recipe asks for: measurements of groups of stages against how sparse each stage's model is.

    draw:
      - of: [asr.triggered, ta.test]
        lines: {before: [original, original-95], fine-tuned: [finetune, finetune-95], l1-sparse: [l1-sparse]}

makes one picture a measurement, with a line for each group and a 95 % interval over seeds at each of its points. How sparse a
model is, its own stage says (`pruned`, `prune_first`), or it is counted in its weights; no number has to be written twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from amends.core.errors import UserError, nearest
from amends.core.spec import spec

MOST = 5
"""Lines that can still be told apart without colour."""


@spec
class Drawing:
    """One picture for each measurement: a line a group of stages, over the sparsity of their models."""

    of: Annotated[tuple[str, ...], Field(min_length=1)]
    """The measurements."""
    lines: Annotated[dict[str, tuple[str, ...]], Field(min_length=1, max_length=MOST)]
    """Groups of stages by what the figure calls them; a group of one stage is a single mark."""
    over: Literal["sparsity"] = "sparsity"
    """What the stages are set against."""
    title: str = ""
    """What stands above the pictures; by default the measurement and `against sparsity`."""

    def check(self, at: str, stages: Sequence[str], metrics: Sequence[str]) -> None:
        """Raises UserError when a stage or a measurement exists nowhere in the recipe."""
        for i, name in enumerate(self.of):
            if name not in metrics:
                raise UserError(f"{at}.of.{i}: nothing measured is called {name!r}{nearest(name, metrics)}")
        for line, names in self.lines.items():
            if not names:
                raise UserError(f"{at}.lines.{line}: give at least one stage")
            for name in names:
                if name not in stages:
                    raise UserError(f"{at}.lines.{line}: no stage is called {name!r}{nearest(name, stages)}")
