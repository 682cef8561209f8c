"""YAML as people mean it: `on:` is a key and not the truth, `1e-5` is a number, a key that stands twice is an error."""

from __future__ import annotations

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """YAML 1.2's booleans and floats in PyYAML's safe loader; its resolvers are its own copy."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own attribute)
        first: [(tag, expression) for tag, expression in found if not tag.endswith((":bool", ":float"))]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuses a key that stands twice in one mapping."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def load(text: str) -> Any:
    """Plain values of a YAML text; raises yaml.YAMLError.

    >>> load("{on: [a], lr: 1e-5, no: yes, b: true}")
    {'on': ['a'], 'lr': 1e-05, 'no': 'yes', 'b': True}
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506 (derived from SafeLoader)
