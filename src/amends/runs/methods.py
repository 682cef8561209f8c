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


@dataclass(frozen=True)
class Method:
    """An objective with the settings that its paper uses."""

    name: str
    summary: str
    arxiv: str
    objective: tuple[Mapping[str, Any], ...]
    lr: Mapping[str, float]
    epochs: int

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
        paper = tree["paper"]["arxiv"]
        found[path.stem] = Method(path.stem, tree["summary"], paper, tuple(tree["objective"]), tree["lr"], tree["epochs"])
    return found


def find_method(name: str) -> Method:
    """The preset, or a UserError with the nearest name."""
    known = packaged_methods()
    if name not in known:
        raise UserError(f"--method {name}: no such method{nearest(name, known)}")
    return known[name]
