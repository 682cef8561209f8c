"""IFBench (Pyatkin et al. 2025, arXiv 2507.02833): 300 prompts with 58 kinds of demand that IFEval does not have.

The rows have IFEval's form, with keys that are texts; others who load the published file count 294 of them. Held out from
what people tune on, so that a gain on IFEval alone shows as one. The checkers are those of the package if-verifiable
(`pip install 'amends[ifbench]'`). Data under ODC-BY 1.0.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from amends.core.spec import Count, spec
from amends.data.bundle import Bundle
from amends.data.ifeval import samples_of
from amends.data.instructed import bundled, chosen, located
from amends.data.text import FilePath

HUB = "allenai/IFBench_test"


@spec
class IFBench:
    """IFBench: prompts with demands unlike IFEval's, decided by code; from its file or the hub."""

    file: FilePath | None = None
    """The file as published (IFBench_test.jsonl); downloaded from the hub when absent."""
    name: str = HUB
    """The data set on the hub, where no file is given."""
    revision: str | None = None
    """A commit on the hub."""
    limit: Count | None = None
    """At most this many prompts, drawn by the seed."""
    longest: Count | None = None
    """Only prompts of at most this many characters."""
    without: Annotated[tuple[str, ...], Field(default=())]
    """Leave out prompts with such a demand: `words:start_verb`, or `start_verb`."""

    def load(self, seed: int) -> Bundle:
        """Role test. Raises UserError with file, line and key for bad rows."""
        samples = samples_of(located(self.file, self.name, "train", self.revision), "ifbench")
        filters: dict[str, Any] = {k: getattr(self, k) for k in ("limit", "longest", "without")}
        return bundled({"test": chosen(samples, seed, **filters)})
