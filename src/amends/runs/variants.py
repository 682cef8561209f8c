"""The methods of a bench once more, from another model: dense and sparse, say, side by side in one table.

A variant names the stage that its methods start from, the retrained model they are compared with, and what wraps them:
`sparse: {from: sparse, against: sparse-retrain, inside: {use: prune_first}}` runs every method on a pruned model and holds it
against a model retrained under a mask of the same sparsity (Model Sparsity, arXiv 2304.04934, table 2). A method of a variant
is called METHOD-VARIANT. It has the settings of METHOD unless it is given, or a search finds, its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from typing import Annotated, Any

from pydantic import SkipValidation

from amends.core.errors import UserError, nearest
from amends.core.spec import build, spec
from amends.runs.methods import Method, find_method, packaged_methods


@spec
class Variant:
    """Where the methods start from, what they are compared with, and the stage around them."""

    start: str
    """The stage to start from: `from` in the file."""
    against: str | None = None
    """The stage that reference metrics compare with; None for the recipe's."""
    inside: Annotated[Mapping[str, Any], SkipValidation] = field(default_factory=dict)
    """A stage with a key `then`, without that key, such as {use: prune_first}; empty for none."""

    def around(self, stage: Mapping[str, Any]) -> dict[str, Any]:
        """A method's stage as this variant runs it."""
        outer = {"from": self.start, **({"against": self.against} if self.against else {})}
        inner = {key: value for key, value in stage.items() if key != "from"}
        if not self.inside:
            return {**inner, **outer}
        return {**self.inside, **outer, "then": inner}


def build_variants(tree: Any, stages: Mapping[str, Any], what: str) -> dict[str, Variant]:
    """The variants of a bench's file. Raises UserError with the key that is wrong."""
    if not isinstance(tree or {}, Mapping):
        raise UserError(
            f"{what}: variants: expected a mapping, such as {{sparse: {{from: sparse, inside: {{use: prune_first}}}}}}"
        )
    found: dict[str, Variant] = {}
    for name, values in (tree or {}).items():
        at = f"{what}: variants.{name}"
        if not isinstance(values, Mapping) or "from" not in values:
            raise UserError(f"{at}: expected a mapping with `from`, the stage that the methods start from")
        rest = {("start" if key == "from" else key): value for key, value in values.items()}
        found[str(name)] = variant = build(Variant, rest, at)
        for key, stage in (("from", variant.start), ("against", variant.against)):
            if stage is not None and stage not in stages:
                raise UserError(f"{at}.{key}: no stage is called {stage!r}{nearest(stage, stages)}")
        if variant.inside and (not isinstance(variant.inside, Mapping) or "use" not in variant.inside):
            raise UserError(f"{at}.inside: expected a stage around the method, such as {{use: prune_first}}")
    return found


def methods_of(names: Sequence[str], kind: str, variants: Iterable[str]) -> list[Method]:
    """The presets called so, each followed by its variants; METHOD-VARIANT asks for one of them alone, `all` for everything.

    Raises UserError with the nearest name.
    """
    known = packaged_methods(kind)
    own = {f"{method}-{variant}": (method, variant) for method in known for variant in variants}
    found: dict[str, Method] = {}
    for name in known if list(names) == ["all"] else names:
        if name in own:
            method, variant = own[name]
            found[name] = named(known[method], variant)
            continue
        method = find_method(name, kind)
        for each in (method, *(named(method, variant) for variant in variants)):
            found[each.name] = each
    return list(found.values())


def named(method: Method, variant: str) -> Method:
    """A method as a variant runs it."""
    return replace(method, name=f"{method.name}-{variant}", variant=variant)


def own_values(values: Mapping[str, Mapping[str, Any]], method: Method) -> dict[str, Any]:
    """What a table of settings says of a method: under its preset's name, then under its own."""
    return {**values.get(method.preset, {}), **values.get(method.name, {})}


def names_with(known: Iterable[str], variants: Iterable[str]) -> list[str]:
    """Every name that settings may be given for."""
    return [name for method in known for name in (method, *(f"{method}-{variant}" for variant in variants))]
