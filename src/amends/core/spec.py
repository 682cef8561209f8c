"""`@spec`: a frozen, validated dataclass whose fields are hyper-parameters; the algorithm is its own configuration.

The same class is built from Python, `NPO(beta=0.1)`, and from YAML, `{use: npo, beta: 0.1}`. Ranges live in the
type (`Annotated[float, Field(gt=0)]`), the meaning of a field in the docstring below it. An unknown key, a wrong
type or a value out of range is a `UserError` that names the dotted path and the nearest valid name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, dataclass_transform, get_type_hints

from pydantic import ConfigDict, Field, SkipValidation, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from amends.core import catalog
from amends.core.errors import UserError, nearest

T = TypeVar("T")

_CONFIG = ConfigDict(extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def spec(cls: type[T]) -> type[T]:
    """Turns a class with annotated fields into a frozen, keyword-only, validated dataclass."""
    return pydantic_dataclass(frozen=True, kw_only=True, config=_CONFIG)(cls)  # type: ignore[return-value]


@dataclass(frozen=True)
class Part:
    """Marks a field that holds other specs, found in the catalog under `kind` by their `use:`."""

    kind: str
    many: bool = False


@spec
class Weighted:
    """One term of an objective and what it is multiplied with."""

    term: Annotated[Any, SkipValidation]
    """The term itself."""
    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """The coefficient of the term in the sum (the papers' gamma, alpha or lambda)."""


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]


def build(cls: type[T], values: Any, at: str) -> T:
    """Builds `cls` from plain YAML values; `at` is the dotted path that errors name."""
    if not isinstance(values, Mapping):
        raise UserError(f"{at}: expected a mapping of keys, got {values!r}")
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise UserError(f"{at}.{key}: {cls.__name__} has no such key{nearest(str(key), known)}")
    hints = get_type_hints(cls, include_extras=True)
    ready = {key: _part(hints[key], value, f"{at}.{key}") for key, value in values.items()}
    try:
        return cls(**ready)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        wrong = "" if first["type"] == "missing" else f", got {first['input']!r}"
        raise UserError(f"{at}{'.' + where if where else ''}: {_plainly(first['msg'])}{wrong}") from None


def _plainly(said: str) -> str:
    """Pydantic's words without its own and Python's: a file knows lists, and no tuples."""
    return said.removeprefix("Value error, ").replace("valid tuple", "valid list")


def _part(hint: Any, value: Any, at: str) -> Any:
    part = next((m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Part)), None)
    if part is None:
        return value
    if not part.many:
        return build_use(part.kind, value, at)
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{at}: expected a list, got {value!r}")
    return tuple(build_use(part.kind, item, f"{at}.{i}") for i, item in enumerate(value))


def build_use(kind: str, value: Any, at: str) -> Any:
    """Builds `{use: name, ...}` from the catalog; an objective's items may carry a `weight`."""
    if isinstance(value, str):
        value = {"use": value}
    if not isinstance(value, Mapping) or "use" not in value:
        raise UserError(f"{at}: expected a mapping with `use:`, got {value!r}")
    rest = {k: v for k, v in value.items() if k != "use"}
    cls = catalog.find(kind, value["use"], f"{at}.use").load()
    if kind != "terms":
        return build(cls, rest, at)
    weight = rest.pop("weight", 1.0)
    return build(Weighted, {"term": build(cls, rest, at), "weight": weight}, at)


def describe(cls: type) -> list[dict[str, str]]:
    """Each field of a spec with its type, default and meaning, for `amends methods` and the docs."""
    rows = []
    for name, info in cls.__pydantic_fields__.items():  # type: ignore[attr-defined]
        required = info.is_required()
        rows.append(
            {
                "field": name,
                "default": "required" if required else repr(info.get_default(call_default_factory=True)),
                "meaning": " ".join((info.description or "").split()),
            }
        )
    return rows
