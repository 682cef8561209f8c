"""YAML as people mean it: `on:` is a key and not the truth, `1e-5` is a number, a key that stands twice is an error.

Whatever the text, the outcome is plain values or a yaml.YAMLError: PyYAML itself lets other exceptions through for an
impossible date, a number of no digits or a list that contains itself.
"""

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
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes a string that this module's loader would read as a number, such as `1e5`."""


_FLOAT = re.compile(
    r"^[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def load(text: str) -> Any:
    """Plain values of a YAML text; raises yaml.YAMLError.

    >>> load("{on: [a], lr: 1e-5, no: yes, b: true}")
    {'on': ['a'], 'lr': 1e-05, 'no': 'yes', 'b': True}
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else loader.construct_object(node, deep=True)  # deep: refuses what contains itself
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise yaml.YAMLError(f"a value is not what its form or its tag says ({error})") from None


def dump(values: Any) -> str:
    """A YAML text that `load` gives back as it was.

    >>> load(dump({"on": "1e5", "lr": 1e-05})) == {"on": "1e5", "lr": 1e-05}
    True
    """
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
