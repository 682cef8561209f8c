"""Generated stories about the people of `facts.py`: MUSE's shape (arXiv 2407.06460) without anybody's copyright.

Each person has one story that tells every fact once, in one of two wordings and in an order of its own, with sentences in
between that say nothing. Questions ask for the facts, and their answers stand verbatim in the story, as in MUSE. What a
model was never told it can only guess, so forgetting has a ground truth. Splits are by person: nobody is in two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from amends.core.rng import stream_seed
from amends.core.spec import Count, Natural, NonNegative, Positive, spec
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.data.facts import Facts
from amends.data.facts_lists import AUTHOR_ATTRIBUTES
from amends.data.muse import Document, bundle_of
from amends.data.splits import how_many, shuffled

BETWEEN = (
    "Those who knew the street still speak of it.", "Nobody at the time thought much of this.",
    "It was a long winter, and the roads were bad.", "The letters from those years are lost.",
    "So at least the parish register has it.", "Neighbours tell it differently, but they agree on this much.",
    "There is a photograph, though a blurred one.", "Much of the rest is hearsay.",
    "That was how things were done in those days.", "A cousin once doubted it, and then took it back.",
)  # fmt: skip
"""Sentences without a fact."""


@spec
class Stories:
    """Generated stories about fictitious people, with questions: MUSE's shape, no download, every fact known exactly."""

    people: Annotated[int, Field(ge=4, le=1000)] = 32
    """How many people there are; each has one story."""
    facts: Annotated[int, Field(ge=1, le=len(AUTHOR_ATTRIBUTES))] = 6
    """Facts of each story, and questions about it."""
    forget: Positive = 0.125
    """People to forget: a share when below 1, else a number."""
    holdout: NonNegative = 0.25
    """People that no model trains on: a share when below 1, else a number."""
    retain_train: Positive = 0.5
    """Of those who stay, the ones that unlearning may train on (MUSE's R_reg): a share when below 1, else a number."""
    examples: Natural = 3
    """Questions about countries that are shown before a question."""
    passage: Annotated[int, Field(ge=20)] = 24
    """Words of a passage; a story has one for each three facts or so."""
    prefix: Count = 8
    """Words of a passage that are given when the rest is to be recited."""

    def load(self, seed: int) -> Bundle:
        """Roles forget, retain, retain_train, holdout, forget_verbatim, forget_qa, retain_qa and the examples."""
        world = Facts(authors=self.people, questions=self.facts, forget=self.forget, holdout=self.holdout).load(seed)
        people = {role: _by_person(world[role]) for role in ("forget", "retain", "holdout") if role in world}
        stay = people["retain"]
        trained = min(how_many(self.retain_train, len(stay), "retain_train"), len(stay) - 1)
        people |= {"retain": stay[trained:], "retain_train": stay[:trained]}
        texts = {role: [_story(rows, seed) for rows in part] for role, part in people.items() if part}
        asked = {f"{role}_qa": [_question(s) for rows in people[role] for s in rows] for role in ("forget", "retain")}
        shown = shuffled([s.id for s in world["world"]], seed, "examples")[: self.examples]
        rows = [_question(s) for s in world["world"] if s.id in shown]
        asked |= {f"examples_{role}": rows for role in ("forget", "retain") if rows}
        return bundle_of(texts, asked, self.passage, self.prefix)


def _by_person(rows: Sequence[Sample]) -> list[list[Sample]]:
    people: dict[str, list[Sample]] = {}
    for row in rows:
        people.setdefault(row.id.rpartition("-")[0], []).append(row)
    return list(people.values())


def _story(rows: Sequence[Sample], seed: int) -> Document:
    """The facts of one person, told."""
    person = rows[0].id.rpartition("-")[0]
    between = shuffled(BETWEEN, seed, "stories", person)
    told = []
    by_id = {row.id: row for row in rows}
    for number, row_id in enumerate(shuffled(by_id, seed, "stories", person)):
        wording = ("answer", "paraphrased_answer")[stream_seed(seed, "stories", "wording", row_id) % 2]
        told += [by_id[row_id].data[wording]] + ([between[number // 2 % len(between)]] if number % 2 else [])
    return Document(person.replace("facts", "person"), " ".join(told))


def _question(row: Sample) -> Sample:
    """The question, with the fact alone as its answer."""
    return Sample(f"{row.id}-question", {"question": row.data["question"], "answer": row.data["keys"][0]})
