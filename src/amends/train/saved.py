"""A model that was saved before: its weights are put into the subject, so that one run can measure two models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from amends.core import fingerprint
from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.spec import spec
from amends.data.bundle import Bundle


@spec
class Saved:
    """The weights of a model folder, put into the subject: another model of the same shape beside the original."""

    starts: ClassVar[str] = "fresh"
    keeps_weights: ClassVar[bool] = True
    folder: Annotated[str, Field(min_length=1)]
    """A folder that `save_pretrained` or `amends unlearn` wrote."""
    content: str = ""
    """16 hex digits over its weight files, if they must be these."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Any:
        """Loads the weights in place. Raises UserError where they do not fit the subject."""
        from safetensors.torch import load_file

        state = {name: tensor for file in self._files() for name, tensor in load_file(file).items()}
        own = subject.module.state_dict()
        wrong = sorted(n for n, t in state.items() if n not in own or own[n].shape != t.shape)
        tied = set(getattr(subject.module, "_tied_weights_keys", None) or ())
        lost = sorted(own.keys() - state.keys() - tied)
        if wrong or lost:
            raise UserError(f"{self.folder}: its weights do not fit the model ({[*wrong, *lost][0]}): it is another one")
        subject.module.load_state_dict(state, strict=False)
        return subject

    def objective_on(self, data: Bundle) -> tuple[()]:
        """Nothing is trained; raises UserError when the folder holds no weights, or others than were asked for."""
        files = self._files()
        if self.content and self.content != print_of(files):
            raise UserError(f"{self.folder}: holds other weights than those that were asked for")
        return ()

    def _files(self) -> list[Path]:
        files = sorted(Path(self.folder).expanduser().glob("*.safetensors"))
        if not files:
            raise UserError(f"{self.folder}: holds no weights (*.safetensors)")
        return files


def print_of(files: list[Path]) -> str:
    """16 hex digits over weight files."""
    return fingerprint.of([(f.name, fingerprint.of_file(f)) for f in files])
