"""Stable hashes of specs, files, weights and code, for `DONE` marks and manifests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_LAYERS_THAT_CHANGE_RESULTS = (
    "core", "data", "subjects", "engine", "terms", "edits", "attribution", "augment", "metrics", "attack", "audit", "train",
    "unlearn", "chat", "constraints", "refine",
)  # fmt: skip


def plain(value: Any) -> Any:
    """A spec, or anything built from specs, as plain JSON values; the class name goes in as `use`."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"use": type(value).__name__, **{f.name: plain(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [plain(v) for v in value]
        return sorted(items, key=str) if isinstance(value, (set, frozenset)) else items
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return str(value)


def of(*values: Any) -> str:
    """16 hex digits that change when any of the values does.

    >>> of({"a": 1, "b": 2}) == of({"b": 2, "a": 1})
    True
    """
    text = json.dumps(plain(list(values)), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def contents(value: Any) -> list[str]:
    """What the parts of a spec that read files say of them: `content()` of each, and of the parts inside it."""
    found: list[str] = []
    if is_dataclass(value) and not isinstance(value, type):
        said = getattr(value, "content", None)
        found = [said()] if callable(said) else []
        value = [getattr(value, f.name) for f in fields(value)]
    elif isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        found += [text for item in value for text in contents(item)]
    return found


def of_file(path: Path) -> str:
    """The sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_files(files: Iterable[Path]) -> str:
    """16 hex digits over names and contents of files."""
    return of([(f.name, of_file(f)) for f in files])


def of_weights(named: Iterable[tuple[str, Tensor]]) -> str:
    """16 hex digits over names, shapes and bytes of tensors: equal weights give equal digits."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in named:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


@cache
def of_code() -> str:
    """16 hex digits over the sources of every layer that can change a result (reports and commands cannot)."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for layer in _LAYERS_THAT_CHANGE_RESULTS:
        for file in sorted((root / layer).rglob("*.py")):
            digest.update(str(file.relative_to(root)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
