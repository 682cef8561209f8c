"""What the benchmarks share: the model and rows to measure on, clocks, and how a figure is judged and printed."""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

TINY = {"width": 256, "depth": 8, "heads": 4}
"""A TinyLM of 8 million weights: one step of 8 + 8 rows takes 0.3 to 1 second on one core."""


class Clock(NamedTuple):
    """Seconds of this process: on the wall, and of processor time in user and system mode over all its threads."""

    wall: float
    cpu: float

    @staticmethod
    def now() -> Clock:
        """The two clocks as they stand."""
        return Clock(time.perf_counter(), time.process_time())

    def since(self, start: Clock) -> Clock:
        """What has passed."""
        return Clock(self.wall - start.wall, self.cpu - start.cpu)

    @staticmethod
    def timed(work: Callable[[], object]) -> Clock:
        """What a piece of work takes."""
        start = Clock.now()
        work()
        return Clock.now().since(start)


@dataclass(frozen=True)
class Figure:
    """One measured number: the median of `n` repetitions with their middle half `low`..`high`, and what is wanted of it."""

    name: str
    value: float
    low: float
    high: float
    n: int
    unit: str = "x"
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """`pass`, `FAIL`, or `-` where nothing was promised."""
        if self.at_most is None and self.at_least is None:
            return "-"
        over = self.at_most is not None and self.value > self.at_most
        under = self.at_least is not None and self.value < self.at_least
        return "FAIL" if over or under else "pass"

    @property
    def target(self) -> str:
        """The promise in words."""
        if self.at_most is not None:
            return f"at most {self.at_most:g}"
        return f"at least {self.at_least:g}" if self.at_least is not None else "-"


def figure(name: str, values: Sequence[float], **options: Any) -> Figure:
    """The median of repetitions and their quartiles."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return Figure(name, statistics.median(values), low, high, len(values), **options)


def report(figures: Sequence[Figure], setting: dict[str, Any], options: argparse.Namespace) -> None:
    """Prints the figures as a table, or as JSON; leaves with 1 under `--strict` when one failed."""
    if options.json:
        rows = [{**asdict(f), "target": f.target, "verdict": f.verdict} for f in figures]
        sys.stdout.write(json.dumps({"setting": setting, "figures": rows}, indent=1) + "\n")
    else:
        sys.stdout.write("\n".join([", ".join(f"{k} {v}" for k, v in setting.items()), *map(_line, figures)]) + "\n")
    if options.strict and any(f.verdict == "FAIL" for f in figures):
        sys.exit(1)


def _line(f: Figure) -> str:
    spread = f"{f.low:.3f} .. {f.high:.3f}, n {f.n}"
    note = f"  ({f.note})" if f.note else ""
    return f"{f.verdict:4}  {f.name:52} {f.value:8.3f} {f.unit:4} [{spread}]  {f.target}{note}"


def parser(about: str | None, *, model: bool = True) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    options = argparse.ArgumentParser(description=(about or "").split("\n")[0])
    options.add_argument("--json", action="store_true", help="print JSON")
    options.add_argument("--strict", action="store_true", help="leave with 1 when a target is missed")
    options.add_argument("--reps", type=int, default=5, help="interleaved repetitions; the median counts")
    if model:
        options.add_argument("--model", help="a model folder or hub name; default: a TinyLM with random weights")
        options.add_argument("--tofu", metavar="FOLDER", help="folder with TOFU's files; default: the generated facts")
        options.add_argument("--threads", type=int, default=1, help="threads of torch; CPU time means most with one")
        options.add_argument("--rows", type=int, default=8, help="rows of each role in a step")
        options.add_argument("--batches", type=int, default=4, help="steps of an epoch: how many rows are used at all")
    return options


def prepare(options: argparse.Namespace, shape: dict[str, int] = TINY) -> tuple[Any, Any, dict[str, Any]]:
    """The subject, a bundle of `batches * rows` rows in each of forget and retain, and what to print about them.

    `shape` is that of the TinyLM which stands in where no model is given.
    """
    import torch

    from amends.data.bundle import Bundle
    from amends.data.facts import Facts
    from amends.data.tofu import Tofu
    from amends.engine.guards import every_kth
    from amends.subjects.load import HF
    from amends.subjects.tiny import TinyLM

    torch.set_num_threads(options.threads)
    whole = (Tofu(folder=options.tofu) if options.tofu else Facts()).load(0)
    num = options.batches * options.rows
    data = Bundle({role: tuple(every_kth(whole[role], num)) for role in ("forget", "retain")})
    if any(len(rows) < num for rows in data.roles.values()):
        sys.exit(f"error: the data has no {num} rows in each role: lower --batches or --rows")
    subject = (HF(name=options.model) if options.model else TinyLM(**shape)).load(whole, 0)
    weights = sum(p.numel() for p in subject.module.parameters())
    setting = {
        "model": options.model or "TinyLM", "weights": f"{weights / 1e6:.1f}M", "data": "TOFU" if options.tofu else "facts",
        "rows a role": options.rows, "steps an epoch": options.batches, "threads": options.threads, "torch": torch.__version__,
    }  # fmt: skip
    return subject, data, setting


def twin(subject: Any) -> Any:
    """The same model with weights of its own."""
    other = copy.copy(subject)
    other.adopt(copy.deepcopy(subject.call))
    return other
