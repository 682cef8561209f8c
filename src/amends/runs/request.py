"""Turns a request to forget into a recipe: what `amends unlearn` runs, saved beside the result and editable."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from amends.core import catalog
from amends.core.errors import UserError
from amends.core.types import Sample
from amends.data.scope import HARD_QUESTIONS
from amends.data.text import read_rows
from amends.data.text import resolve as resolve_path
from amends.runs.methods import Method, find_method
from amends.runs.recipe import Recipe
from amends.runs.record import read_json
from amends.runs.shared import link

ANCHOR = "package:shakespeare/retain.jsonl"
"""General questions that come with the library: the anchor where the user has no retain rows."""

ANCHOR_ROWS = 32
"""How many of them are used: enough to hold a small model's behaviour, few enough to be read quickly on a CPU."""

NO_RETAIN = (
    "no retain file: {held} {n} general questions that come with the library; the report can say what that costs on general "
    "knowledge, but nothing about what lies close to your forget rows. Give --retain (and --neighbour) for that evidence"
)


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    model: str
    forget: Path
    retain: Path | None = None
    neighbour: Path | None = None
    holdout: Path | None = None
    method: str = "npo"
    epochs: int | None = None
    steps: int | None = None
    lr: float | None = None
    batch: int = 8
    lora: int | None = None
    budget: float = 0.1
    until: float = 0.05
    seed: int = 0
    attack: bool = True
    dtype: str = "float32"
    max_new_tokens: int = 48
    paraphrase: Path | None = None
    multihop: Path | None = None
    reverse: Path | None = None
    language: Path | None = None

    def tree(self) -> dict[str, Any]:
        """The recipe as plain YAML values. Reads the rows, to know what can be measured of them."""
        method = find_method(self.method)
        answered = self._answered()
        local = Path(self.model).expanduser()
        lr = self.lr if self.lr is not None else method.lr.get("lora" if self.lora else "full", method.lr["full"])
        return {
            "name": f"unlearn-{self.method}",
            "title": f"{self.method} on {Path(self.model).name}",
            "question": f"Does {Path(self.model).name} forget the rows of {self.forget.name}, and what does that cost?",
            "seeds": [self.seed],
            "data": self._data(),
            "subject": {"use": "hf", "name": str(local.resolve()) if local.exists() else self.model, "dtype": self.dtype},
            "stages": {"original": {"use": "pretrained"}, self.method: self._stage(method, lr)},
            "reading": {"max_new_tokens": self.max_new_tokens, "show": list(answered)},
            "measure": list(self._measures(answered)),
            "headline": [f"probability.{r}" for r in self._roles()] + ["extraction_strength.forget"],
            "attack": self._attacks(answered) if self.attack else [],
        }

    def _attacks(self, answered: tuple[str, ...]) -> list[dict[str, Any]]:
        """The quick ones: each costs one reading of the forget rows, relearning ten steps more."""
        found: list[dict[str, Any]] = [
            {"use": "relearn", "steps": 10, "batch": self.batch, "optim": {"use": "adamw", "lr": 1e-5}}
        ]
        if importlib.util.find_spec("bitsandbytes") is not None:
            found += [{"use": "quantise", "kind": kind} for kind in ("8bit", "nf4")]
        if "forget" in answered:
            found.append({"use": "prefix", "kind": "sure"})
            found += [{"use": "few_shot", "shots": 4}] if {"retain", "retain_aside"} & set(answered) else []
        return found

    def _data(self) -> dict[str, Any]:
        files = {"forget": self.forget, "neighbour": self.neighbour, "holdout": self.holdout}
        given = {role: str(path.resolve()) for role, path in files.items() if path is not None}
        others = {role: str(path.resolve()) for role, path in self._hard().items()}
        hard = {"others": others} if others else {}
        if self.retain is None:
            remarks = [NO_RETAIN.format(held=self._held(), n=ANCHOR_ROWS)]
            return {"use": "text", **given, **hard, "retain": ANCHOR, "limit": {"retain": ANCHOR_ROWS}, "remarks": remarks}
        return {"use": "text", **given, **hard, "retain": str(self.retain.resolve()), "set_aside": 0.2}

    def _held(self) -> str:
        """What the general questions are used for, as the beginning of a sentence."""
        stage, objective = find_method(self.method).stage, find_method(self.method).objective
        if objective and any(term.get("term", term)["use"] == "kl" for term in _anchored(objective)):
            return "the model is held to its own answers (KL) on"
        if objective or "retain" in _fields(stage["use"]):
            return "the method is given, in its place,"
        return "the method holds the model to nothing, and is measured on"

    def _stage(self, method: Method, lr: float) -> dict[str, Any]:
        takes = _fields(method.stage["use"])
        length = {"steps": self.steps} if self.steps is not None else {"epochs": self.epochs or method.epochs}
        watched = "retain" if self.retain is None else "retain_aside"
        optim = {"use": "adamw", "lr": lr, "warmup": 0.1}
        start = {"use": method.stage["use"], "from": "original", **length, "batch": self.batch, "optim": optim}
        stage: dict[str, Any] = {**start, **method.stage}
        if self.retain is None and method.objective:
            stage["objective"] = _anchored(method.objective)
        if "guards" in takes:
            stage["guards"] = [
                {"use": "utility_budget", "role": watched, "drop": self.budget},
                {"use": "forgotten", "probability": self.until},
            ]
        if self.lora and "lora" not in takes:
            raise UserError(f"--lora: {method.name} trains no adapter: leave --lora out, or choose another --method")
        if self.lora:
            stage["lora"] = {"rank": self.lora, "alpha": 2 * self.lora}
        return stage

    def _hard(self) -> dict[str, Path]:
        """The files with other ways to ask for the same facts, by the agreed names of their roles."""
        return {role: path for role in HARD_QUESTIONS if (path := getattr(self, role)) is not None}

    def _roles(self) -> tuple[str, ...]:
        kept = ("retain",) if self.retain is None else ("retain_aside",)
        return ("forget", *self._hard(), *kept, *(("neighbour",) if self.neighbour else ()))

    def _answered(self) -> tuple[str, ...]:
        """The roles whose every row asks something, so that answers can be generated and compared."""
        files = {"forget": self.forget, **self._hard(), "neighbour": self.neighbour}
        kept = {"retain": resolve_path(ANCHOR)} if self.retain is None else {"retain_aside": self.retain}
        rows = {role: read_rows(path, role) for role, path in {**files, **kept}.items() if path is not None}
        if len(rows.get("retain_aside", "two")) < 2:
            raise UserError(f"{self.retain}: give two rows or more: a fifth of them is set aside to measure on")
        return tuple(role for role in self._roles() if all("answer" in row.data for row in rows[role]))

    def _measures(self, answered: tuple[str, ...]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for role in self._roles():
            found.append({"use": "probability", "role": role})
            if role in answered and (role != "language" or _latin(read_rows(self._hard()[role], role))):
                found.append({"use": "rouge", "role": role})
        found += [{"use": "extraction_strength", "role": "forget"}, {"use": "exact_memorisation", "role": "forget"}]
        if "forget" in answered:
            found += [{"use": "fluency", "role": "forget"}, {"use": "repetition", "role": "forget"}]
        if self.holdout is not None:
            found += [{"use": "mia", "attack": a} for a in ("loss", "zlib", "min_k", "min_k_plus_plus")]
        return found


def _latin(rows: Sequence[Sample]) -> bool:
    """Whether ROUGE can read every answer: it knows Latin letters and digits only."""
    return all(any(c.isascii() and c.isalnum() for c in row.data["answer"]) for row in rows)


def _fields(use: str) -> frozenset[str]:
    """What a stage can be told."""
    return frozenset(field.name for field in fields(catalog.find("stages", use, "--method").load()))


def _anchored(objective: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """An objective for retain rows that are not the user's: the model is held to its own answers, not to theirs."""
    terms = [_own_answers(term) for term in objective]
    kept = any(term.get("term", term).get("role") == "retain" for term in terms)
    return terms if kept else [*terms, {"use": "kl", "role": "retain"}]


def _own_answers(term: Mapping[str, Any]) -> dict[str, Any]:
    if "term" in term:
        return {**term, "term": _own_answers(term["term"])}
    learns = term["use"] == "nll" and term["role"] == "retain"
    return {**term, "use": "kl"} if learns else dict(term)


def hand_over(run: Path, method: str, out: Path) -> int:
    """Puts the unlearned model and the report where the user asked for them, as hard links where the disk allows it.

    Returns the number of steps that made the model.
    """
    stage = next((run / "stages").glob(f"*-{method}"), None)
    if stage is None:
        raise UserError(f"{run}: no stage is called '{method}', so there is no model to put into {out}")
    model = stage / "model"
    for source in sorted(model.iterdir()):
        link(source, out / source.name)
    if (run / "report.html").is_file():
        shutil.copyfile(run / "report.html", out / "report.html")
    return int(read_json(stage / "DONE")["steps"])


def describe(recipe: Recipe) -> str:
    """One line: what will be done, `--set`s included."""
    stage = recipe.stages[-1]
    lora = getattr(stage.maker, "lora", None)
    how = f"LoRA of rank {lora.rank}" if lora else getattr(stage.maker, "trains", "all weights")
    length = f"{stage.maker.steps} steps" if stage.maker.steps else f"up to {stage.maker.epochs} epochs"
    return f"{stage.name}, {how}, learning rate {stage.maker.optim.lr:g}, {length}"
