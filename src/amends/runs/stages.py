"""One stage of a run: made, or taken from the folder where a matching `DONE` lies; then read for the measurements.

`DONE` holds a fingerprint of the stage's configuration, its inputs' fingerprints and the code; a stage whose mark
matches is not made again. An unfinished one goes on from its checkpoint.
"""

from __future__ import annotations

import gzip
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from amends.core import fingerprint
from amends.core.errors import UserError
from amends.core.rng import rng
from amends.metrics.evaluation import Evaluation, Tokens
from amends.runs import console
from amends.runs.record import Folder, read_json, write_bytes, write_json, write_text


@dataclass
class StageRun:
    """The context of one stage: logs go to the run's files, bars and sentences to the screen."""

    label: str
    seed: int
    folder: Path | None
    record: Folder
    mirrors: list[Any] = field(default_factory=list)

    def rng(self, *names: object) -> Any:
        """The stream of this stage's seed."""
        return rng(self.seed, *names)

    def log(self, **values: Any) -> None:
        """One line of metrics.jsonl, and every mirror."""
        line = {"time": round(time.time(), 3), "stage": self.label, "seed": self.seed, **values}
        self.record.append("metrics.jsonl", json.dumps(line))
        for mirror in self.mirrors:
            mirror.log(line)

    def say(self, text: str) -> None:
        """A sentence on the screen and in log.txt."""
        if self.record.writes:
            console.say(f"  {self.label}: {text}")
            self.record.append("log.txt", f"{self.label}: {text}")

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Any]:
        """A bar that appears after two seconds, in the main process."""
        with console.progress(f"{self.label}: {label}", total) as bar:
            yield bar if self.record.writes else _Hidden()


class _Hidden:
    def advance(self, steps: int = 1, **shown: object) -> None:
        """Another process draws."""


@dataclass(frozen=True)
class Done:
    """What a finished stage left: its fingerprint and its cost."""

    key: str
    seconds: float
    peak_bytes: int
    steps: int
    stopped: str | None
    weights: str
    parameters: int
    suppression: str | None = None
    sparsity: float | None = None
    """The share of prunable weights that is 0."""

    @staticmethod
    def read(folder: Path, key: str) -> Done | None:
        """The mark in a folder, if its key matches."""
        if not (folder / "DONE").is_file():
            return None
        values = read_json(folder / "DONE")
        return Done(**values) if values.get("key") == key else None

    def write(self, folder: Path) -> None:
        """Marks the stage as made, and drops what only a resume would need."""
        write_json(folder / "DONE", asdict(self))
        for leftover in ("checkpoint.safetensors", "best.safetensors"):
            (folder / leftover).unlink(missing_ok=True)


def start_over(folder: Path, key: str) -> None:
    """Empties a stage's folder unless what lies in it was begun under the same key."""
    if (folder / "KEY").is_file() and (folder / "KEY").read_text() == key:
        return
    shutil.rmtree(folder, ignore_errors=True)
    write_text(folder / "KEY", key)


def load_weights(subject: Any, folder: Path) -> None:
    """Puts saved safetensors back into a subject built from the same spec; a stage may have made another architecture."""
    from safetensors.torch import load_file

    if hasattr(subject, "restore"):  # it keeps something else than weights
        subject.restore(folder)
        return
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: the weights are gone; remove {folder.parent} to have the stage made again")
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if type(subject.module).__name__ not in config.get("architectures", [type(subject.module).__name__]):
        subject.load(folder)
        return
    result = subject.module.load_state_dict({k: v for file in files for k, v in load_file(file).items()}, strict=False)
    tied = {k for held in ("_tied_weights_keys", "all_tied_weights_keys") for k in getattr(subject.module, held, None) or ()}
    lost = [k for k in result.missing_keys if k not in tied]
    if lost or result.unexpected_keys:
        raise RuntimeError(f"{folder}: weights do not fit the model ({[*lost, *result.unexpected_keys][:3]})")


def save_reading(evaluation: Evaluation, path: Path, key: str) -> None:
    """Keeps token tables, answers and what metrics kept, so that measuring again needs no model."""
    tokens = {i: {k: v.tolist() for k, v in _columns(t).items()} for i, t in evaluation._tokens.items()}
    text = json.dumps({"key": key, "tokens": tokens, "answers": evaluation._answers, "kept": evaluation.kept})
    write_bytes(path, gzip.compress(text.encode(), compresslevel=3, mtime=0))


def load_reading(evaluation: Evaluation, path: Path, key: str) -> bool:
    """Fills an evaluation from the file; False when there is none for this key."""
    if not path.is_file():
        return False
    kept = json.loads(gzip.decompress(path.read_bytes()))
    if kept["key"] != key:
        return False
    evaluation._tokens.update({i: Tokens(**{k: np.array(v) for k, v in t.items()}) for i, t in kept["tokens"].items()})
    evaluation._answers.update(kept["answers"])
    evaluation.kept.update(kept["kept"])
    return True


def _columns(tokens: Tokens) -> Mapping[str, Any]:
    return {k: v for k in ("logp", "hit", "mean", "std", "classes") if (v := getattr(tokens, k)) is not None}


def weights_print(subject: Any) -> str:
    """The fingerprint of a subject's weights, or of what it keeps in their place."""
    if hasattr(subject, "fingerprint"):
        return subject.fingerprint()
    return fingerprint.of_weights(sorted(subject.module.state_dict().items()))


def save_model(subject: Any, folder: Path) -> None:
    """Saves a model whole or not at all: under another name first. Raises UserError when the disk refuses."""
    temporary = folder.with_name("model.tmp")
    for leftover in (temporary, folder):  # of a process that was killed before it could mark the stage as made
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        subject.save(temporary)
        temporary.replace(folder)
    except Exception as error:
        if isinstance(error, OSError) or "os error" in str(error).lower():
            raise UserError(f"{folder}: could not be written ({error}); free some space and run again") from None
        raise
