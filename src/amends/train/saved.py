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
    weights: str = ""
    """16 hex digits over its weight files, if they must be these."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Any:
        """Loads the weights in place. Raises UserError where they do not fit the subject."""
        from safetensors.torch import load_file

        self.check_model(subject)
        if getattr(subject, "by_library", False):
            subject.load(Path(self.folder).expanduser())
            return subject
        state = {name: tensor for file in self._files() for name, tensor in load_file(file).items()}
        subject.module.load_state_dict(state, strict=False)
        return subject

    def check_model(self, subject: Any) -> None:
        """Raises UserError where the weights do not fit the subject; reads their names and shapes alone."""
        from safetensors import safe_open

        if getattr(subject, "by_library", False):
            return  # saved under its library's names, which checks them when it loads
        shapes: dict[str, tuple[int, ...]] = {}
        for file in self._files():
            with safe_open(file, framework="pt") as saved:
                shapes |= {name: tuple(saved.get_slice(name).get_shape()) for name in saved.keys()}  # noqa: SIM118
        own = subject.module.state_dict()
        wrong = sorted(n for n, shape in shapes.items() if n not in own or tuple(own[n].shape) != shape)
        tied = set(getattr(subject.module, "_tied_weights_keys", None) or ())
        lost = sorted(own.keys() - shapes.keys() - tied)
        if wrong or lost:
            raise UserError(f"{self.folder}: its weights do not fit the model ({[*wrong, *lost][0]}): it is another one")

    def content(self) -> str:
        """What changes when the files of `folder` do."""
        return fingerprint.of_files(sorted(Path(self.folder).expanduser().glob("*.safetensors")))

    def objective_on(self, data: Bundle) -> tuple[()]:
        """Nothing is trained; raises UserError when the folder holds no weights, or others than were asked for."""
        files = self._files()
        if self.weights and self.weights != fingerprint.of_files(files):
            raise UserError(f"{self.folder}: holds other weights than those that were asked for")
        return ()

    def _files(self) -> list[Path]:
        files = sorted(Path(self.folder).expanduser().glob("*.safetensors"))
        if not files:
            raise UserError(f"{self.folder}: holds no weights (*.safetensors)")
        return files
