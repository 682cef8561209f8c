"""A recipe: one YAML file that says which data, which model, which stages, which measurements and what is expected.

Every error is found here, before any weight is loaded, and names the dotted path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, SkipValidation

from amends.core import fingerprint, yamls
from amends.core.errors import UserError, nearest
from amends.core.spec import Count, Natural, Part, build, build_use, spec
from amends.core.types import Role
from amends.data.bundle import Bundle
from amends.runs import overrides as layers
from amends.runs.audit_entry import AuditEntry, build_audit, check_source, stand_in
from amends.runs.claims import Claim
from amends.runs.drawing import Drawing

Kind = Literal["original", "retrain", "unlearned"]


@spec
class Paper:
    """Where a recipe comes from."""

    title: str
    """Title."""
    arxiv: str | None = None
    """arXiv number."""
    where: str | None = None
    """Table, figure or split."""


@spec
class Reading:
    """How models are read for the measurements."""

    max_new_tokens: Count = 48
    """Longest greedy answer."""
    batch_size: Count = 48
    """Prompts generated for at once."""
    show: tuple[Role, ...] = ("forget", "retain", "neighbour", "general", "world")
    """Roles whose answers the report shows, where the data has them."""


@dataclass(frozen=True)
class StageEntry:
    """One stage: what makes the model, from which other stage, and what kind of model it is."""

    name: str
    maker: Any
    use: str
    start: str | None
    kind: Kind
    once: bool
    against: str | None = None
    """The stage that this one's reference metrics compare with; None for the recipe's."""


@spec
class Recipe:
    """The resolved recipe: every part is built and valid."""

    name: str
    """What runs are called."""
    title: str = ""
    """One line for listings."""
    question: str = ""
    """What the run asks; the report opens with it."""
    paper: Paper | None = None
    """Whose method it is."""
    seeds: Annotated[tuple[Natural, ...], Field(min_length=1)] = (0,)
    """Each seed is a replication of every stage that is not `once`."""
    data: Annotated[Any, Part("data"), SkipValidation]
    """Where rows come from."""
    subject: Annotated[Any, Part("models"), SkipValidation]
    """Which model."""
    stages: Annotated[tuple[StageEntry, ...], SkipValidation]
    """What is made, in order."""
    audit: Annotated[AuditEntry | None, SkipValidation] = None
    """Whose flags say what is forgotten, from which stage on."""
    measure: Annotated[tuple[Any, ...], Part("metrics", many=True), SkipValidation] = ()
    """What is measured of every stage."""
    against: str | None = None
    """The stage that reference metrics compare with; `retrain` where there is one."""
    attack: Annotated[tuple[Any, ...], Part("attacks", many=True), SkipValidation] = ()
    """What is tried on every unlearned stage and on the retrained control."""
    attack_measure: tuple[str, ...] = ("probability.forget", "extraction_strength.forget")
    """Measurements repeated after each attack."""
    reading: Reading = Reading()
    """How models are read."""
    headline: tuple[str, ...] = ()
    """Measurements that the report and the terminal show first."""
    expect: Annotated[tuple[Claim, ...], SkipValidation] = ()
    """Claims that the run itself checks."""
    draw: Annotated[tuple[Drawing, ...], SkipValidation] = ()
    """Figures of measurements against sparsity."""

    def check_data(self, data: Bundle, later: Bundle | None = None) -> None:
        """Raises UserError for what a stage, a metric or an attack needs: a role of the data, or a benchmark's own files.

        Args:
            later: the data after the audit, where there is one; before it has been, a guess stands in.
        """
        whole = data
        if self.audit is not None:
            self.audit.check(data, None)
            data = stand_in(self.data, data, self.seeds[0]) if later is None else later
        for stage in self.stages:
            rows = whole if self.audit is not None and stage.name in self.audit.before else data
            _at(f"stages.{stage.name}", lambda stage=stage, rows=rows: stage.maker.objective_on(rows))
        for i, metric in enumerate(self.measure):
            for role in sorted(metric.roles()):
                _at(f"measure.{i} ({metric.name})", lambda role=role: data[role])
            if hasattr(metric, "check"):
                _at(f"measure.{i} ({metric.name})", metric.check)
        for i, attack in enumerate(self.attack):
            _at(f"attack.{i}", lambda attack=attack: attack.objective_on(data))

    def check_model(self, subject: Any) -> None:
        """Raises UserError for what a stage or an attack cannot do with a model of these names and shapes.

        A stage that starts from one which `reshapes` the model meets other shapes, and says itself what does not fit.
        """
        reshaped = {s.name for s in self.stages if getattr(s.maker, "reshapes", False)}
        for stage in self.stages:
            if stage.start in reshaped:
                reshaped.add(stage.name)
            elif hasattr(stage.maker, "check_model"):
                _at(f"stages.{stage.name}", lambda stage=stage: stage.maker.check_model(subject))
        for i, attack in enumerate(self.attack):
            if hasattr(attack, "check_model") and not reshaped:
                _at(f"attack.{i}", lambda attack=attack: attack.check_model(subject))


@dataclass(frozen=True)
class Resolved:
    """A recipe together with the plain tree it was built from, which is what is saved and hashed."""

    recipe: Recipe
    tree: Mapping[str, Any]
    profile: str | None

    @property
    def hash(self) -> str:
        """16 hex digits over everything that the file says."""
        return fingerprint.of(self.tree)

    def as_yaml(self) -> str:
        """The resolved tree; running it again reproduces the run."""
        return yamls.dump(dict(self.tree))


def packaged() -> dict[str, Path]:
    """The recipes that come with the library, by name; presets of methods and benches are parts of recipes."""
    root = Path(str(resources.files("amends"))) / "recipes"
    return {p.stem: p for p in sorted(root.glob("*/*.yaml")) if p.parent.name not in ("methods", "bench")}


def resolve(what: str, profile: str | None = None, sets: Iterable[str] = ()) -> Resolved:
    """Finds a recipe by name or path, applies a profile and `--set`s, and builds every part."""
    tree = read(locate(what))
    profiles = tree.pop("profiles", None) or {}
    if not isinstance(profiles, Mapping):
        raise UserError(f"{what}: profiles: expected a mapping of names")
    if profile is not None:
        if profile not in profiles:
            raise UserError(f"{what}: no profile is called '{profile}'{nearest(profile, map(str, profiles))}")
        changes = profiles[profile]
        if not isinstance(changes, Mapping):
            raise UserError(f"{what}: profiles.{profile}: expected a mapping of dotted paths")
        tree = layers.apply(tree, changes, f"profile {profile}:")
    tree = layers.apply(tree, dict(map(layers.parse, sets)), "--set")
    return Resolved(build_recipe(tree), tree, profile)


def locate(what: str) -> Path:
    """A file, or the name of a packaged recipe."""
    path = Path(what)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"{what}: no such recipe file")
        return path
    known = packaged()
    if what not in known:
        raise UserError(f"no recipe is called '{what}'{nearest(what, known)}; a file needs the ending .yaml")
    return known[what]


def read(path: Path) -> dict[str, Any]:
    """The plain tree of a recipe file; raises UserError with the line of a YAML mistake."""
    try:
        tree = yamls.load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{path}{line}: not valid YAML ({problem})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a YAML text in UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected a mapping with data, subject and stages")
    return {"name": path.stem, **tree}


def build_recipe(tree: Mapping[str, Any]) -> Recipe:
    """Builds every part of a plain tree; a UserError is one line, whatever the names in the tree are."""
    try:
        return _build(dict(tree))
    except UserError as error:
        raise UserError(" ".join(str(error).split())) from None


def _build(tree: dict[str, Any]) -> Recipe:
    for key in ("data", "subject", "stages"):
        if key not in tree:
            raise UserError(f"{key}: a recipe needs it")
    for key, cls in (("paper", Paper), ("reading", Reading)):
        if isinstance(tree.get(key), Mapping):
            tree[key] = build(cls, tree[key], key)
    stages = _stages(tree.pop("stages"))
    check = tree.pop("audit", None)
    audit = None if check is None else build_audit(check, [stage.name for stage in stages])
    claims = _list(tree.pop("expect", ()), "expect")
    expect = tuple(build(Claim, c, f"expect.{i}") for i, c in enumerate(claims))
    draw = tuple(build(Drawing, d, f"draw.{i}") for i, d in enumerate(_list(tree.pop("draw", ()), "draw")))
    parts = {"stages": stages, "audit": audit, "expect": expect, "draw": draw}
    recipe: Recipe = build(Recipe, {**tree, **parts}, "recipe")
    check_source(recipe.data, audit)
    _check_names(recipe)
    _check_attacks(recipe, given="attack_measure" in tree)
    return recipe


def _stages(tree: Any) -> tuple[StageEntry, ...]:
    if not isinstance(tree, Mapping) or not tree:
        raise UserError("stages: expected a mapping of names, with at least one stage")
    entries: dict[str, StageEntry] = {}
    for name, values in tree.items():
        at = f"stages.{name}"
        if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum():
            raise UserError(f"{at}: a stage's name has letters, digits, '-' and '_' only")
        values = {"use": values} if isinstance(values, str) else values
        if not isinstance(values, Mapping):
            raise UserError(f"{at}: expected a mapping with `use:`, got {values!r}")
        rest = dict(values)
        start, once, kind = rest.pop("from", None), rest.pop("once", False), rest.pop("kind", None)
        against = rest.pop("against", None)
        maker = build_use("stages", rest, at)
        _check_start(at, maker, start, entries)
        kind = (name if name in ("original", "retrain") else "unlearned") if kind is None else kind
        if kind not in ("original", "retrain", "unlearned"):
            raise UserError(f"{at}.kind: expected original, retrain or unlearned, got {kind!r}")
        if not isinstance(once, bool):
            raise UserError(f"{at}.once: expected true or false, got {once!r}")
        if once and start is not None and not entries[start].once:
            raise UserError(f"{at}.once: its start, {start!r}, is made anew for each seed: set `once` there, too")
        entries[name] = StageEntry(name, maker, str(rest["use"]), start, kind, once, against)
    return tuple(entries.values())


def _check_start(at: str, maker: Any, start: Any, earlier: Mapping[str, StageEntry]) -> None:
    use = type(maker).__name__
    if start is None and maker.starts == "from":
        raise UserError(f"{at}.from: {use} starts from another stage and compares with it: name an earlier one")
    if start is not None and maker.starts == "fresh":
        raise UserError(f"{at}.from: {use} starts from the subject itself: remove the key")
    if start is not None and (not isinstance(start, str) or start not in earlier):
        raise UserError(f"{at}.from: no earlier stage is called {start!r}{nearest(str(start), earlier)}")


def _check_names(recipe: Recipe) -> None:
    stages = [s.name for s in recipe.stages]
    metrics = [m.name for m in recipe.measure]
    against = recipe.against
    for key, names in (("seeds", recipe.seeds), ("measure", metrics), ("attack", [attack_name(a) for a in recipe.attack])):
        twice = next((n for i, n in enumerate(names) if n in names[:i]), None)
        if twice is not None:
            raise UserError(f"{key}: {twice} stands twice; results are kept by this name")
    if against is not None and against not in stages:
        raise UserError(f"against: no stage is called {against!r}{nearest(against, stages)}")
    for stage in recipe.stages:
        if stage.against is not None and stage.against not in stages:
            raise UserError(
                f"stages.{stage.name}.against: no stage is called {stage.against!r}{nearest(str(stage.against), stages)}"
            )
    if against is None and "retrain" not in stages:
        for i, metric in enumerate(recipe.measure):
            if getattr(metric, "needs_reference", False):
                raise UserError(f"measure.{i}: {metric.name} compares with a retrained model, and no stage is called 'retrain'")
    for i, name in enumerate(recipe.headline):
        if name not in metrics:
            raise UserError(f"headline.{i}: nothing measured is called {name!r}{nearest(name, metrics)}")
    attacks = [attack_name(a) for a in recipe.attack]
    for i, claim in enumerate(recipe.expect):
        claim.check(f"expect.{i}", stages, metrics, attacks, recipe.audit.names if recipe.audit else ())
    for i, drawing in enumerate(recipe.draw):
        drawing.check(f"draw.{i}", stages, metrics)


def _check_attacks(recipe: Recipe, given: bool) -> None:
    """What comes back is a share of what the original knew, row by row; a default list may name what is not measured."""
    if recipe.attack and not any(s.kind == "original" for s in recipe.stages):
        raise UserError("attack: no stage is the original to compare with: call one 'original', or set its `kind: original`")
    metrics = {m.name: m for m in recipe.measure}
    for i, name in enumerate(recipe.attack_measure if given else ()):
        if name not in metrics:
            raise UserError(f"attack_measure.{i}: nothing measured is called {name!r}{nearest(name, metrics)}")
        if metrics[name].needs_reference:
            raise UserError(f"attack_measure.{i}: {name} compares two models, so no share of it can come back")


def attack_name(attack: Any) -> str:
    """What results and claims call an attack; two settings of one attack have two names."""
    return attack.name


def _list(value: Any, at: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{at}: expected a list, got {value!r}")
    return list(value)


def _at(where: str, call: Any) -> None:
    try:
        call()
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
