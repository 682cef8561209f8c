"""The logit lens: the model's own final norm and head, applied to the middle of the network (nostalgebraist, 2020).

Where an answer that the model no longer gives can be read off an inner layer, it was suppressed behind that layer. No
training at all, so what is read was there; what is not read may still be there in another form (see `probe`).
"""

from __future__ import annotations

from typing import Any, ClassVar

from amends.attack.depth import cut, depth_label, depth_name
from amends.attack.probe import Depth, need_text
from amends.core.protocols import Context
from amends.core.spec import spec
from amends.core.types import Role
from amends.data.bundle import Bundle


@spec
class LogitLens:
    """Reads the answers off an inner layer with the model's own norm and head, without training."""

    keeps_weights: ClassVar[bool] = False
    at: Depth = 0.75
    """The last block that is kept: its index from 0, or a share of the depth such as 0.75."""
    role: Role = "forget"
    """Whose answers are read."""

    @property
    def name(self) -> str:
        """`logit_lens-75` for three quarters of the depth, `logit_lens-L3` for block 3."""
        return f"logit_lens-{depth_name(self.at)}"

    @property
    def label(self) -> str:
        """`the logit lens at 75 % of the depth`."""
        return f"the logit lens at {depth_label(self.at)}"

    def __call__(self, subject: Any, data: Bundle, run: Context) -> None:
        """Cuts the model in place."""
        cut(subject, self.at)

    def objective_on(self, data: Bundle) -> tuple[()]:
        """Raises UserError for a missing role, or for rows that are no text."""
        need_text(data, self.role)
        return ()
