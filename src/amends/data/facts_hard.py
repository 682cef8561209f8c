"""Harder ways to get at the facts of `facts.py`: in other words, over a second fact, and from the value to the name.

They are the hard in-scope rows of the assessment that the survey asks for (arXiv 2402.08787): each is answerable from the
facts of the generated world and from nothing else, and carries the id of the row whose fact it needs.

- paraphrase: the row's own other wording.
- multihop: a place is asked for by its country ("In which country was X born?"), which needs the place, a forgotten fact,
  and the country it lies in, which every model is told in the role `world`. One question needs two forgotten facts: the
  country in which the author of a book was born.
- reverse: the name is asked for ("Which writer was born in Vell?"). Where several authors share the value, a second fact
  is added that no other of them shares; where none does, the row is left out, for it would have more than one answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from amends.core.types import Role, Sample
from amends.data.facts_draw import deal, others
from amends.data.facts_lists import AUTHOR_ATTRIBUTES, COUNTRIES, FIRST, LAST

WRONG = 5
"""Wrong answers of a hard row, as many as an author's own rows have."""

CLUES: Mapping[str, str] = {
    "birthplace": "was born in {value}",
    "birthyear": "was born in the year {value}",
    "genre": "writes {value}",
    "father": "had a father who worked as a {value}",
    "mother": "had a mother who worked as a {value}",
    "debut": "began with the book {value}",
    "prize": "received the {value} Prize",
    "college": "studied at {value} College",
    "home": "lives in {value} today",
    "instrument": "plays the {value}",
    "pet": "keeps a {value}",
    "publisher": "is published by {value} Press",
}
"""What is said of the nameless writer of a reverse question, by attribute."""


@dataclass(frozen=True)
class Hop:
    """How a place is called, and the question that asks for its country through a person."""

    place: str
    question: str
    answer: str


HOPS: Mapping[str, Hop] = {
    "birthplace": Hop("{value}", "In which country was the writer {name} born?", "{name} was born in {value}."),
    "college": Hop("{value} College", "In which country did {name} study?", "{name} studied in {value}."),
    "home": Hop("{value}", "In which country does {name} live today?", "{name} lives in {value} today."),
}
"""The attributes whose values are places."""

BOOK = Hop("", "In which country was the author of {name} born?", "The author of {name} was born in {value}.")
"""From a first book over its author and the author's town to the country."""


@dataclass(frozen=True)
class Author:
    """One author: the rows' ids by attribute, the name, and the value of every attribute that is asked."""

    name: str
    values: Mapping[str, str]
    rows: Mapping[str, Sample]


def lands(authors: Sequence[Author], seed: int) -> dict[str, str]:
    """The country of every place that some author has, dealt out evenly over all the places there are."""
    dealt = {
        hop.place.format(value=value): country
        for a in AUTHOR_ATTRIBUTES
        if (hop := HOPS.get(a.key))
        for value, country in zip(a.values, deal(COUNTRIES, len(a.values), seed, f"country of {a.key}"), strict=True)
    }
    used = {HOPS[key].place.format(value=value) for a in authors for key, value in a.values.items() if key in HOPS}
    return {place: country for place, country in dealt.items() if place in used}


def place_rows(where: Mapping[str, str], first: int, wrong: int, seed: int) -> tuple[Sample, ...]:
    """Rows of the role `world` that say which country each place lies in; ids count on from `first`."""
    rows = []
    for i, (place, country) in enumerate(where.items(), first):
        row_id = f"world-{i:04d}"
        false = others(COUNTRIES, country, wrong, seed, row_id)
        data = {
            "question": f"In which country does {place} lie?",
            "answer": f"{place} lies in {country}.",
            "perturbed_answer": [f"{place} lies in {other}." for other in false],
            "keys": [country],
        }
        rows.append(Sample(row_id, data))
    return tuple(rows)


class Hard:
    """Makes the hard rows of any of the authors of one world; no wrong answer names one of those who are to go."""

    def __init__(self, authors: Sequence[Author], gone: Sequence[Author], where: Mapping[str, str], seed: int) -> None:
        self._where, self._seed = where, seed
        lost = {a.name for a in gone}
        names = [a.name for a in authors if a.name not in lost]
        made_up = (f"{first} {last}" for first in FIRST for last in LAST)
        self._names = names if len(names) > WRONG else [name for name in made_up if name not in lost]
        self._shared = Counter(clue for a in authors for n in (1, 2) for clue in combinations(a.values.items(), n))

    def roles(self, authors: Sequence[Author]) -> dict[Role, tuple[Sample, ...]]:
        """The hard rows of some authors by role; an empty role is left out."""
        made = {
            "paraphrase": tuple(self.paraphrase(row) for a in authors for row in a.rows.values()),
            "multihop": tuple(row for a in authors for row in self.multihop(a)),
            "reverse": tuple(row for a in authors for row in self.reverse(a)),
        }
        return {role: rows for role, rows in made.items() if rows}

    @staticmethod
    def paraphrase(row: Sample) -> Sample:
        """The row in its other wording; its wrong answers have that form already."""
        data = {k: v for k, v in row.data.items() if not k.startswith("paraphrased")}
        asked = {"question": row.data["paraphrased_question"], "answer": row.data["paraphrased_answer"]}
        return Sample(f"{row.id}/paraphrase", {**data, **asked})

    def multihop(self, author: Author) -> Iterator[Sample]:
        """A question for the country of each place; of the first book, for the country of its author's birth."""
        for key, row in author.rows.items():
            if key in HOPS:
                yield self._hop(row, HOPS[key], author.name, self._country(author, key))
            elif key == "debut" and "birthplace" in author.values:
                yield self._hop(row, BOOK, author.values[key], self._country(author, "birthplace"))

    def _country(self, author: Author, key: str) -> str:
        return self._where[HOPS[key].place.format(value=author.values[key])]

    def _hop(self, row: Sample, hop: Hop, name: str, country: str) -> Sample:
        row_id = f"{row.id}/multihop"
        wrong = others(COUNTRIES, country, WRONG, self._seed, row_id)
        return Sample(
            row_id,
            {
                "question": hop.question.format(name=name),
                "answer": hop.answer.format(name=name, value=country),
                "perturbed_answer": [hop.answer.format(name=name, value=other) for other in wrong],
                "keys": [country],
            },
        )

    def reverse(self, author: Author) -> Iterator[Sample]:
        """A question for the name, from each value that names one author alone or together with a second one."""
        for key, row in author.rows.items():
            clues = self._naming(author, key)
            if clues:
                row_id = f"{row.id}/reverse"
                said = " and ".join(CLUES[k].format(value=author.values[k]) for k in clues)
                wrong = others(self._names, author.name, WRONG, self._seed, row_id)
                data = {
                    "question": f"Which writer {said}?",
                    "answer": f"That is {author.name}.",
                    "perturbed_answer": [f"That is {other}." for other in wrong],
                    "keys": [author.name],
                }
                yield Sample(row_id, data)

    def _naming(self, author: Author, key: str) -> tuple[str, ...]:
        """The attributes that name the author, `key` first; a second one that would do alone is passed over."""
        if self._count(author, key) == 1:
            return (key,)
        keys = list(author.values)
        rest = keys[keys.index(key) + 1 :] + keys[: keys.index(key)]
        second = next((k for k in rest if self._count(author, k) > 1 and self._count(author, key, k) == 1), None)
        return (key, second) if second else ()

    def _count(self, author: Author, *keys: str) -> int:
        return self._shared[tuple((k, v) for k, v in author.values.items() if k in keys)]
