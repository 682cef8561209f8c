"""Training a few neighbouring blocks only, named by their depth: what RMU does with three MLP down-projections.

RMU (arXiv 2403.03218) trains the down-projection of the block whose output it steers and of the two before it. Named by
index or by a share of the depth, one recipe fits models of any depth; `freeze` does the same by names.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from amends.core.errors import UserError
from amends.core.protocols import Params, Start, Step
from amends.core.spec import Fraction, Natural, spec
from amends.subjects.blocks import blocks, place


@spec
class OnlyBlocks:
    """Trains only the weights of one block and of those just before it; everything else stays bit for bit."""

    layer: int | Fraction = 0.25
    """The last block that is trained: its index, or a share of the depth; that of the `rmu` term."""
    before: Natural = 2
    """How many blocks before it are trained, too, as far as there are any."""
    only: tuple[str, ...] = ("*",)
    """Patterns of the names of weights inside those blocks, for instance `*down_proj*`."""

    def check(self, subject: Any | None, adapter: bool) -> None:
        """Does to a hollow model what `init` does."""
        if subject is not None:
            self._freeze(dict(subject.module.named_parameters()), subject)

    def init(self, params: Params, start: Start) -> None:
        """Switches gradients off; raises UserError when no weight of those blocks matches."""
        self._freeze(params, start.subject)

    def _freeze(self, params: Params, subject: Any) -> None:
        found = blocks(subject.module)
        last = place(self.layer, len(found))
        inside = {id(p) for b in found[max(0, last - self.before) : last + 1] for p in b.parameters()}
        chosen = {n for n, p in params.items() if id(p) in inside and any(fnmatchcase(n, w) for w in self.only)}
        if not chosen:
            names = ", ".join([n for n, p in params.items() if id(p) in inside][:12])
            raise UserError(f"only_blocks: no weight of the blocks up to {last} matches {list(self.only)}: they have {names}")
        for name, p in params.items():
            if name not in chosen:
                p.requires_grad_(False)

    def grads(self, params: Params, state: None, step: Step) -> None:
        """Leaves the gradients alone."""

    def weights(self, params: Params, state: None, step: Step) -> None:
        """Leaves the weights alone."""
