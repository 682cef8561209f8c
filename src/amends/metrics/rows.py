"""What every metric does with rows before it looks at the model: finds them, checks them, asks them differently."""

from __future__ import annotations

from collections.abc import Sequence

from amends.core.errors import UserError
from amends.core.types import Better, Role, Sample
from amends.data.bundle import asked_to_go
from amends.data.scope import FORGOTTEN
from amends.metrics.evaluation import Evaluation

FORGET_LIKE = FORGOTTEN
"""Roles whose answers are meant to go; on every other role the model must stay able."""

CHOICE_ROLES = ("real_authors", "world_facts", "world")
"""Roles that are scored against wrong answers and have no paraphrased answer: TOFU's two, and the generated one."""


def better_for(role: Role) -> Better:
    """Which way a measure of knowledge points on a role.

    >>> better_for("forget"), better_for("retain")
    ('lower', 'higher')
    """
    return "lower" if role in FORGET_LIKE or asked_to_go(role) else "higher"


def rows_of(evaluation: Evaluation, role: Role, fields: Sequence[str] = ()) -> tuple[Sample, ...]:
    """The rows of a role, each known to have every field; raises UserError for an empty role or a missing field."""
    samples = evaluation[role]
    if not samples:
        raise UserError(f"role '{role}' is empty: there is nothing to measure")
    gap = lacking(samples, fields)
    if gap is not None:
        raise missing(role, *gap)
    return samples


def lacking(samples: Sequence[Sample], fields: Sequence[str]) -> tuple[str, str] | None:
    """The first row that lacks a field, as (id, field); `question` is met by a `prompt`, and both call for an answer."""
    for sample in samples:
        asked = bool(sample.data.get("question") or sample.data.get("prompt"))
        if asked and not sample.data.get("answer"):
            return sample.id, "answer"
        for name in fields:
            if not (asked if name == "question" else sample.data.get(name)):
                return sample.id, name
    return None


def missing(role: Role, row: str, name: str) -> UserError:
    """The error for a row without a field that a metric needs."""
    return UserError(f"role '{role}', row {row}: has no '{name}', which this metric needs: add it or leave the metric out")


def listed(sample: Sample, role: Role, name: str) -> list[str]:
    """A field that holds a list of texts; [] when the row has none. Raises UserError for a bare text."""
    texts = sample.data.get(name) or []
    if isinstance(texts, str) or not all(isinstance(t, str) and t.strip() for t in texts):
        raise UserError(f"role '{role}', row {sample.id}: '{name}' must be a list of texts that are not empty, got {texts!r}")
    return list(texts)


def wrong_answers(sample: Sample, role: Role) -> list[Sample]:
    """The row once for each of its wrong answers."""
    return [sample.with_(f"perturbed-{j}", answer=text) for j, text in enumerate(listed(sample, role, "perturbed_answer"))]


def paraphrase(sample: Sample) -> Sample:
    """The row with its question in other words, and its answer too where the data has one."""
    asked = "question" if "question" in sample.data else "prompt"
    changes = {asked: sample.data["paraphrased_question"]}
    return sample.with_("paraphrase", **changes, answer=sample.data.get("paraphrased_answer") or sample.data["answer"])


def required(against: Evaluation | None, name: str) -> Evaluation:
    """The other model's evaluation; raises UserError where there is none."""
    if against is None:
        raise UserError(f"{name} compares with another model and was given none: name the retrained model as its reference")
    return against
