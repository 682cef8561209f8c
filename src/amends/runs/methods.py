"""Method presets: what `amends unlearn --method` and a bench name. Data, one small YAML file each.

`for:` says which kinds of model a preset is meant for, language models where it is left out. A method whose mathematics is
the same for several kinds is one file with one list of terms; only its learning rate may differ, under the kind's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from amends.core import yamls
from amends.core.errors import UserError, nearest
from amends.core.spec import build_use

KINDS = ("language", "classifier")
"""Kinds of model that a preset or a bench is for."""
PARTS = ("objective", "edits", "augment")
"""What a preset of the stage `gradient` may hold; any other stage stands whole under `stage`."""


@dataclass(frozen=True)
class Method:
    """A stage with the settings that its paper uses."""

    name: str
    summary: str
    arxiv: str
    stage: Mapping[str, Any]
    """The stage of a recipe, without where it starts, its length, batch and optimiser."""
    lr: Mapping[str, float]
    epochs: int
    recipe: str | None = None
    """The packaged recipe that shows it, where it is not the first one with the same terms."""
    kinds: tuple[str, ...] = ("language",)
    """The kinds of model it is for."""
    variant: str = ""
    """The variant of a bench that runs it; empty for the method as it is."""

    @property
    def preset(self) -> str:
        """The name of its file, whatever variant of a bench runs it."""
        return self.name.removesuffix(f"-{self.variant}") if self.variant else self.name

    @property
    def objective(self) -> tuple[Mapping[str, Any], ...]:
        """The terms that the stage adds up; () for a stage that has no such sum."""
        return tuple(self.stage.get("objective", ()))

    def rate(self, kind: str) -> float:
        """The learning rate for a kind of model, all of whose weights are trained."""
        return self.lr.get(kind, self.lr["full"])

    @property
    def needs(self) -> list[str]:
        """What the objective asks for beyond a forward and a backward pass."""
        terms = [build_use("terms", t, f"methods.{self.name}") for t in self.objective]
        return sorted({str(need) for w in terms for need in w.term.needs})


def packaged_methods(kind: str | None = "language") -> dict[str, Method]:
    """The presets for a kind of model, by name; None for all."""
    root = Path(str(resources.files("amends"))) / "recipes" / "methods"
    found = {}
    for path in sorted(root.glob("*.yaml")):
        tree = yamls.load(path.read_text(encoding="utf-8"))
        stage = tree.get("stage") or {"use": "gradient", **{part: tree[part] for part in PARTS if part in tree}}
        paper, kinds = tree["paper"]["arxiv"], tuple(tree.get("for", ("language",)))
        if kind is None or kind in kinds:
            found[path.stem] = Method(
                path.stem, tree["summary"], paper, stage, tree["lr"], tree["epochs"], tree.get("recipe"), kinds
            )
    return found


def find_method(name: str, kind: str = "language", at: str = "--method") -> Method:
    """The preset, or a UserError with the nearest name; or with the kinds of model that it is for instead."""
    known = packaged_methods(kind)
    if name not in known:
        other = packaged_methods(None).get(name)
        if other is not None:
            raise UserError(f"{at} {name}: it is for {' and '.join(other.kinds)} models, and this is a {kind} model")
        raise UserError(f"{at} {name}: no such method{nearest(name, known)}")
    return known[name]
