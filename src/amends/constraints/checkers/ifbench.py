"""One of IFBench's types as a checker (Pyatkin et al. 2025, arXiv 2507.02833); see `constraints/ifbench.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from amends.constraints.constraint import Finding
from amends.constraints.counted import met, unmet
from amends.constraints.ifbench import prepared
from amends.core.spec import spec


@spec
class IFBench:
    """One of IFBench's 58 types by its published code, which says yes or no and nothing more."""

    type: str
    """The published id, `count:word_count_range`."""
    kwargs: Annotated[Mapping[str, Any], Field(default_factory=dict)]
    """The published keywords; those that are None are padding."""

    def __post_init__(self) -> None:
        """Refuses what the published code would answer by drawing at random."""
        prepared(self.type, self.kwargs)

    def check(self, text: str) -> Finding:
        """Measures yes or no. Published code that fails on a text has not found what it looks for."""
        told = self.told()
        try:
            passed = bool(prepared(self.type, self.kwargs).check_following(text))
        except Exception as error:  # published code indexes into texts that are shorter than it expects
            said = f"The answer cannot be read by the check of {self.type} ({type(error).__name__}): {told}"
            return unmet(False, told, said)
        return met(True, told) if passed else unmet(False, told, f"The answer does not do what is asked: {told}")

    def told(self) -> str:
        """The demand as the benchmark puts it."""
        checker = prepared(self.type, self.kwargs)
        return str(checker.build_description(**{k: v for k, v in self.kwargs.items() if v is not None}))
