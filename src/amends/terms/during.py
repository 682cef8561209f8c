"""A term that counts during some steps only: objectives that alternate, in one fit with one optimiser.

SCRUB (arXiv 2302.09880) takes turns: a pass that maximises on the forget rows, a pass that minimises on the retain rows.
As two fits, one after the other, the optimiser's momentum would be lost at each turn and a run could not be resumed.
Here a term has a multiplier of 1 during its steps and of 0 outside them, which the engine keeps as it keeps a constraint's;
a role whose terms all rest is not put through the model.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator

from amends.core.protocols import Need, Per, View
from amends.core.spec import Natural, Part, Weighted, spec
from amends.core.types import Mean, Role
from amends.terms.nll import NLL


def _plain(given: Any) -> Any:
    """The term that was given, from Python as it is or from YAML as a summand with a weight, which must be 1."""
    term, weight = (given.term, given.weight) if isinstance(given, Weighted) else (given, 1.0)
    if weight != 1.0:
        raise ValueError("give the weight beside `use: during`, not inside")
    if hasattr(term, "following"):
        raise ValueError("the term inside carries a multiplier of its own")
    return term


def _ordered(windows: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    for begin, end in windows:
        if begin >= end:
            raise ValueError(f"a window begins before it ends: [{begin}, {end}] holds no step")
    return windows


@spec
class During:
    """Lets another term count during some steps only: passes that take turns (SCRUB)."""

    rests: ClassVar[bool] = True
    term: Annotated[Any, Part("terms"), AfterValidator(_plain)] = NLL()
    """The term, on its own role."""
    steps: Annotated[tuple[tuple[Natural, Natural], ...], AfterValidator(_ordered)] = ()
    """Windows of steps, counted from 0, from the first up to but without the second; none at all: always."""

    @property
    def needs(self) -> frozenset[Need]:  # type: ignore[override]
        """What the term inside needs."""
        return self.term.needs

    @property
    def role(self) -> Role:
        """The role of the term inside."""
        return self.term.role

    @property
    def per(self) -> Per:
        """What the term inside is a mean over."""
        return self.term.per

    @property
    def beside(self) -> tuple[Role, ...]:
        """The roles that the term inside looks at."""
        return getattr(self.term, "beside", ())

    def __call__(self, view: View) -> Mean:
        """The term inside."""
        return self.term(view)

    def first(self) -> float:
        """The multiplier at step 0."""
        return self._at(0)

    def following(self, multiplier: float, value: float, step: int) -> float:
        """1 during a window, 0 outside."""
        return self._at(step + 1)

    def _at(self, step: int) -> float:
        return float(not self.steps or any(begin <= step < end for begin, end in self.steps))
