"""Prune first, then unlearn (Model Sparsity Can Simplify Machine Unlearning, arXiv 2304.04934): any method on a sparse model.

The gap between an approximate unlearner and retraining shrinks with the number of weights that may move, so the model is
pruned and the method that follows leaves pruned weights at 0, under momentum and weight decay as well. The sparse model is the
start model itself (a stage `pruned`; its zeros are the mask), is made here by `prune`, or comes about by a mask from a `file`.

To be compared with a retrained model of the SAME sparsity: `fresh: true` draws the weights anew under the mask, and with
`then: {use: train, on: [retain], ...}` this stage is that reference.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import SkipValidation

from amends.core import fingerprint
from amends.core.context import Inside
from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.spec import Part, spec
from amends.data.bundle import Bundle
from amends.edits import sparse
from amends.edits.mask_file import Mask
from amends.edits.sparse import Which
from amends.edits.weight_mask import Held
from amends.engine.fit import Outcome
from amends.engine.parallel import Parallel, is_main_process
from amends.subjects.fresh import redraw


@spec
class PruneFirst:
    """Any stage on a pruned model, whose zeros stay zeros (prune first, then unlearn)."""

    starts: ClassVar[str] = "from"
    keeps_weights: ClassVar[bool] = True
    then: Annotated[Any, Part("stages"), SkipValidation]
    """The stage that works on the sparse model."""
    prune: Annotated[Any, Part("stages"), SkipValidation] = None
    """A stage that prunes the start model first, such as `pruned`; null where it is sparse already."""
    file: str | None = None
    """The `mask.safetensors` of a stage, by which the start model is pruned."""
    fresh: bool = False
    """Draw the weights that are left anew: for the retrained model at the same sparsity."""
    which: Which = "convolutions"
    """Where the start model's zeros are looked for."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Any:
        """What `then` returns. Raises UserError for a dense start and for the mask of another model."""
        self.objective_on(data)
        mask = self._mask(subject, data, run)
        if self.fresh:
            device = next(subject.module.parameters()).device
            redraw(subject.call.cpu(), run.seed, "fresh")
            subject.call.to(device)
        sparse.put_on(subject.module, mask)
        share = sparse.told(subject.module, self.which, run)
        if run.folder is not None and is_main_process():
            mask.save(run.folder, "pruned")
        outcome = self._holding(mask)(subject, data, run)
        if not sparse.holds(subject.module, mask):
            raise RuntimeError(f"{type(self.then).__name__} moved weights that are pruned")
        return outcome._replace(sparsity=share) if isinstance(outcome, Outcome) else outcome

    def objective_on(self, data: Bundle) -> tuple[Any, ...]:
        """What `then` says of the data; raises UserError for settings that exclude each other."""
        if self.prune is not None and self.file is not None:
            raise UserError("prune_first: give `prune` or `file`, not both")
        self._holding(Mask({}, {}, {}))
        if self.prune is not None:
            self.prune.objective_on(data)
        return self.then.objective_on(data)

    def content(self) -> str:
        """What changes when the mask file does."""
        path = Path(self.file or "").expanduser()
        return fingerprint.of_file(path) if path.is_file() else ""

    def check_model(self, subject: Any) -> None:
        """Raises UserError for a file that is no mask, or another model's."""
        self._given(subject)

    def _given(self, subject: Any) -> Mask | None:
        if self.file is None:
            return None
        path = Path(self.file).expanduser()
        mask, _ = Mask.load(path)
        mask.check(dict(subject.module.named_parameters()), path)
        return mask

    def _mask(self, subject: Any, data: Bundle, run: Context) -> Mask:
        given = self._given(subject)
        if given is not None:
            return given
        if self.prune is not None:
            self.prune(subject, data, Inside(run, "prune"))
        subject.call.to(Parallel().device)
        return sparse.of_zeros(subject.module, self.which)

    def _holding(self, mask: Mask) -> Any:
        """The stage with the mask: as its first edit, or as the mask of a method of one step."""
        takes = {field.name for field in fields(self.then)}
        if "edits" in takes:
            return replace(self.then, edits=(Held(mask), *self.then.edits))
        if "mask" not in takes:
            raise UserError(f"prune_first.then: {type(self.then).__name__} cannot be told which weights to leave at 0")
        if self.then.mask is not None:
            raise UserError(f"prune_first.then: {type(self.then).__name__} has a mask of its own, and the pruned one is needed")
        return replace(self.then, mask=Held(mask))
