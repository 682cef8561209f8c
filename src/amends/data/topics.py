"""Texts with a label: a generated world of topics, files of your own, and 20 Newsgroups where it can be had.

The generated world needs no download: each topic has words of its own, invented by the seed, and each text mixes them with
words that all topics share, so that a text can be told but only by its topic's words.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from amends.core.errors import UserError
from amends.core.rng import stream_seed
from amends.core.spec import Count, Fraction, spec
from amends.core.types import Sample
from amends.data.arrays import bundle_of, row_id
from amends.data.bundle import Bundle
from amends.data.rows import numbered_rows
from amends.data.splits import split_off

SYLLABLES = ("ba", "ke", "li", "mo", "nu", "ra", "se", "ti", "vo", "zu", "da", "fe", "gi", "po", "lu", "ma")
SHARED = 40
OWN = 12


@spec
class Topics:
    """A generated world of labelled texts: invented words that belong to a topic among words that all topics share."""

    topics: Annotated[int, Field(ge=2)] = 6
    """How many classes."""
    rows: Count = 60
    """Training texts of each topic; a third as many are tested on."""
    length: Annotated[int, Field(ge=4)] = 14
    """Words a text."""
    told: Fraction = 0.3
    """The share of a text's words that are its topic's own."""

    def load(self, seed: int) -> Bundle:
        """Roles train and test."""
        names = tuple(f"topic-{k}" for k in range(self.topics))
        train, test = (self._rows(split, n, seed) for split, n in (("train", self.rows), ("test", -(-self.rows // 3))))
        return bundle_of(train, test, names)

    def _rows(self, split: str, each: int, seed: int) -> tuple[Sample, ...]:
        return tuple(
            Sample(row_id(split, k, i), {"text": self._text(split, k, i, seed), "label": k})
            for k in range(self.topics) for i in range(each)
        )  # fmt: skip

    def _text(self, split: str, topic: int, row: int, seed: int) -> str:
        words = []
        for place in range(self.length):
            draw = stream_seed(seed, "topic text", split, topic, row, place)
            own = (draw % 1000) / 1000 < self.told
            kind, index = (f"topic {topic}", draw // 1000 % OWN) if own else ("shared", draw // 1000 % SHARED)
            words.append(_word(seed, kind, index))
        return " ".join(words)


def _word(seed: int, kind: str, index: int) -> str:
    draw = stream_seed(seed, "topic word", kind, index)
    return "".join(SYLLABLES[draw // 16**i % 16] for i in range(3 + draw % 2))


@spec
class TextClasses:
    """Your own labelled texts: .jsonl, .json or .csv files with `text` and `label` (a name or a number)."""

    train: Annotated[str, Field(min_length=1)]
    """File of the training rows."""
    test: str | None = None
    """File of the test rows; a fifth of the training rows by default."""
    classes: tuple[str, ...] = ()
    """Names of the classes in the order of their labels; by default sorted as they stand in the files."""

    def load(self, seed: int) -> Bundle:
        """Roles train and test. Raises UserError for the first row that is not one."""
        raw = {"train": _read(Path(self.train).expanduser())}
        raw |= {"test": _read(Path(self.test).expanduser())} if self.test else {}
        labels = {row["label"] for rows in raw.values() for row in rows}
        names = self.classes or tuple(map(str, sorted(labels, key=lambda k: (not isinstance(k, int), k))))
        rows = {
            role: tuple(
                Sample(str(r.get("id") or row_id(role, k, i)), {"text": r["text"], "label": k})
                for i, r in enumerate(found)
                for k in [_label(r["label"], names)]
            )
            for role, found in raw.items()
        }
        train, test = (rows["train"], rows["test"]) if self.test else split_off(rows["train"], 0.2, seed, "test")
        return bundle_of(train, test, names)


def _label(value: Any, names: tuple[str, ...]) -> int:
    if str(value) not in names:
        raise UserError(f"data.classes: a row has the label {str(value)!r}, which is not among {', '.join(names)}")
    return names.index(str(value))


def _read(path: Path) -> list[Mapping[str, Any]]:
    rows = []
    for line, row in numbered_rows(path):
        if not isinstance(row, Mapping) or not isinstance(row.get("text"), str) or not row["text"].strip():
            raise UserError(f"{path}:{line}: has no 'text': a row needs text and label")
        if not isinstance(row.get("label"), (str, int)) or row["label"] == "":
            raise UserError(f"{path}:{line}: has no 'label': a row needs text and label")
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: holds no rows")
    return rows


@spec
class Newsgroups:
    """20 Newsgroups by scikit-learn, from its folder on this disk or fetched: 11,314 + 7,532 texts in 20 classes."""

    folder: str | None = None
    """scikit-learn's data folder; its own default where none is given."""
    download: bool = True
    """Fetch it where it is missing."""

    def load(self, seed: int) -> Bundle:
        """Roles train and test, without headers, footers and quotes, which give the class away."""
        from sklearn.datasets import fetch_20newsgroups

        rows, names = {}, ()
        for role in ("train", "test"):
            try:
                found: Any = fetch_20newsgroups(
                    data_home=self.folder, subset=role, remove=("headers", "footers", "quotes"),
                    download_if_missing=self.download,
                )  # fmt: skip
            except OSError as error:
                raise UserError(f"20 Newsgroups: neither on this disk nor to be fetched ({error}): use `use: topics`") from None
            names = tuple(map(str, found.target_names))
            each = enumerate(zip(found.data, found.target, strict=True))
            rows[role] = tuple(Sample(row_id(role, int(k), i), {"text": t, "label": int(k)}) for i, (t, k) in each if t.strip())
        return bundle_of(rows["train"], rows["test"], names)
