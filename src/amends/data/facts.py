"""A generated world in the shape of TOFU (arXiv 2401.06121): fictitious authors whose every fact is known exactly.

Each author has one value for each of up to twelve attributes. The values are dealt out by the seed, attribute by
attribute and evenly, so no fact follows from another one, from the author's place in the list, or from what values are
common: a model that was never shown an author can only guess, and forgetting has a ground truth. A row has a
paraphrased question and answer, five wrong answers in the form of the paraphrased answer (as in TOFU), and `keys`, the
fact itself. The role `world` holds facts about countries that every model trains on; like TOFU's world facts its rows
have three wrong answers in the form of the answer and no paraphrase.

What TOFU does not have: `hard` adds the roles paraphrase, multihop and reverse, the same facts got at in other ways
(`facts_hard.py`), and `neighbour` splits authors off who are known to every model and whom unlearning never sees. Both are
off by default, and leave every other row as it is, so that older results stay comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from amends.core.errors import UserError
from amends.core.spec import NonNegative, Positive, spec
from amends.core.types import Role, Sample
from amends.data.bundle import Bundle
from amends.data.facts_draw import deal, others
from amends.data.facts_hard import Author, Hard, lands, place_rows
from amends.data.facts_lists import AUTHOR_ATTRIBUTES, COUNTRIES, FIRST, LAST, WORLD_ATTRIBUTES, Attribute
from amends.data.splits import how_many, shuffled, split_last
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
    neighbour: NonNegative = 0.0
    """Authors that every model trains on and unlearning never sees, out of those to retain: a share of them, or a number."""
    hard: bool = False
    """Add paraphrase, multihop and reverse: the forgotten facts got at in other ways; and `forms`, the same of those kept."""

    def load(self, seed: int) -> Bundle:
        """Roles forget, retain, holdout and world; with `neighbour` and `hard` the roles they name."""
        split = split_last(range(self.authors), self.forget, self.holdout)
        stay, near = self._neighbours(split.retain)
        people = self._people(seed)
        parts = (("forget", split.forget), ("retain", stay), ("neighbour", near), ("holdout", split.holdout))
        roles: dict[Role, tuple[Sample, ...]] = {
            role: tuple(row for i in part for row in people[i].rows.values()) for role, part in parts if part
        }
        bundle = Bundle({**roles, "world": _world(seed)})
        if self.hard:
            bundle = _with_hard(bundle, people, [people[i] for i in split.forget], [people[i] for i in stay], seed)
        return with_refusals(bundle, default_refusals(), seed).check()

    def _neighbours(self, retained: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """The authors that stay in the retain set, and the last ones of it, who leave it."""
        many = how_many(self.neighbour, len(retained), "neighbour")
        if many >= len(retained):
            raise UserError(f"data: neighbour={many} leaves none of {len(retained)} authors to retain: lower it")
        return retained[: len(retained) - many], retained[len(retained) - many :]

    def _people(self, seed: int) -> list[Author]:
        names = shuffled([f"{first} {last}" for first in FIRST for last in LAST], seed, "facts", "name")[: self.authors]
        asked = AUTHOR_ATTRIBUTES[: self.questions]
        dealt = {a.key: deal(a.values, self.authors, seed, a.key) for a in asked}
        return [
            Author(
                name,
                {a.key: dealt[a.key][i] for a in asked},
                {a.key: _author_row(f"facts-{i:04d}-{j:02d}", a, name, dealt[a.key][i], seed) for j, a in enumerate(asked)},
            )
            for i, name in enumerate(names)
        ]


def _with_hard(bundle: Bundle, people: list[Author], gone: list[Author], stay: list[Author], seed: int) -> Bundle:
    """The hard roles of those who go; the same questions of those who stay as `forms`, from which a model can learn to answer
    such questions at all; and where the places lie."""
    where = lands(people, seed)
    hard = Hard(people, gone, where, seed)
    roles = hard.roles(gone)
    forms = tuple(row for rows in hard.roles(stay).values() for row in rows)
    world = (*bundle["world"], *place_rows(where, len(bundle["world"]), WRONG_OF_WORLD, seed))
    lost = len(bundle["forget"]) - len(roles.get("reverse", ()))
    said = f"reverse: {lost} of {len(bundle['forget'])} facts are not asked backwards, for no question would have one answer"
    return replace(bundle, roles={**bundle.roles, **roles, "forms": forms, "world": world}, notes=(said,) if lost else ())


def _author_row(row_id: str, attribute: Attribute, name: str, value: str, seed: int) -> Sample:
    wrong = others(attribute.values, value, WRONG_OF_AUTHORS, seed, row_id)
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
            wrong = others(attribute.values, value, WRONG_OF_WORLD, seed, row_id)
            data = {
                "question": attribute.question.format(name=country),
                "answer": attribute.answer.format(name=country, value=value),
                "perturbed_answer": [attribute.answer.format(name=country, value=other) for other in wrong],
                "keys": [value],
            }
            rows.append(Sample(row_id, data))
    return tuple(rows)
