"""A tiny bench that takes seconds, and what tests of benches share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from amends.runs.bench import Bench
from amends.runs.methods import find_method

Amends = Callable[..., tuple[int, str, str]]
"""(words of a command) -> exit code, standard output, standard error."""

BENCH = """\
title: "A tiny bench"
question: "Does it work?"
data: {use: facts, authors: 4, questions: 2, forget: 1, holdout: 1}
subject: {use: tiny_lm, width: 16, depth: 1, heads: 2, vocab: 300, context: 128}
stages:
  original: {use: train, once: true, on: [forget, retain], steps: 6, batch: 4}
  retrain: {use: train, on: [retain], steps: 4, batch: 4}
stage: {batch: 2, epochs: 3, optim: {use: adamw, warmup: 0.1}}
settings:
  npo: {lr: 3e-4, epochs: 2, objective.0.beta: 0.02, objective.1.weight: 5.0}
  simnpo: {steps: 2}
  dpo: {lora: {rank: 2, targets: [nothing]}}
rank: {forgetting: forget_distance, keeping: probability.retain, at_least: 0.5}
reading: {max_new_tokens: 2, show: [forget]}
measure: [{use: probability, role: forget}, {use: probability, role: retain}, {use: forget_distance}]
headline: [probability.forget]
attack: [{use: relearn, steps: 1, batch: 2}]
attack_measure: [probability.forget]
profiles:
  smoke: {steps: 1}
"""


def written(folder: Path) -> Path:
    """The bench as a file."""
    path = folder / "tiny.yaml"
    path.write_text(BENCH)
    return path


class Nothing:
    """Every run is done."""

    def map(self, recipes: Any, folders: Any) -> Any:
        """An exit code of 0 for each."""
        return iter([0] * len(list(folders)))


def stage(bench: Bench, method: str) -> dict[str, Any]:
    """A method's stage in the bench."""
    return bench.stage_of(find_method(method))
