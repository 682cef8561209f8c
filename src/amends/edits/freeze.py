"""Training some weights only, by name."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from amends.core.errors import UserError, nearest
from amends.core.protocols import Params, Start, Step
from amends.core.spec import spec


@spec
class Freeze:
    """Trains only the weights whose name matches; backward stops at the lowest of them, which saves its time."""

    only: tuple[str, ...] = ("*",)
    """Patterns as a shell has them, for instance `*.mlp.down_proj.weight`; what matches none is frozen."""
    but: tuple[str, ...] = ()
    """Patterns that are frozen even so, for instance `*embed*`."""

    def check(self, subject: Any | None, adapter: bool) -> None:
        """Does to a hollow model what `init` does."""
        if subject is not None:
            self._freeze(dict(subject.module.named_parameters()))

    def init(self, params: Params, start: Start) -> None:
        """Switches gradients off; raises UserError when a pattern matches no weight."""
        self._freeze(params)

    def _freeze(self, params: Params) -> None:
        for pattern in (*self.only, *self.but):
            if not any(fnmatchcase(name, pattern) for name in params):
                raise UserError(f"freeze: no weight is called {pattern!r}{nearest(pattern, params)[:200]}")
        for name, p in params.items():
            chosen = any(fnmatchcase(name, o) for o in self.only) and not any(fnmatchcase(name, b) for b in self.but)
            if not chosen:
                p.requires_grad_(False)

    def grads(self, params: Params, state: None, step: Step) -> None:
        """Leaves the gradients alone."""

    def weights(self, params: Params, state: None, step: Step) -> None:
        """Leaves the weights alone."""
