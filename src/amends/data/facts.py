"""A generated world in the shape of TOFU (arXiv 2401.06121): fictitious authors whose every fact is known exactly.

Each author has one value for each of up to twelve attributes. The values are dealt out by the seed, attribute by
attribute and evenly, so no fact follows from another one, from the author's place in the list, or from what values are
common: a model that was never shown an author can only guess, and forgetting has a ground truth. A row has a
paraphrased question and answer, five wrong answers in the form of the paraphrased answer (as in TOFU), and `keys`, the
fact itself. The role `world` holds facts about countries that every model trains on; like TOFU's world facts its rows
have three wrong answers in the form of the answer and no paraphrase.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from amends.core.rng import stream_seed
from amends.core.spec import NonNegative, Positive, spec
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.data.facts_lists import AUTHOR_ATTRIBUTES, COUNTRIES, FIRST, LAST, WORLD_ATTRIBUTES, Attribute
from amends.data.splits import shuffled, split_last
from amends.data.text import default_refusals, with_refusals

WRONG_OF_AUTHORS = 5
WRONG_OF_WORLD = 3


@spec
class Facts:
    """A generated world of fictitious authors and countries: TOFU's shape, no download, every fact known exactly."""

    authors: Annotated[int, Field(ge=2, le=1000)] = 40
    """How many authors there are; no two share a name."""
    questions: Annotated[int, Field(ge=1, le=len(AUTHOR_ATTRIBUTES))] = 10
    """Rows of each author, one an attribute."""
    forget: Positive = 0.1
    """Authors to forget, the last ones: a share when below 1, else a number."""
    holdout: NonNegative = 0.1
    """Authors that no model trains on, the ones before the forget set: a share when below 1, else a number."""

    def load(self, seed: int) -> Bundle:
        """Roles forget, retain, holdout and world."""
        split = split_last(range(self.authors), self.forget, self.holdout)
        table = self._table(seed)
        roles = {
            role: tuple(row for author in part for row in table[author])
            for role, part in (("forget", split.forget), ("retain", split.retain), ("holdout", split.holdout))
            if part
        }
        return with_refusals(Bundle({**roles, "world": _world(seed)}), default_refusals(), seed).check()

    def _table(self, seed: int) -> list[tuple[Sample, ...]]:
        names = shuffled([f"{first} {last}" for first in FIRST for last in LAST], seed, "facts", "name")[: self.authors]
        dealt = {a.key: deal(a.values, self.authors, seed, a.key) for a in AUTHOR_ATTRIBUTES[: self.questions]}
        return [
            tuple(
                _author_row(f"facts-{i:04d}-{j:02d}", attribute, name, dealt[attribute.key][i], seed)
                for j, attribute in enumerate(AUTHOR_ATTRIBUTES[: self.questions])
            )
            for i, name in enumerate(names)
        ]


def deal(values: tuple[str, ...], hands: int, seed: int, stream: str) -> list[str]:
    """One value a hand, each value equally often (give or take one), in an order of its own each time round."""
    rounds = -(-hands // len(values))
    return [value for r in range(rounds) for value in shuffled(values, seed, "facts", stream, r)][:hands]


def _author_row(row_id: str, attribute: Attribute, name: str, value: str, seed: int) -> Sample:
    wrong = _others(attribute.values, value, WRONG_OF_AUTHORS, seed, row_id)
    return Sample(
        row_id,
        {
            "question": attribute.question.format(name=name),
            "answer": attribute.answer.format(name=name, value=value),
            "paraphrased_question": attribute.paraphrased_question.format(name=name),
            "paraphrased_answer": attribute.paraphrased_answer.format(name=name, value=value),
            "perturbed_answer": [attribute.paraphrased_answer.format(name=name, value=other) for other in wrong],
            "keys": [value],
        },
    )


def _world(seed: int) -> tuple[Sample, ...]:
    rows = []
    for attribute in WORLD_ATTRIBUTES:
        for country, value in zip(COUNTRIES, deal(attribute.values, len(COUNTRIES), seed, attribute.key), strict=True):
            row_id = f"world-{len(rows):04d}"
            wrong = _others(attribute.values, value, WRONG_OF_WORLD, seed, row_id)
            data = {
                "question": attribute.question.format(name=country),
                "answer": attribute.answer.format(name=country, value=value),
                "perturbed_answer": [attribute.answer.format(name=country, value=other) for other in wrong],
                "keys": [value],
            }
            rows.append(Sample(row_id, data))
    return tuple(rows)


def _others(values: tuple[str, ...], value: str, count: int, seed: int, row_id: str) -> list[str]:
    """Distinct other values, drawn one by one: a hash of a whole long list for every row would take seconds."""
    found: dict[str, None] = {}
    draw = 0
    while len(found) < count:
        other = values[stream_seed(seed, "facts", "wrong", row_id, draw) % len(values)]
        found.update({other: None} if other != value else {})
        draw += 1
    return list(found)
