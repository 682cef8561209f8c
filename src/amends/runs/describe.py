"""What a run writes down of stages and rows in words: for the manifest, tables, and the page's samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amends.metrics.evaluation import name_of
from amends.runs.recipe import StageEntry


def describe_method(stage: StageEntry) -> str:
    """`npo + 1 x nll`: what a stage does, for tables."""
    objective = getattr(stage.maker, "objective", None)
    if objective is None:
        on = getattr(stage.maker, "on", None)
        return f"{stage.use} on {' + '.join(on)}" if on else stage.use
    text = " + ".join(f"{w.weight:g} x {type(w.term).__name__} ({w.term.role})" for w in objective)
    return text + (" with LoRA" if getattr(stage.maker, "lora", None) else "")


def shown(role: str, sample: Any, classes: Sequence[str]) -> dict[str, Any]:
    """A row as the page shows it, with room for the models' answers."""
    if "label" in sample.data and "question" not in sample.data:
        asked = sample.data.get("text", f"What is {sample.id}?")
        label = sample.data["label"]
        return {"role": role, "id": sample.id, "question": asked, "expected": name_of(label, classes), "answers": {}}
    asked = sample.data.get("question", sample.data.get("prompt", ""))
    expected = sample.data.get("answer", sample.data.get("text", ""))
    row: dict[str, Any] = {"role": role, "id": sample.id, "question": asked, "expected": expected, "answers": {}}
    return row | ({"keys": list(sample.data["keys"])} if "keys" in sample.data else {})
