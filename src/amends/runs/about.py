"""What a listing says of a method besides its paper: what a step costs against fine-tuning, and which recipe shows it.

The cost follows from what the terms need (`amends.core.protocols.Need`) and from how the engine meets it: one forward
and one backward for each role, twice the rows where another answer is needed besides their own, numbers of the start
model computed once where one a row is enough, and a second model where its whole prediction or its activations are.
Fine-tuning is one forward and one backward; a backward is counted as two forwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from amends.core.catalog import normal
from amends.core.protocols import Need
from amends.core.spec import Weighted, build_use
from amends.core.types import Role
from amends.runs.bench import benches
from amends.runs.methods import Method
from amends.runs.recipe import packaged, read

SHAPES = frozenset(map(normal, ("weight_mask", "soft_mask", "prox_l1")))
"""Edits that make another method out of the same terms."""


@dataclass(frozen=True)
class Cost:
    """One step's passes over a batch of one role, and what is paid once."""

    forwards: int
    """With and without gradient, of the model in training and of the start model."""
    backwards: int
    partial: int
    """How many of the forwards stop at an inner block."""
    copies: int
    """Models in memory besides the one in training; none with LoRA."""
    once: tuple[str, ...]
    """Before the first step."""

    @property
    def factor(self) -> float:
        """Against a fine-tuning step on as many rows of one role; partial forwards counted as whole."""
        return (self.forwards + 2 * self.backwards) / 3

    @property
    def words(self) -> str:
        """The cost in a sentence."""
        parts = [f"{_count(self.forwards, 'forward')} + {_count(self.backwards, 'backward')} a step"]
        parts[0] += f" ({'up to ' if self.partial else ''}{self.factor:.2g} x fine-tuning)"
        if self.partial:
            many = "all" if self.partial == self.forwards else str(self.partial)
            parts.append(f"{many} of the forwards stop at a block")
        if self.copies:
            parts.append("a frozen copy of the model (none with LoRA)")
        return "; ".join([*parts, *(f"once: {what}" for what in self.once)])


def cost_of(method: Method) -> Cost | None:
    """A method's cost; None for a stage that is no sum of terms and has a loop of its own."""
    if not method.objective:
        return None
    terms = [build_use("terms", t, f"methods.{method.name}.{i}").term for i, t in enumerate(method.objective)]
    return cost(terms, _before(method.stage))


def cost(terms: Iterable[Any], before: Iterable[str] = ()) -> Cost:
    """The cost of an objective's terms; `before` is what else is done before the first step."""
    terms = list(terms)
    roles: dict[Role, list[Any]] = {}
    for term in terms:
        roles.setdefault(term.role, []).append(term)
    second = bool({Need.REFERENCE_DIST, Need.REFERENCE_HIDDEN} & _needs(terms))
    forwards = backwards = partial = 0
    once: list[str] = []
    for role, own in roles.items():
        needs = _needs(own)
        halved = all(Need.ALTERNATIVE_ONLY in _needs([t]) for t in own)
        rows = 2 if Need.ALTERNATIVE in needs and not halved else 1
        whole = rows if any(Need.HIDDEN not in t.needs for t in own) else 0
        inner = int(Need.HIDDEN in needs)
        backwards += whole + inner
        compared = rows if second and {Need.REFERENCE, Need.REFERENCE_DIST} & needs else 0
        start_inner = int(Need.REFERENCE_HIDDEN in needs)
        forwards += whole + inner + compared + start_inner
        partial += inner + start_inner
        if Need.REFERENCE in needs and not second:
            once.append(f"{_count(rows, 'pass', 'passes')} over the {role} rows")
    return Cost(forwards, backwards, partial, int(second), (*once, *before))


def recipe_of(method: Method) -> str:
    """The packaged recipe that shows a method: the preset's own choice, else one with a stage of the same terms.

    Of several the first that names the method's paper; where there is none a bench, which holds every method of its kind.
    """
    if method.recipe:
        return method.recipe
    mine = _signature(method.stage)
    fitting = {name: tree for name, (kind, tree) in _recipes().items() if kind in method.kinds}
    having = {name: tree for name, tree in fitting.items() if any(_signature(s) == mine for s in _stages(tree))}
    of_paper = [name for name, tree in having.items() if method.arxiv in str(tree.get("paper"))]
    boards = [name for name, path in benches().items() if read(path).get("for", "language") in method.kinds]
    return next(iter([*of_paper, *having, *(f"bench {name}" for name in boards)]), "")


@cache
def _recipes() -> dict[str, tuple[str, Mapping[str, Any]]]:
    """The kind of model, by the recipe's folder, and the tree."""
    kinds = {"vision": "classifier", "text": "classifier"}
    return {name: (kinds.get(path.parent.name, path.parent.name), read(path)) for name, path in packaged().items()}


def _stages(tree: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [s for s in (tree.get("stages") or {}).values() if isinstance(s, Mapping)]


def _signature(stage: Mapping[str, Any]) -> tuple[Any, ...]:
    """The stage's class and the names of its terms: settings may differ, what is done may not."""
    use = normal(stage.get("use", ""))
    parts = tuple(tuple(_name(p) for p in stage.get(key) or ()) for key in ("objective", "augment"))
    masks = tuple(_name(e) for e in stage.get("edits") or () if _name(e) in SHAPES)
    return (use, *parts, masks)


def _name(part: Any) -> str:
    return normal(part.get("use", "") if isinstance(part, Mapping) else part)


def _before(stage: Mapping[str, Any]) -> list[str]:
    """Augments, and edits that look at the model first, which is what an edit with a part of its own does."""
    made = [f"augment {_name(a)}" for a in stage.get("augment") or ()]
    looks = [e for e in stage.get("edits") or () if isinstance(e, Mapping)]
    nested = [(e, v) for e in looks for v in e.values() if isinstance(v, Mapping) and "use" in v]
    return made + [f"{_name(e)} by {_name(v)}" for e, v in nested]


def _needs(terms: Iterable[Any]) -> frozenset[Need]:
    return frozenset(need for term in terms for need in (term.term if isinstance(term, Weighted) else term).needs)


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"
