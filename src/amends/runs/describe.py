"""What a run writes down of stages and rows in words: for the manifest, tables, and the page's samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from amends.metrics.evaluation import name_of
from amends.runs.recipe import StageEntry
from amends.runs.stages import Done


def describe_method(stage: StageEntry) -> str:
    """`npo + 1 x nll`: what a stage does, for tables."""
    objective = getattr(stage.maker, "objective", None)
    if hasattr(stage.maker, "matched"):
        return _arm(stage)
    if objective is None:
        on = getattr(stage.maker, "on", None)
        return f"{stage.use} on {' + '.join(on)}" if on else stage.use
    text = " + ".join(f"{w.weight:g} x {type(w.term).__name__} ({w.term.role})" for w in objective)
    return text + (" with LoRA" if getattr(stage.maker, "lora", None) else "")


def _arm(stage: StageEntry) -> str:
    """`DeCRIM with Judge, up to 3 rounds`: how the requests are answered."""
    arm = stage.maker.by
    critic, rounds = getattr(arm, "critic", None), getattr(arm, "rounds", None)
    said = type(arm).__name__ + (f" with {type(critic).__name__}" if critic is not None else "")
    said += f", up to {rounds} round{'s' if rounds != 1 else ''}" if rounds is not None else ""
    return said + (f", as many calls as {stage.start}" if stage.maker.matched else "")


def told(stage: StageEntry, seed: int, done: Done, cached: bool) -> dict[str, Any]:
    """A made stage's line in the manifest."""
    return {
        "name": stage.name, "seed": seed, "use": stage.use, "from": stage.start, "kind": stage.kind,
        "method": describe_method(stage), "seconds": done.seconds, "peak_bytes": done.peak_bytes, "steps": done.steps,
        "stopped": done.stopped, "weights": done.weights, "parameters": done.parameters, "cached": cached,
        **({"suppression": done.suppression} if done.suppression else {}),
        **({"against": stage.against} if stage.against else {}),
        **({} if done.sparsity is None else {"sparsity": done.sparsity}),
    }  # fmt: skip


def sampled(rows: Sequence[Any], answers: Mapping[str, str]) -> Iterator[str]:
    """Three questions of a role, evenly spread, and what the model answers."""
    for sample in rows[:: max(1, len(rows) // 3)][:3]:
        asked = str(sample.data.get("question", sample.data.get("prompt", "")))
        yield f"Q {asked}  A {' '.join(answers[sample.id].split())[:160]}"


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
