"""Method presets: what `amends unlearn --method` names. Data, one small YAML file each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from amends.core import yamls
from amends.core.errors import UserError, nearest
from amends.core.spec import build_use

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

    @property
    def objective(self) -> tuple[Mapping[str, Any], ...]:
        """The terms that the stage adds up; () for a stage that has no such sum."""
        return tuple(self.stage.get("objective", ()))

    @property
    def needs(self) -> list[str]:
        """What the objective asks for beyond a forward and a backward pass."""
        terms = [build_use("terms", t, f"methods.{self.name}") for t in self.objective]
        return sorted({str(need) for w in terms for need in w.term.needs})


def packaged_methods() -> dict[str, Method]:
    """Every preset, by name."""
    root = Path(str(resources.files("amends"))) / "recipes" / "methods"
    found = {}
    for path in sorted(root.glob("*.yaml")):
        tree = yamls.load(path.read_text(encoding="utf-8"))
        stage = tree.get("stage") or {"use": "gradient", **{part: tree[part] for part in PARTS if part in tree}}
        paper = tree["paper"]["arxiv"]
        found[path.stem] = Method(path.stem, tree["summary"], paper, stage, tree["lr"], tree["epochs"], tree.get("recipe"))
    return found


def find_method(name: str) -> Method:
    """The preset, or a UserError with the nearest name."""
    known = packaged_methods()
    if name not in known:
        raise UserError(f"--method {name}: no such method{nearest(name, known)}")
    return known[name]
