"""Runs a recipe: data, stages, readings, attacks, measurements, claims, report; resumable at every point.

Running the same recipe again continues its newest unfinished run, and finishes at once when nothing is left to do.
Every process of a distributed run does the same work in step; the main one writes.
"""

from __future__ import annotations

import contextlib
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from amends.core import catalog, fingerprint
from amends.core.context import around
from amends.core.errors import UserError
from amends.core.types import Measurement, Scores
from amends.data.bundle import Bundle
from amends.edits import sparse
from amends.engine.guards import every_kth
from amends.engine.parallel import Parallel
from amends.metrics.evaluation import Evaluation
from amends.metrics.recovered import recovered
from amends.runs import audits, console, flag_tables, track, unflagged
from amends.runs.claims import UNSEEN, in_words, quantity
from amends.runs.describe import sampled, shown, told
from amends.runs.ending import terminable
from amends.runs.recipe import Resolved, StageEntry, attack_name
from amends.runs.record import SCHEMA, Folder, Meter, git_state, now, read_json, versions, write_text
from amends.runs.shared import READING, STAGE, Shared
from amends.runs.stages import (  # fmt: skip
    Done,
    StageRun,
    load_reading,
    load_weights,
    save_model,
    save_reading,
    start_over,
    weights_print,
)

MOST_TOLD = 24
"""Labelled rows of a role whose classes the report shows, spread evenly."""


def choose_folder(resolved: Resolved, root: Path, fresh: bool) -> Path:
    """The newest run of the same recipe under `root`, or a new folder `<name>/<time>-<hash>`."""
    parent = root / resolved.recipe.name
    old = sorted(parent.glob(f"*-{resolved.hash[:6]}")) if parent.is_dir() else []
    if old and not fresh:
        return old[-1]
    return parent / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{resolved.hash[:6]}"


def execute(resolved: Resolved, folder: Path, *, trackers: Sequence[str] = (), stages: Path | None = None) -> Path:
    """Does whatever of the run is not done yet. Returns the folder.

    Args:
        stages: a folder through which runs share finished originals and retrained models.

    Raises:
        UserError: bad data or a folder in use; the manifest says `failed` and why, and what was computed stays.
    """
    world = Parallel()
    folder = world.same(folder)
    record = Folder(folder, writes=world.is_main)
    with record.locked(), terminable():
        previous = folder / "manifest.json"
        record.manifest = read_json(previous) if previous.is_file() else {}
        run = _Run(resolved, record, world, Shared(stages) if stages is not None and world.is_main else None)
        try:
            run.go(trackers)
        except BaseException as error:
            cancelled = isinstance(error, (KeyboardInterrupt, SystemExit))
            with contextlib.suppress(UserError):  # a full disk must not hide what went wrong first
                record.update(status="cancelled" if cancelled else "failed", error=f"{type(error).__name__}: {error}")
            raise
    return folder


@dataclass
class _Run:
    """The state of one execution."""

    resolved: Resolved
    record: Folder
    world: Parallel
    shared: Shared | None = None
    fits: bool = False
    """Whether all stages were found to fit the model; known as soon as it is loaded for the first time."""
    stages: list[dict[str, Any]] = field(default_factory=list)
    measured: list[dict[str, Any]] = field(default_factory=list)
    recovered: list[dict[str, Any]] = field(default_factory=list)
    flags: list[dict[str, Any]] = field(default_factory=list)
    audited: list[dict[str, Any]] = field(default_factory=list)
    scored: list[flag_tables.Audited] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    """The seeds on which nothing was flagged."""
    waiting: list[tuple[StageEntry, StageRun]] | None = None
    """Stages made before the audit, to be read once it has split the data; None when there is nothing to wait for."""
    answers: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def go(self, trackers: Sequence[str]) -> None:
        recipe = self.resolved.recipe
        began = time.perf_counter()
        self._begin()
        self.mirrors = track.open_all(trackers, recipe.name, self.record.path, self.resolved.tree) if self.record.writes else []
        for seed in recipe.seeds:
            self._seed(seed)
        if self.skipped:
            self.measured = unflagged.comparable(self.measured, recipe, self.skipped)
            self._flush()
        self._claims()
        for mirror in self.mirrors:
            mirror.close()
        self.record.update(
            status="ok", error=None, seconds=self.record.manifest.get("seconds", 0) + time.perf_counter() - began
        )

    def _begin(self) -> None:
        recipe = self.resolved.recipe
        before = self.record.manifest if self.record.manifest.get("recipe_hash") == self.resolved.hash else {}
        if self.record.writes:
            write_text(self.record.path / "recipe.yaml", self.resolved.as_yaml())
        self.record.update(
            schema=SCHEMA, name=recipe.name, title=recipe.title, question=recipe.question,
            profile=self.resolved.profile or before.get("profile"),
            paper=fingerprint.plain(recipe.paper), status="running", error=None, argv=sys.argv[1:],
            recipe_hash=self.resolved.hash, seeds=list(recipe.seeds), git=git_state(), versions=versions(),
            device=str(self.world.device), processes=self.world.world, platform=platform.platform(),
            started=self.record.manifest.get("started", now()), headline=list(recipe.headline),
            draw=fingerprint.plain(recipe.draw),
        )  # fmt: skip

        if recipe.audit is None and self.record.manifest.get("audits"):  # of another recipe in the same folder
            self.record.update(audits=[], skipped=[])

    # ------------------------------------------------------------------ one seed

    def _seed(self, seed: int) -> None:
        recipe = self.resolved.recipe
        with around(StageRun("data", recipe.seeds[0], None, self.record)):
            data = recipe.data.load(recipe.seeds[0])
        recipe.check_data(data)
        self.data, self.data_print = data, data.fingerprint()
        kind = {"kind": "labels", "classes": list(data.classes)} if data.labelled else {}
        if seed == recipe.seeds[0]:
            self.record.update(data={"fingerprint": self.data_print, **self._sizes(), **kind})
        self.keys: dict[str, str] = {}
        self.readings: dict[str, Evaluation] = {}
        self.waiting, self.metrics = None if recipe.audit is None else [], list(recipe.measure)
        made: list[StageEntry] = []
        for number, stage in enumerate(recipe.stages, 1):
            self._stage(stage, number, seed)
            made.append(stage)
            if recipe.audit is not None and stage.name == recipe.audit.model and not self._audit(stage, seed):
                break
        for stage in made:
            self._measure(stage, seed)
        self._flush()
        for attack in recipe.attack if made == list(recipe.stages) else ():
            for number, stage in enumerate(recipe.stages, 1):
                if stage.kind != "original":
                    self._attack(attack, stage, number, seed)
        self._flush()

    def _sizes(self) -> dict[str, Any]:
        """Roles and notes of the data as they are now, said aloud."""
        sizes = {role: len(rows) for role, rows in self.data.roles.items()}
        for note in self.data.notes:
            self._say(note)
        self._say("data: " + ", ".join(f"{n} {role}" for role, n in sizes.items()))
        return {"roles": sizes, "notes": list(self.data.notes)}

    def _audit(self, stage: StageEntry, seed: int) -> bool:
        """Every auditor's scores and flags; the first one's say what is forgotten from here on, in readings as in stages.

        False where it flags nothing that could be forgotten.
        """
        recipe, whole, effective = self.resolved.recipe, self.data, self._effective(stage, seed)
        assert recipe.audit is not None
        weights = next(s["weights"] for s in self.stages if s["name"] == stage.name and s["seed"] == effective)
        start = fingerprint.of(recipe.subject, recipe.subject.content(), weights, _code())
        load = cache(partial(self._load, stage.name, seed))  # auditors leave the model as they found it
        decided: Scores | None = None
        for i, auditor in enumerate(recipe.audit.auditors):
            folder = self.record.path / "audits" / f"{auditor.name}{self._mark(stage, seed)}"
            run = StageRun(f"audit by {auditor.name}", effective, folder, self.record, self.mirrors)
            found, how = audits.conduct(auditor, load, whole, start, run, recipe.audit.show)
            if not (stage.once and seed != recipe.seeds[0]):
                line, rows = audits.told(auditor, found, whole, model=stage.name, seed=effective, decides=i == 0, **how)
                self.flags, self.audited = self.flags + rows, [*self.audited, line]
                own = whole[auditor.role], whole.classes
                self.scored.append(flag_tables.Audited(auditor.name, effective, i == 0, found, *own))
            decided = found if i == 0 else decided
        self.record.update(audits=self.audited)
        flag_tables.write_tables(self.scored, self.record, self._say)
        assert decided is not None
        self.data = audits.split(recipe, whole, decided)
        self.data_print = self.data.fingerprint()
        goes_on = self.data is whole or bool(decided.flagged)
        if len(self.skipped) == recipe.seeds.index(seed) and self.data is not whole:  # the first seed that forgets anything
            self.record.update(data={**self.record.manifest["data"], **self._sizes()})
        if not goes_on:
            self.metrics = unflagged.measurable(recipe, self.data)
            self.skipped.append(unflagged.skipped(recipe, seed))
            self._say(self.skipped[-1]["why"])
        self.record.update(skipped=self.skipped)
        for made, run in self.waiting or ():
            assert run.folder is not None
            self.readings[made.name] = self._read(made, seed, None, run.folder / READING, run)
        self.waiting = None
        return goes_on

    def _mark(self, stage: StageEntry, seed: int) -> str:
        return "" if seed == self.resolved.recipe.seeds[0] or stage.once else f"-seed{seed}"

    def _folder(self, stage: StageEntry, number: int, seed: int, suffix: str = "") -> Path:
        return self.record.path / "stages" / f"{number:02d}-{stage.name}{self._mark(stage, seed)}{suffix}"

    def _effective(self, stage: StageEntry, seed: int) -> int:
        return self.resolved.recipe.seeds[0] if stage.once else seed

    def _fresh(self, seed: int) -> Any:
        with console.busy("loading the model") if self.record.writes else contextlib.nullcontext():
            subject = self.resolved.recipe.subject.load(self.data, seed)
        if not self.fits:
            self.resolved.recipe.check_model(subject)
            if self.resolved.recipe.audit is not None:
                self.resolved.recipe.audit.check(self.data, subject)
            self.fits = True
        return subject

    def _load(self, name: str, seed: int) -> Any:
        """A made stage's model, from its folder."""
        number, stage = next((i, s) for i, s in enumerate(self.resolved.recipe.stages, 1) if s.name == name)
        subject = self._fresh(self._effective(stage, seed))
        if stage.maker.keeps_weights:
            load_weights(subject, self._folder(stage, number, seed) / "model")
        return subject

    def _parameters(self, name: str | None, seed: int) -> dict[str, Any]:
        """The parameters of a made stage's model, or of the model as it is built."""
        subject = self._fresh(seed) if name is None else self._load(name, seed)
        return dict(subject.module.named_parameters())

    def _stage(self, stage: StageEntry, number: int, seed: int) -> None:
        effective = self._effective(stage, seed)
        model = self.resolved.recipe.subject
        start = self.keys[stage.start] if stage.start else fingerprint.of(model, model.content())
        key = fingerprint.of(
            stage.maker, fingerprint.contents(stage.maker), stage.use, start, self.data_print, effective, _code()
        )
        self.keys[stage.name] = key
        folder = self._folder(stage, number, seed)
        run = StageRun(self._label(stage, seed), effective, folder, self.record, self.mirrors)
        with self._own_or_shared(stage, key, STAGE, run):
            done = Done.read(folder, key)
            cached = done is not None
            subject = None
            if done is None:
                subject, done = self._make(stage, seed, key, folder, run)
            elif not (stage.once and seed != self.resolved.recipe.seeds[0]):
                run.say("made before, taken as it is")
            if self.waiting is None:
                self.readings[stage.name] = self._read(stage, seed, subject, folder / READING, run)
            else:
                self.waiting.append((stage, run))
        self._record_stage(stage, effective, done, cached)

    @contextlib.contextmanager
    def _own_or_shared(self, stage: StageEntry, key: str, mark: str, run: StageRun) -> Iterator[None]:
        """The stage's folder, without what was made under another key; a reference may come from another run."""
        assert run.folder is not None
        if self.record.writes:
            start_over(run.folder, key)
        shared = self.shared if stage.kind != "unlearned" else None
        with contextlib.nullcontext() if shared is None else shared.stage(key, run.folder, mark, run.say):
            self.world.barrier()
            yield

    def _make(self, stage: StageEntry, seed: int, key: str, folder: Path, run: StageRun) -> tuple[Any, Done]:
        subject = self._load(stage.start, seed) if stage.start else self._fresh(run.seed)
        run.say(f"{stage.use}" + (f" from {stage.start}" if stage.start else ""))
        meter = Meter(trains=stage.maker.keeps_weights)
        outcome = stage.maker(subject, self.data, run)
        steps, stopped = getattr(outcome, "steps", 0), getattr(outcome, "stopped", None)
        suppression = getattr(outcome, "suppression", None)
        sparsity = getattr(outcome, "sparsity", None)  # its own word: it knows which weights could be pruned
        sparsity = sparse.zeros(subject.module) if sparsity is None else sparsity
        seconds, peak = meter.seconds, meter.peak_bytes
        if stage.maker.keeps_weights and self.record.writes:
            save_model(subject, folder / "model")
        size = sum(p.numel() for p in subject.module.parameters())
        done = Done(key, seconds, peak, steps, stopped, weights_print(subject), size, suppression, sparsity)
        if self.record.writes:
            done.write(folder)
        self.world.barrier()
        if steps:
            run.say(f"{steps} steps in {seconds:.0f} s, peak memory {peak / 1e9:.1f} GB")
        return subject, done

    def _record_stage(self, stage: StageEntry, seed: int, done: Done, cached: bool) -> None:
        if not any(s["name"] == stage.name and s["seed"] == seed for s in self.stages):
            self.stages.append(told(stage, seed, done, cached))
            self.record.update(stages=self.stages)

    # ------------------------------------------------------------------ reading and measuring

    def _read(self, stage: StageEntry, seed: int, subject: Any, path: Path, run: StageRun) -> Evaluation:
        """Everything the measurements need of a model, computed while it is in memory; afterwards no model is needed."""
        reading = self.resolved.recipe.reading
        key = fingerprint.of(self.keys[stage.name], self.data_print, self.resolved.recipe.measure, reading)
        evaluation = Evaluation(
            subject, self.data, self.resolved.recipe.seeds[0], reading.max_new_tokens, reading.batch_size, run
        )
        evaluation.weights = partial(self._parameters, stage.name, seed)
        evaluation.first = partial(self._parameters, None, self._effective(stage, seed))
        evaluation.client = lambda: getattr(self._fresh(self._effective(stage, seed)), "client", None)
        if not load_reading(evaluation, path, key):
            evaluation.subject = subject if subject is not None else self._load(stage.name, seed)
            shown_roles = [r for r in reading.show if r in self.data and hasattr(evaluation.subject, "generate")]
            answers = evaluation.answers(self.data.together(shown_roles))  # of all roles at once: full batches
            for said in sampled(self.data[shown_roles[0]], answers) if shown_roles else ():
                run.say(said)
            for metric in self.metrics:
                metric.measure(evaluation, evaluation if getattr(metric, "needs_reference", False) else None)
            if self.record.writes:
                save_reading(evaluation, path, key)
            self.world.barrier()
        evaluation.subject = None
        self._keep_answers(stage.name, seed, evaluation)
        return evaluation

    def _keep_answers(self, name: str, seed: int, evaluation: Evaluation) -> None:
        if seed != self.resolved.recipe.seeds[0]:
            return
        few = [row for r in self.resolved.recipe.reading.show for row in every_kth(self.data.roles.get(r, ()), MOST_TOLD)]
        known = evaluation.known_answers() or evaluation.told(few)
        for role in self.resolved.recipe.reading.show:
            for sample in self.data.roles.get(role, ()):
                if sample.id in known:
                    row = self.answers.setdefault((role, sample.id), shown(role, sample, self.data.classes))
                    row["answers"][name] = known[sample.id]

    def _label(self, stage: StageEntry, seed: int) -> str:
        return stage.name if len(self.resolved.recipe.seeds) == 1 or stage.once else f"{stage.name} (seed {seed})"

    def _measure(self, stage: StageEntry, seed: int) -> None:
        recipe = self.resolved.recipe
        if stage.once and seed != recipe.seeds[0]:
            return
        against = self.readings.get(stage.against or recipe.against or "retrain")
        for metric in self.metrics:
            self._keep(metric.measure(self.readings[stage.name], against), stage.name, seed, None)

    def _keep(self, m: Measurement, name: str, seed: int, attack: str | None) -> None:
        self.measured.append({"subject": name, "seed": seed, "attack": attack, **m.as_dict()})
        suffix = f".{attack}" if attack else ""
        self.record.write_lines(
            f"scores/{name}{suffix}-seed{seed}/{m.name}.jsonl", ({"id": i, "score": s} for i, s in m.scores.items())
        )

    def _flush(self) -> None:
        found = {"flags": self.flags} if self.resolved.recipe.audit is not None else {}
        results = {"schema": SCHEMA, "measurements": self.measured, "recovered": self.recovered, **found}
        self.record.write("results.json", results)
        self.record.write_lines("samples/answers.jsonl", self.answers.values())

    # ------------------------------------------------------------------ attacks

    def _attack(self, attack: Any, stage: StageEntry, number: int, seed: int) -> None:
        recipe = self.resolved.recipe
        if stage.once and seed != recipe.seeds[0]:
            return
        name = attack_name(attack)
        metrics = [m for m in recipe.measure if m.name in recipe.attack_measure]
        folder = self._folder(stage, number, seed, f".{name}")
        key = fingerprint.of(self.keys[stage.name], attack, fingerprint.contents(attack), metrics, recipe.reading)
        run = StageRun(
            f"{self._label(stage, seed)} under {name}", self._effective(stage, seed), folder, self.record, self.mirrors
        )
        with self._own_or_shared(stage, key, READING, run):
            evaluation = self._attacked(attack, stage, seed, metrics, key, run)
        first = self.readings[next(s.name for s in recipe.stages if s.kind == "original")]
        held = attack.held(self.data, run.seed) if hasattr(attack, "held") else frozenset()
        for metric in metrics:
            after = metric.measure(evaluation, None)
            self._keep(after, stage.name, seed, name)
            before = metric.measure(first, None), metric.measure(self.readings[stage.name], None)
            share = recovered(*before, after)
            row = {"subject": stage.name, "seed": seed, "attack": name, "label": getattr(attack, "label", name)}
            self.recovered.append({**row, "metric": metric.name, **share})
            unseen = {i: s for i, s in after.scores.items() if i not in held}
            if 0 < len(unseen) < len(after.scores):
                alone = recovered(*before, replace(after, scores=unseen))
                self.recovered.append({**row, "metric": f"{metric.name}.{UNSEEN}", **alone})
            run.say(
                f"{metric.name} {after.value:.3f}"
                + (f", {share['value']:.0%} of what was forgotten is back" if share["value"] is not None else "")
            )

    def _attacked(
        self, attack: Any, stage: StageEntry, seed: int, metrics: Sequence[Any], key: str, run: StageRun
    ) -> Evaluation:
        """What the measurements need of an attacked model; computed once, like a stage's own."""
        recipe = self.resolved.recipe
        evaluation = Evaluation(None, self.data, recipe.seeds[0], recipe.reading.max_new_tokens, recipe.reading.batch_size, run)
        assert run.folder is not None
        path = run.folder / READING
        if not load_reading(evaluation, path, key):
            evaluation.subject = self._load(stage.name, seed)
            changed = attack(evaluation.subject, self.data, run)
            if isinstance(changed, Bundle):
                evaluation.data = changed
            for metric in metrics:
                metric.measure(evaluation, None)
            if self.record.writes:
                save_reading(evaluation, path, key)
                for leftover in ("checkpoint.safetensors", "best.safetensors"):
                    (run.folder / leftover).unlink(missing_ok=True)
            self.world.barrier()
        evaluation.subject = None
        return evaluation

    # ------------------------------------------------------------------ claims

    def _claims(self) -> None:
        recipe, rows = self.resolved.recipe, (self.stages, self.measured, self.recovered, self.flags)
        notes = [unflagged.note(claim, recipe, self.skipped) for claim in recipe.expect]
        claims = [c.judge(lambda path: quantity(path, *rows), note) for c, note in zip(recipe.expect, notes, strict=True)]
        self.record.write("claims.json", claims)
        for said in map(in_words, claims):
            self._say(said)

    def _say(self, text: str) -> None:
        if self.record.writes:
            console.say(f"  {text}")
            self.record.append("log.txt", text)


def _code() -> str:
    """The library's sources that decide results, and the files the user added."""
    return fingerprint.of(fingerprint.of_code(), [fingerprint.of_file(file) for file in catalog.added()])
