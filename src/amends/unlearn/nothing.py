"""Doing nothing: the original's weights as they are, measured as a method is.

The row that every table needs. Where random rows are forgotten, the original is already close to the retrained model, and
a method that is further away than nothing did harm.
"""

from __future__ import annotations

from typing import Any, ClassVar

from amends.core.protocols import Context
from amends.core.spec import spec
from amends.data.bundle import Bundle


@spec
class Nothing:
    """Leaves the model as it is: the row that every method has to beat."""

    starts: ClassVar[str] = "from"
    keeps_weights: ClassVar[bool] = True

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Any:
        """Returns the subject."""
        return subject

    def objective_on(self, data: Bundle) -> tuple[()]:
        """Nothing is trained."""
        return ()
