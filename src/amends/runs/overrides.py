"""Two layers only: a recipe's file, then overrides. A profile is a named list of overrides, and so is `--set`.

An override is `stages.npo.objective.0.beta=0.05`: dots go down, a number indexes a list, the value is YAML. The path
must exist up to its last key, so that a typo is an error and not a silent new key; `stages.npo=` with nothing deletes
a key or an item of a list.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import yaml

from amends.core import yamls
from amends.core.errors import UserError, nearest


def parse(text: str) -> tuple[str, Any]:
    """`a.b=1` -> ("a.b", 1)."""
    path, sign, value = text.partition("=")
    if not sign or not path.strip():
        raise UserError(f"--set {text}: expected key=value, for instance stages.npo.steps=20")
    try:
        return path.strip(), yamls.load(value)
    except yaml.YAMLError:
        raise UserError(f"--set {text}: {value!r} is not a YAML value") from None


def apply(tree: Mapping[str, Any], overrides: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A deep copy of `tree` with each dotted path set; `source` (a profile's name, `--set`) goes into errors.

    >>> apply({"a": {"b": [1, 2]}}, {"a.b.1": 5}, "--set")
    {'a': {'b': [1, 5]}}
    """
    result: dict[str, Any] = copy.deepcopy(dict(tree))
    for path, value in overrides.items():
        _set(result, str(path).split("."), copy.deepcopy(value), f"{source} {path}")
    return result


def _set(node: Any, keys: list[str], value: Any, where: str) -> None:
    for depth, key in enumerate(keys[:-1]):
        node = _down(node, key, where, ".".join(keys[:depth]))
    last = keys[-1]
    if value is None:
        _down(node, last, where, ".".join(keys[:-1]))
    at = last if isinstance(node, dict) else _index(node, last, where)
    if value is None:
        del node[at]
    else:
        node[at] = value


def _down(node: Any, key: str, where: str, parent: str) -> Any:
    if isinstance(node, dict):
        if key not in node:
            raise UserError(f"{where}: {parent or 'the recipe'} has no key '{key}'{nearest(key, map(str, node))}")
        return node[key]
    return node[_index(node, key, where)]


def _index(node: Any, key: str, where: str) -> int:
    if not isinstance(node, list):
        raise UserError(f"{where}: '{key}' goes below a plain value")
    if not key.isdecimal() or int(key) >= len(node):
        raise UserError(f"{where}: '{key}' is not an index of a list of {len(node)}, which starts at 0")
    return int(key)
