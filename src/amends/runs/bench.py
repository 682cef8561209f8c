"""A bench: one recipe with a place in it, into which each method preset is put as one stage.

The file is a recipe (data, subject, original, retrained model, measurements, attacks, claims) with seven keys of its own.
`stage` is what every method's stage begins from; `settings` holds what one method needs besides, at this scale; `rank` says by
which two measurements methods are put in order; `steps` cuts every method short, for smoke runs; `for` names the kind of
model, language where it is left out, and so which presets there are. A method's own stage
is, in this order: the length and learning rate of its preset, `stage`, the preset's parts, its `settings`, `steps`.
`variants` runs every method again from another model, such as a sparse one (`runs/variants.py`).
`search` says how settings are looked for (`runs/search.py`); with it, what is found takes the place of `settings`.
An attack with `if_installed: MODULE` is left out, and named, where the module is missing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from amends.core import catalog, fingerprint
from amends.core.context import around
from amends.core.errors import UserError, nearest
from amends.core.spec import Fraction, build, spec
from amends.runs import overrides as layers
from amends.runs.claims import Claim
from amends.runs.console import Aloud
from amends.runs.methods import KINDS, Method, packaged_methods
from amends.runs.recipe import Recipe, Resolved, attack_name, build_recipe, read
from amends.runs.search import Search, names_of
from amends.runs.variants import Variant, build_variants, methods_of, names_with, own_values

OWN = ("stage", "settings", "rank", "steps", "search", "for", "variants")
"""Keys of a bench that a recipe has not."""
REFERENCES = "references"
"""The run that makes the original and the retrained model, before the methods' own."""
ORIGINAL = "original"
"""The stage that every method starts from, but for a variant's."""


@spec
class Rank:
    """By which two measurements methods are put in order."""

    forgetting: str
    """The measurement of what is gone."""
    keeping: str
    """The measurement of what is still there."""
    at_least: Fraction = 0.8
    """The share of the original's `keeping` that a method must keep to come first."""


@dataclass(frozen=True)
class Bench:
    """The file, with a profile and `--set`s applied."""

    name: str
    profile: str | None
    template: Mapping[str, Any]
    """The recipe without a method."""
    stage: Mapping[str, Any]
    settings: Mapping[str, Mapping[str, Any]]
    rank: Rank
    steps: int | None
    notes: tuple[str, ...]
    """What was left out, and why."""
    kind: str = "language"
    """The kind of model."""
    search: Search | None = None
    """Which settings to try."""
    expect: tuple[Claim, ...] = ()
    """What the methods are expected to do, one beside the other."""
    variants: Mapping[str, Variant] = field(default_factory=dict)
    """Other models that every method is run on as well."""

    @property
    def print(self) -> str:
        """16 hex digits over data, models, measurements and attacks: equal ones may be continued and compared."""
        return fingerprint.of({k: v for k, v in self.template.items() if k not in ("title", "question", "seeds")})

    def references(self, seeds: Sequence[int]) -> Resolved:
        """The recipe that makes everything but a method."""
        return self._resolved(REFERENCES, self.template["stages"], seeds)

    def recipe(self, method: Method, seeds: Sequence[int]) -> Resolved:
        """The recipe of one method. Raises UserError when the method does not fit the bench."""
        return self._resolved(method.name, {**self.template["stages"], method.name: self.stage_of(method)}, seeds)

    def methods(self, names: Sequence[str]) -> list[Method]:
        """The methods called so, in every variant; `all` for every one. Raises UserError with the nearest name."""
        return methods_of(names, self.kind, self.variants)

    @property
    def chosen_by(self) -> Rank:
        """The two measurements by which a search chooses: its own, where it names them, or the table's."""
        if self.search is None:
            return self.rank
        found = {k: getattr(self.search, k) or getattr(self.rank, k) for k in ("forgetting", "keeping")}
        return replace(self.rank, **found)

    def start(self, method: Method) -> str:
        """The stage that a method starts from."""
        return self.variants[method.variant].start if method.variant else ORIGINAL

    def trials(self, method: Method) -> tuple[Resolved, list[dict[str, Any]]]:
        """The recipe whose stages are a method's trials, and the settings of each.

        Raises UserError when there is nothing to search by, or a setting does not fit the method.
        """
        if self.search is None:
            raise UserError(f"{self.name}: search: the bench does not say what to try: give it `search.over`")
        settings = self.search.trials(method)
        own = own_values(self.settings, method)
        each = [replace(self, settings={method.name: {**own, **trial}}).stage_of(method) for trial in settings]
        tree = layers.apply({**self.template, "attack": []}, self.search.changes, "search.changes:")
        stages = {**tree["stages"], **dict(zip(names_of(settings), each, strict=True))}
        tree = {**tree, "name": f"{self.name}-search-{method.name}", "seeds": [self.search.seed], "stages": stages}
        return Resolved(build_recipe(tree), tree, self.profile), settings

    def _resolved(self, name: str, stages: Mapping[str, Any], seeds: Sequence[int]) -> Resolved:
        tree = {**self.template, "name": f"{self.name}-{name}", "seeds": list(seeds), "stages": dict(stages)}
        return Resolved(build_recipe(tree), tree, self.profile)

    def stage_of(self, method: Method) -> dict[str, Any]:
        """A method's stage as plain values."""
        use = method.stage["use"]
        takes = {field.name for field in fields(catalog.find("stages", use, f"methods.{method.name}.use").load())}
        common = {k: v for k, v in self.stage.items() if k in takes}
        optim = {"use": "adamw", "lr": method.rate(self.kind), **common.pop("optim", {})}
        length = {} if {"steps", "epochs"} & set(common) else {"epochs": method.epochs}
        first = {k: v for k, v in {**length, "optim": optim}.items() if k in takes}
        tree = {"use": use, "from": ORIGINAL, **first, **common, **method.stage}
        own = own_values(self.settings, method)
        for key, other in (("epochs", "steps"), ("steps", "epochs")):
            if key in own:
                tree.pop(other, None)
        tree = layers.apply(tree, _spelt(own), f"settings.{method.name}:")
        if self.steps is not None and "steps" in takes:
            tree.pop("epochs", None)
            tree["steps"] = self.steps
        return self.variants[method.variant].around(tree) if method.variant else tree


@dataclass(frozen=True)
class Entry:
    """A method of a bench: its recipe, or why it has none."""

    method: Method
    resolved: Resolved | None
    problem: str = ""


@dataclass(frozen=True)
class Plan:
    """What a bench is going to run, and where."""

    bench: Bench
    seeds: tuple[int, ...]
    references: Resolved
    entries: tuple[Entry, ...]
    root: Path

    def folder(self, name: str) -> Path:
        """A run's folder: `references`, or a method's name."""
        return self.root / name

    @property
    def stages(self) -> Path:
        """Where the runs share the original and the retrained model."""
        return self.root / "stages"


def benches() -> dict[str, Path]:
    """The benches that come with the library, by name."""
    root = Path(str(resources.files("amends"))) / "recipes" / "bench"
    return {p.stem: p for p in sorted(root.glob("*.yaml"))}


def load(what: str, profile: str | None = None, sets: Iterable[str] = (), model: str | None = None) -> Bench:
    """Finds a bench by name or file and applies a profile, a model and `--set`s."""
    tree = read(_locate(what))
    profiles = tree.pop("profiles", None) or {}
    if profile is not None:
        if profile not in profiles:
            raise UserError(f"{what}: no profile is called '{profile}'{nearest(profile, map(str, profiles))}")
        tree = layers.apply(tree, profiles[profile], f"profile {profile}:")
    if model is not None:
        local = Path(model).expanduser()
        tree["subject"] = {"use": "hf", "name": str(local.resolve()) if local.exists() else model}
    tree = layers.apply(tree, dict(map(layers.parse, sets)), "--set")
    return _bench(what, profile, tree)


def plan(bench: Bench, methods: Sequence[str], num_seeds: int, runs: Path) -> Plan:
    """Resolves every method, so that what cannot run is known, and named, before anything does.

    Args:
        methods: names of presets, or `all`.
        num_seeds: seeds 0, 1, ... of every method.
    """
    seeds = tuple(range(num_seeds))
    references = bench.references(seeds)
    with around(Aloud("data")):
        data = references.recipe.data.load(seeds[0])
    references.recipe.check_data(data)
    entries = tuple(_entry(bench, method, seeds, data) for method in bench.methods(methods))
    return Plan(bench, seeds, references, entries, folder_of_bench(bench, runs))


def folder_of_bench(bench: Bench, runs: Path) -> Path:
    """Where everything of a bench lies."""
    return runs / f"bench-{bench.name}-{bench.print[:6]}"


def _entry(bench: Bench, method: Method, seeds: Sequence[int], data: Any) -> Entry:
    try:
        resolved = bench.recipe(method, seeds)
        resolved.recipe.check_data(data)
    except UserError as error:
        return Entry(method, None, str(error))
    except ModuleNotFoundError as error:
        return Entry(method, None, f"{error.name} is not installed")
    return Entry(method, resolved)


def _locate(what: str) -> Path:
    path = Path(what)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"{what}: no such bench file")
        return path
    known = benches()
    if what not in known:
        raise UserError(f"no bench is called '{what}'{nearest(what, known)}; a file needs the ending .yaml")
    return known[what]


def _bench(what: str, profile: str | None, tree: dict[str, Any]) -> Bench:
    own = {key: tree.pop(key, None) for key in OWN}
    for key in ("stage", "rank"):
        if not isinstance(own[key], Mapping):
            raise UserError(f"{what}: {key}: a bench needs it, as a mapping of keys")
    settings, kind = own["settings"] or {}, own["for"] or "language"
    if kind not in KINDS:
        raise UserError(f"{what}: for: expected one of {', '.join(KINDS)}, got {kind!r}")
    for name, values in settings.items():
        if not isinstance(values, Mapping):
            raise UserError(f"{what}: settings.{name}: expected a mapping of keys, such as {{lr: 1e-4, epochs: 10}}")
    variants = build_variants(own["variants"], tree.get("stages") or {}, what)
    known = names_with(packaged_methods(kind), variants)
    unknown = next((name for name in settings if name not in known), None)
    if unknown is not None:
        raise UserError(f"{what}: settings.{unknown}: no such method{nearest(unknown, known)}")
    if own["steps"] is not None and (not isinstance(own["steps"], int) or own["steps"] < 1):
        raise UserError(f"{what}: steps: expected a number of steps, got {own['steps']!r}")
    attacks, notes = _installed(tree.get("attack") or ())
    name, rank = str(tree.pop("name")), build(Rank, own["rank"], "rank")
    search = None if own["search"] is None else build(Search, own["search"], "search")
    if search is not None:
        search.check("search", known)
    claims = tuple(build(Claim, c, f"expect.{i}") for i, c in enumerate(tree.pop("expect", None) or ()))
    template = {**tree, "attack": attacks}
    bench = Bench(name, profile, template, own["stage"], settings, rank, own["steps"], notes, kind, search, claims, variants)
    references = bench.references((0,)).recipe
    _check_rank(references, bench.rank, "rank")
    _check_rank(references, bench.chosen_by, "search")
    _check_claims(bench, references)
    return bench


def _check_claims(bench: Bench, references: Recipe) -> None:
    stages = [*(s.name for s in references.stages), *names_with(packaged_methods(bench.kind), bench.variants)]
    metrics = [m.name for m in references.measure]
    for i, claim in enumerate(bench.expect):
        claim.check(f"expect.{i}", stages, metrics, [attack_name(a) for a in references.attack])


def _installed(attacks: Iterable[Any]) -> tuple[list[Any], tuple[str, ...]]:
    kept, notes = [], []
    for attack in attacks:
        needed = attack.get("if_installed") if isinstance(attack, Mapping) else None
        if needed and importlib.util.find_spec(str(needed)) is None:
            notes.append(f"The attack {attack.get('use')} was left out: {needed} is not installed.")
            continue
        kept.append({k: v for k, v in attack.items() if k != "if_installed"} if needed else attack)
    return kept, tuple(notes)


def _check_rank(recipe: Recipe, rank: Rank, at: str) -> None:
    """Both measurements must be taken, and point one way; what is kept is a share of the original's."""
    known = {m.name: m for m in recipe.measure}
    for key, name in (("forgetting", rank.forgetting), ("keeping", rank.keeping)):
        if name not in known:
            raise UserError(f"{at}.{key}: nothing measured is called {name!r}{nearest(name, known)}")
        if known[name].better not in ("higher", "lower"):
            raise UserError(f"{at}.{key}: {name} has no direction to put methods in order by")
    if known[rank.keeping].better != "higher":
        raise UserError(f"{at}.keeping: of {rank.keeping} less is better, so it is nothing to keep")
    if not any(stage.kind == "original" for stage in recipe.stages):
        raise UserError("stages: a bench needs a stage called 'original', which every method starts from")


def _spelt(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`lr` is short for the optimiser's."""
    return {("optim.lr" if key == "lr" else str(key)): value for key, value in settings.items()}
