"""Turns a question, which rows of this training data are poisoned, into a recipe: what `amends audit` runs.

The recipe lies in the run's folder as any other. Without `then` the run ends with the flags. With it, what the first auditor
flags is forgotten in the same run, by retraining without it or by a preset (`recipes/methods`), and scores that lie in the
folder already are taken as they are.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from amends.core import catalog
from amends.core.errors import UserError
from amends.runs import audit_data, audit_model
from amends.runs.audit_data import Found, Reading
from amends.runs.audit_entry import SHOWN
from amends.runs.audit_model import Given, Normal
from amends.runs.methods import Method, find_method
from amends.runs.record import read_json

ORIGINAL, RETRAIN = "original", "retrain"
PREFERRED = ("mspc", "spc")
"""The auditors of images of which the first one there is asked where none is named."""
OF_TEXTS = "activation_clustering"
STEPS, BATCH = 1000, 64
FROM_NOTHING = {"use": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 5.0e-4, "schedule": "cosine"}
"""How a model is retrained of whose training nothing is known."""
LEFT = 0.5
"""A method that leaves more of an attack's success did not remove it."""
MANY = 0.5
"""An auditor that flags more of the rows tells nothing apart."""
DOUBTFUL = 0.5
"""A model that tells fewer of its training rows was hardly trained on them, or sees them otherwise than it did."""


@dataclass(frozen=True)
class AuditRequest:
    """What the user asked for."""

    data: Path
    model: str
    by: tuple[str, ...] = ()
    then: tuple[str, ...] = ()
    rows: Path | None = None
    """A file that says which rows go, in an auditor's place: ids, or a table with `id` and `flagged`."""
    test: Path | None = None
    triggered: Path | None = None
    clean: Path | None = None
    """Rows known to be clean, for auditors that take some."""
    rate: float | None = None
    show: int = SHOWN
    seeds: tuple[int, ...] = ()
    epochs: int | None = None
    steps: int | None = None
    lr: float | None = None
    batch: int = BATCH
    reading: Reading = field(default_factory=Reading)
    normal: Normal = field(default_factory=Normal)
    trust_order: bool = False
    allow_empty: bool = False

    def tree(self) -> dict[str, Any]:
        """The recipe as plain YAML values; raises UserError for a path or a name that is not what it should be."""
        given = audit_model.find(self.model, self.normal, self.trust_order)
        grey = self.reading.channels is None and given.channels == audit_model.GREY
        reading = Reading(self.reading.size, audit_model.GREY if grey else self.reading.channels, self.reading.skip_broken)
        found = audit_data.find(self.data, audit_data.DATA, reading)
        rows = self._rows(found, given, reading)
        roles = {"test": found.test or self.test is not None, "triggered": found.triggered or self.triggered is not None}
        goes_on = bool(self.then)
        measures = [*self._measures(), *({"use": use} for use, role in (("ta", "test"), ("asr", "triggered")) if roles[role])]
        data = {"use": "labelled", "of": rows, "by": "audit"} if goes_on else rows
        if self.rows is not None:
            data |= {"by": "ids", "file": str(self._chosen(self.rows))}
        tree = {
            "name": f"audit-{'-'.join(self._called())}",
            "title": f"Which rows of {'/'.join(self._called())} should the model not have been trained on?",
            "question": self._question(),
            "seeds": self._seeds(found),
            "data": data,
            "subject": dict(given.subject),
            "stages": {
                ORIGINAL: {**given.stage, "once": True, "kind": "original"},
                **{name: self._stage(name, given) for name in self.then},
            },
            "reading": {"show": [role for role in ("forget", "triggered", "test") if roles.get(role, goes_on)]},
            "measure": measures,
            "headline": _headline(measures),
        }  # fmt: skip
        return tree if self.rows is not None else {**tree, "audit": self._audit(given.texts)}

    def _chosen(self, file: Path) -> Path:
        if self.by:
            raise UserError("--rows: you say which rows go, so no auditor is asked: leave --by out")
        if not self.then:
            raise UserError("--rows: says which rows go, and nothing is done with them: give --then retrain, or another method")
        if not file.expanduser().is_file():
            raise UserError(f"--rows {file}: no such file")
        if self.clean is not None:
            raise UserError("--clean: is for auditors, and with --rows none is asked: leave it out")
        return file.expanduser().resolve()

    def _called(self) -> list[str]:
        """What the data is called: its folder or file, and the folder above one that is only called `train`."""
        path = self.data.expanduser().resolve()
        return [path.parent.name, path.stem] if path.stem == "train" and path.parent.name else [path.stem]

    def _seeds(self, found: Found) -> list[int]:
        """The first seed draws the rows of a recipe, so it has to be the one with which the model was trained on them."""
        first = found.seed or 0
        if found.seed is not None and self.seeds and self.seeds[0] != first:
            raise UserError(f"--seeds: {self.data} draws its rows with seed {first}, so that one has to be the first")
        return list(self.seeds) or [first]

    def _question(self) -> str:
        if not self.then:
            return "Which rows of the training data stand out to the model that was trained on them?"
        return (
            f"Which rows of the training data stand out, and what becomes of the model without them ({', '.join(self.then)})?"
        )

    def _rows(self, found: Found, given: Given, reading: Reading) -> dict[str, Any]:
        """All rows under the model's classes, the user's own test and triggered rows in the place of the source's."""
        own: dict[str, Any] = {"use": "joined", "of": dict(found.source)}
        if found.source["use"] == "joined":
            own = dict(found.source)
        for role in ("test", "triggered", "clean"):
            path = getattr(self, role)
            if path is not None:
                inside = audit_data.find(path, f"--{role}", reading).source
                own[role] = dict(inside)
        own |= {"classes": list(given.classes)} if given.classes else {}
        return own | ({"empty": True} if self.allow_empty else {})

    def _audit(self, texts: bool) -> dict[str, Any]:
        there = {catalog.normal(entry.name): entry.name for entry in catalog.list_kind("auditors")}
        first = OF_TEXTS if texts else next(name for name in PREFERRED if name in there)
        auditors = [self._auditor(name) for name in self.by or (first,)]
        if self.clean is not None and not any("clean" in auditor for auditor in auditors):
            able = ", ".join(name for name in sorted(there.values()) if "clean" in _settings(name))
            raise UserError(f"--clean: {auditors[0]['use']} learns nothing from rows known to be clean; those that do: {able}")
        return {**auditors[0], "model": ORIGINAL, "beside": auditors[1:], "show": self.show}

    def _auditor(self, name: str) -> dict[str, Any]:
        takes = _settings(name)
        rate = takes.get("rate")
        if rate is not None and rate.is_required() and self.rate is None:
            raise UserError(
                f"--by {name}: needs to be told which share of the rows may be bad: give it by --rate, such as 0.05"
            )
        clean = {"clean": "clean"} if self.clean is not None and "clean" in takes else {}
        return {"use": name, **({"rate": self.rate} if rate is not None and self.rate is not None else {}), **clean}

    def _measures(self) -> list[dict[str, Any]]:
        if not self.then:
            return [{"use": "accuracy", "role": "train"}]
        parts = ["ua", "ra"]
        compared = RETRAIN in self.then and len(self.then) > 1
        return [{"use": "ua"}, {"use": "ra"}, *([{"use": "disparity", "parts": parts}] if compared else [])]

    # ------------------------------------------------------------------ what comes after

    def _stage(self, name: str, given: Given) -> dict[str, Any]:
        if name == RETRAIN:
            return self._retrain(given)
        return self._unlearn(find_method(name, "classifier", "--then"))

    def _retrain(self, given: Given) -> dict[str, Any]:
        """The training that made the model, where its run says how, on the rows that are kept."""
        if self.epochs is not None:
            raise UserError("--epochs: retraining is told --steps: give those instead")
        left_out = ("from", "once", "kind", "against", "leave_out")
        training = {key: value for key, value in given.training.items() if key not in left_out}
        if not training:
            fresh = {"fresh": True} if given.loaded else {}
            training = {"use": "train", **fresh, "steps": STEPS, "batch": self.batch, "optim": dict(FROM_NOTHING)}
        training |= {"steps": self.steps} if self.steps is not None else {}
        if self.lr is not None:
            optim: Any = training.get("optim") or FROM_NOTHING
            training["optim"] = {**optim, "lr": self.lr}
        return {**training, "on": ["retain"]}

    def _unlearn(self, method: Method) -> dict[str, Any]:
        use = method.stage["use"]
        takes = {f.name for f in fields(catalog.find("stages", use, "--then").load())}
        length = {"steps": self.steps} if self.steps is not None else {"epochs": self.epochs or method.epochs}
        lr = self.lr if self.lr is not None else method.rate("classifier")
        common = {**length, "batch": self.batch, "optim": {"use": "sgd", "lr": lr, "momentum": 0.9}}
        return {"use": use, "from": ORIGINAL, **{k: v for k, v in common.items() if k in takes}, **method.stage}


def _settings(auditor: str) -> Mapping[str, Any]:
    """An auditor's fields by their names."""
    return catalog.find("auditors", auditor, "--by").load().__pydantic_fields__  # type: ignore[attr-defined]


def _headline(measures: Sequence[Mapping[str, Any]]) -> list[str]:
    roles = {"accuracy": "train", "asr": "triggered", "ta": "test", "ra": "retain", "ua": "forget"}
    return [
        f"{m['use']}.{roles[m['use']]}" for use in ("asr", "ta", "ra", "ua", "accuracy") for m in measures if m["use"] == use
    ]


def remarks(run: Path) -> list[str]:
    """What a reader of a finished run must know before trusting its flags."""
    measured = read_json(run / "results.json")["measurements"]
    known = {m["name"]: m["value"] for m in reversed(measured) if m["subject"] == ORIGINAL and m["attack"] is None}
    told = known.get("accuracy.train", known.get("ra.retain"))
    said = []
    decides = next((line for line in read_json(run / "manifest.json").get("audits", ()) if line["decides"]), None)
    if decides is not None and decides["flagged"] > MANY * decides["rows"]:
        said.append(
            f"warning: {decides['auditor']} flags {decides['flagged'] / decides['rows']:.0%} of the rows: it did not tell bad "
            "ones from others here: try another auditor (--by)"
        )
    if told is not None and told < DOUBTFUL:
        said.append(
            f"warning: the model tells the class of {told:.0%} of the rows: was it trained on them, with these labels, and are "
            "its inputs normalised as in training? An auditor's flags say little otherwise"
        )
    before, after = known.get("asr.triggered"), {m["subject"]: m["value"] for m in measured if m["name"] == "asr.triggered"}
    left = [name for name, value in after.items() if name not in (ORIGINAL, RETRAIN) and before and value > LEFT * before]
    if left:
        said.append(
            f"the trigger still works after {', '.join(left)}: a preset's settings are its paper's, for another model: try "
            "--lr, --epochs or --set, and choose by rows that you do not report on"
        )
    if "ua.forget" in known and "ta.test" not in known:
        said.append("test accuracy is left out, for there are no test rows: give --test FOLDER for what unlearning costs")
    if "ua.forget" in known and "asr.triggered" not in known:
        said.append(
            "whether a trigger still works was not tried: give --triggered FOLDER, images with it in the attacker's class"
        )
    return said


def next_step(words: Sequence[str], run: Path, flagged: int) -> str:
    """The command that goes on from a run that only audited: the same with `--then`, in the same folder."""
    if not flagged:
        return (
            "nothing is flagged; the highest scores are worth a look all the same, and another auditor may see more (amends "
            "methods auditors); rows that you choose yourself go by --rows FILE --then retrain"
        )
    kept = [*words, *(() if any(word.partition("=")[0] == "--out" for word in words) else ("--out", str(run)))]
    return f"amends {shlex.join(kept)} --then retrain"
