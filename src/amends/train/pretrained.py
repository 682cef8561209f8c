"""The model as its makers left it."""

from __future__ import annotations

from typing import Any, ClassVar

from amends.core.protocols import Context
from amends.core.spec import spec
from amends.data.bundle import Bundle


@spec
class Pretrained:
    """The subject as it was loaded, untouched."""

    starts: ClassVar[str] = "fresh"
    keeps_weights: ClassVar[bool] = False

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Any:
        """Returns the subject."""
        return subject

    def objective_on(self, data: Bundle) -> tuple[()]:
        """Nothing is trained."""
        return ()
