"""Finds every spec by name without importing it: a file in the right folder is all the registration there is.

A class decorated with `@spec` in `amends/terms/` is a term, in `amends/metrics/` a metric, and so on. Its name in
YAML is the class name, case and underscores aside (`use: simnpo`). Sources are parsed, not run, so listing methods
costs milliseconds and no torch. Packages add their own through entry points (`amends.terms = "my_pkg.my_term:MyTerm"`);
a single file joins for one command with `--plugin FILE`. YAML can name a class only through this catalog: it never
imports arbitrary code.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from amends.core.errors import UserError, nearest

PLACES: dict[str, tuple[str, ...]] = {
    "data": ("data/*.py",),
    "triggers": ("data/triggers/*.py",),
    "models": (
        "subjects/tiny.py",
        "subjects/load.py",
        "subjects/image_classifier.py",
        "subjects/text_classifier.py",
        "subjects/one_layer.py",
        "subjects/power_net.py",
        "subjects/demodulator.py",
        "subjects/responder.py",
    ),
    "stages": ("train/*.py", "unlearn/*.py", "refine/answer.py"),
    "terms": ("terms/*.py",),
    "edits": ("edits/*.py",),
    "metrics": ("metrics/*.py",),
    "attributions": ("attribution/*.py",),
    "augments": ("augment/*.py",),
    "attacks": ("attack/*.py",),
    "auditors": ("audit/*.py",),
    "checkers": ("constraints/checkers/*.py",),
    "clients": ("chat/clients/*.py", "subjects/chat_local.py"),
    "decomposers": ("refine/decomposers/*.py",),
    "arms": ("refine/arms/*.py",),
    "critics": ("refine/critics/*.py",),
    "hypergradients": ("bilevel/strategies/*.py",),
    "optim": ("engine/optim.py",),
    "guards": ("engine/guards.py",),
}
"""Kind -> the files of the package whose specs are of that kind."""


@dataclass(frozen=True)
class Entry:
    """One class that a recipe can name."""

    kind: str
    name: str
    summary: str
    origin: str
    load: Callable[[], type]


def normal(name: str) -> str:
    """`SimNPO`, `sim_npo` and `simnpo` are one name.

    >>> normal("Sim_NPO")
    'simnpo'
    """
    return str(name).replace("_", "").replace("-", "").lower()


def find(kind: str, name: object, at: str) -> Entry:
    """The entry called `name`, or a UserError at the path `at` that offers the nearest one."""
    entries = {normal(e.name): e for e in list_kind(kind)}
    entry = entries.get(normal(str(name)))
    if entry is None:
        known = [e.name for e in entries.values()]
        raise UserError(f"{at}: no {_singular(kind)} is called {name!r}{nearest(str(name), known)}")
    return entry


def list_kind(kind: str) -> list[Entry]:
    """Every entry of a kind: built in, from entry points, from files added by hand; sorted by name."""
    return sorted([*_built_in(kind), *_from_entry_points(kind), *_added.get(kind, [])], key=lambda e: e.name)


_added: dict[str, list[Entry]] = {}


def add_file(path: Path) -> list[Entry]:
    """Adds the specs of one Python file; it says what they are by a line `kind = "terms"`."""
    if not path.is_file():
        raise UserError(f"--plugin {path}: no such file")
    module_spec = importlib.util.spec_from_file_location(f"amends_plugin_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"--plugin {path}: not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module
    module_spec.loader.exec_module(module)
    kind = getattr(module, "kind", None)
    if kind not in PLACES:
        raise UserError(f'{path}: needs a line such as kind = "terms"{nearest(str(kind), PLACES)}')
    found = []
    for name, summary in _specs_in(path):
        cls = getattr(module, name)
        found.append(Entry(kind, _public(name, path.stem), summary, str(path), lambda cls=cls: cls))
    if not found:
        raise UserError(f"{path}: holds no class decorated with @spec")
    _added.setdefault(kind, []).extend(found)
    return found


def added() -> list[Path]:
    """The files that were added by hand; their content belongs to a run's fingerprint."""
    return sorted({Path(e.origin) for entries in _added.values() for e in entries})


@cache
def _built_in(kind: str) -> tuple[Entry, ...]:
    root = Path(__file__).resolve().parents[1]
    entries = []
    for pattern in PLACES[kind]:
        for file in sorted(root.glob(pattern)):
            module = ".".join(("amends", *file.relative_to(root).with_suffix("").parts))
            for name, summary in _specs_in(file):
                entries.append(Entry(kind, _public(name, file.stem), summary, module, _loader(module, name)))
    return tuple(entries)


@cache  # reads the metadata of every installed package
def _from_entry_points(kind: str) -> tuple[Entry, ...]:
    return tuple(
        Entry(kind, point.name, f"from {point.value}", point.value, point.load)
        for point in importlib.metadata.entry_points(group=f"amends.{kind}")
    )


def _loader(module: str, name: str) -> Callable[[], type]:
    return lambda: getattr(importlib.import_module(module), name)


def _specs_in(file: Path) -> list[tuple[str, str]]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and any(getattr(d, "id", "") == "spec" for d in node.decorator_list):
            doc = ast.get_docstring(node) or ""
            found.append((node.name, doc.split("\n\n")[0].replace("\n", " ")))
    return found


def _public(class_name: str, stem: str) -> str:
    if normal(class_name) == normal(stem):
        return stem
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z]{2}|[A-Z][a-z])", "_", class_name).lower()


def _singular(kind: str) -> str:
    return {"data": "data source", "optim": "optimiser"}.get(kind, kind.removesuffix("s"))
