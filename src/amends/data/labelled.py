"""What is to be forgotten of a labelled data set, and what stays: by class, at random, by group, by id, or what was poisoned,
or what an auditor flags.

The settings of the field (arXiv 2304.04934, section 4; UGradSL, arXiv 2406.07698): a class, a share of random rows, a
group inside a superclass, planted rows. Where no row of a class is left to train on, that class also leaves `test`, as in
the papers' code, and stands in `test_forget`; so TA and membership inference rest on the classes that stay. Rows under
`ids` or in `file` are whatever an auditor has flagged. With `by: audit` an auditor of the same run decides (the recipe's key
`audit`): until then all training rows stand in `train`, and afterwards the bundle is the one that `by: ids` gives.

Copies of a forgotten row (the same content under another id) leave the retain set as well, since a model that is retrained
on a copy has seen the row; the notes say how many. `valid` rows are set aside from those that stay: never trained on, and
free to choose settings by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SkipValidation

from amends.core.errors import UserError, nearest
from amends.core.rng import stream_seed
from amends.core.spec import Count, Part, Positive, spec
from amends.core.types import Role, Sample
from amends.data.arrays import without_rows
from amends.data.bundle import Bundle, row_print
from amends.data.classes import class_index
from amends.data.rows import numbered_lines, numbered_rows
from amends.data.splits import how_many, shuffled, split_off
from amends.data.text import spread

By = Literal["class", "random", "group", "ids", "poisoned", "audit"]
SHARES: Mapping[str, float] = {"random": 0.1}
"""How much is forgotten where nothing is said: a tenth of random rows, else all that was named."""


@spec
class Labelled:
    """Splits a labelled data set (images or texts) into forget, retain and test: by class, at random, by group, ids, poison."""

    of: Annotated[Any, Part("data"), SkipValidation]
    """The source of the rows; it has the roles train and test."""
    by: By = "class"
    """What is forgotten: classes, random rows, groups inside superclasses, rows by their id, poisoned rows, or what the
    recipe's `audit` flags."""
    classes: tuple[int | str, ...] = ()
    """The classes, or groups, by name or number."""
    share: Positive | None = None
    """How much of those rows is forgotten: a share up to 1, or a number of rows above it; 0.1 of random rows, else all."""
    superclasses: dict[str, tuple[int | str, ...]] = field(default_factory=dict)
    """Classes that become one, by the new name; the old classes are the groups."""
    ids: tuple[str, ...] = ()
    """The rows to forget by their ids; a whole number alone means the place in the training rows."""
    file: str | None = None
    """Or a file with such ids: one a line, or rows with `id` and perhaps `flagged` (.jsonl, .json, .csv)."""
    valid: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of what stays that no model trains on, for choosing settings."""
    limit: Count | dict[str, Count] | None = None
    """Only this many rows of train and test each, or of those named, spread evenly."""

    def load(self, seed: int) -> Bundle:
        """Roles forget, retain, test; valid, test_forget, test_retain and triggered where they apply.

        With `by: audit` train, test and triggered. A source's role `clean` (rows for auditors) stays as it is.
        """
        source = _merged(self._limited(self.of.load(seed)), self.superclasses)
        if self.by == "audit":
            return self._whole(source)
        gone, touched = self._forgotten(source, seed)
        marks = {row.id for row in gone}
        left = [row for row in source["train"] if row.id not in marks]
        kept = _without_copies(left, gone)
        if not kept:
            key = _KEYS[self.by] if self.by != "ids" or self.ids else "file"
            raise UserError(f"data.{key}: every training row is to be forgotten, and none is left to retain: name fewer")
        notes = [*source.notes]
        if len(kept) < len(left):
            notes.append(f"{len(left) - len(kept)} row(s) with the content of a forgotten row are left out of the retain set")
        kept, valid = split_off(kept, self.valid, seed, "valid") if self.valid else (kept, ())
        roles: dict[Role, tuple[Sample, ...]] = {"forget": gone, "retain": kept, "valid": valid}
        roles |= _tests(source, gone, kept, touched, notes) | {"clean": source.roles.get("clean", ())}
        alternatives = {row.id: _other(row, len(source.classes), seed) for row in gone}
        filled = {role: rows for role, rows in roles.items() if rows}
        return Bundle(filled, alternatives, tuple(notes), source.classes).check()

    def flagged(self, seed: int, ids: Iterable[str]) -> Bundle:
        """The bundle once an auditor has decided: these rows are `forget`; `train` stays, for it is what was trained on."""
        split: Bundle = replace(self, by="ids", ids=tuple(ids)).load(seed)
        return split.with_role("train", self.load(seed)["train"])

    def _whole(self, source: Bundle) -> Bundle:
        for key in ("classes", "share", "ids", "file", "valid"):
            if getattr(self, key):
                raise UserError(f"data.{key}: with `by: audit` the auditor says which rows go: leave it out")
        roles = {role: source.roles[role] for role in ("train", "test", "triggered", "clean") if source.roles.get(role)}
        return Bundle(roles, notes=source.notes, classes=source.classes).check()

    def _limited(self, source: Bundle) -> Bundle:
        untaught = without_rows(source["train"], source.classes)  # the model gets an output for each that nothing teaches
        if untaught:
            source = replace(source, notes=(*source.notes, f"no training row has the class {untaught}, which the data names"))
        for role in ("train", "test"):
            limit = self.limit.get(role) if isinstance(self.limit, dict) else self.limit
            source = source.with_role(role, spread(source[role], limit))
        if not all("label" in row.data for role in ("train", "test") for row in source[role]):
            raise UserError("data.of: its rows have no labels: use a source of labelled images or texts")
        return source

    def _forgotten(self, source: Bundle, seed: int) -> tuple[tuple[Sample, ...], Callable[[Sample], bool] | None]:
        """The rows to forget, and which test rows are of their kind, where there is such a kind."""
        train = source["train"]
        kind = None
        if self.by in ("class", "group"):
            kind = self._of_kind(source)
            pool = tuple(row for row in train if kind(row))
        elif self.by == "ids":
            pool = self._flagged(train)
        else:
            pool = tuple(row for row in train if row.data.get("poisoned")) if self.by == "poisoned" else train
        if not pool:
            raise UserError(f"data.by: no training row is to be forgotten by {self.by}: {_REMEDIES[self.by]}")
        share = SHARES.get(self.by, 1.0) if self.share is None else self.share
        many = len(pool) if share == 1 else how_many(share, len(pool), "share")
        if many > len(pool):
            raise UserError(f"data.share: {many} rows were to be forgotten, and {len(pool)} are there: lower it")
        chosen = set(shuffled((row.id for row in pool), seed, "forget")[:many])
        return tuple(row for row in pool if row.id in chosen), kind

    def _of_kind(self, source: Bundle) -> Callable[[Sample], bool]:
        if not self.classes:
            raise UserError(f"data.classes: name what is to be forgotten{nearest('', source.classes)}")
        if self.by == "class":
            labels = {class_index(source.classes, name, "data.classes") for name in self.classes}
            return lambda row: row.data["label"] in labels
        groups = sorted({str(row.data["group"]) for row in source["train"] if "group" in row.data})
        if not groups:
            raise UserError("data.by: rows have no groups: give `superclasses`, or a source whose rows have a group")
        wanted = {str(name) for name in self.classes}
        for name in sorted(wanted - set(groups)):
            raise UserError(f"data.classes: the data has no group '{name}'{nearest(name, groups)}")
        return lambda row: row.data.get("group") in wanted

    def _flagged(self, train: Sequence[Sample]) -> tuple[Sample, ...]:
        wanted = [*self.ids, *(read_ids(Path(self.file).expanduser()) if self.file else ())]
        if not wanted:
            raise UserError("data.ids: give `ids`, or a `file` of them")
        known = {row.id: row for row in train}
        found: dict[str, Sample] = {}
        for name in wanted:
            row = known.get(name) or (train[int(name)] if name.isdigit() and int(name) < len(train) else None)
            if row is None:
                where = self.file or "data.ids"
                raise UserError(f"{where}: no training row has the id {name!r} (the first is {train[0].id!r})")
            found[row.id] = row
        return tuple(found.values())


_KEYS = {"class": "classes", "group": "classes", "ids": "ids", "random": "share", "poisoned": "share"}
"""The key that decides how much is forgotten."""
_REMEDIES = {
    "class": "the class has no training rows", "group": "the group has no training rows", "ids": "give `ids` or a `file`",
    "random": "the source has no rows", "poisoned": "use a source that poisons some, such as `use: poison`",
}  # fmt: skip


def _without_copies(rows: Sequence[Sample], gone: Sequence[Sample]) -> tuple[Sample, ...]:
    """Those of the rows that have another label or another content than every forgotten one."""
    labels, copies = {row.data["label"] for row in gone}, {row_print(row) for row in gone}
    return tuple(row for row in rows if row.data["label"] not in labels or row_print(row) not in copies)


def read_ids(path: Path) -> list[str]:
    """Ids of rows: a line each, or the `id` of each row that is not marked `flagged: false`."""
    if path.suffix.lower() not in (".jsonl", ".json", ".csv"):
        return [line for _, line in numbered_lines(path)]
    found = []
    for line, row in numbered_rows(path):
        if not isinstance(row, Mapping) or not str(row.get("id") or "").strip():
            raise UserError(f"{path}:{line}: has no 'id', and rows are named by it")
        if str(row.get("flagged", True)).strip().lower() not in ("false", "0", "no", "none", ""):
            found.append(str(row["id"]))
    return found


def _merged(source: Bundle, superclasses: Mapping[str, Sequence[int | str]]) -> Bundle:
    """The rows under superclass labels, their class kept as `group`; the source itself where none are named."""
    if not superclasses:
        return source
    upper: dict[int, int] = {}
    for label, (name, members) in enumerate(superclasses.items()):
        for member in members:
            index = class_index(source.classes, member, f"data.superclasses.{name}")
            if upper.setdefault(index, label) != label:
                raise UserError(f"data.superclasses.{name}: '{source.classes[index]}' is in another superclass already")
    out = [name for i, name in enumerate(source.classes) if i not in upper]
    if out:
        raise UserError(f"data.superclasses: '{out[0]}' is in none of them: every class needs one")

    def moved(row: Sample) -> Sample:
        label = row.data["label"]
        return Sample(row.id, {**row.data, "label": upper[label], "group": source.classes[label]})

    roles = {role: tuple(map(moved, rows)) for role, rows in source.roles.items()}
    return Bundle(roles, notes=source.notes, classes=tuple(superclasses))


def _tests(
    source: Bundle, gone: Sequence[Sample], kept: Sequence[Sample], touched: Callable[[Sample], bool] | None, notes: list[str]
) -> dict[Role, tuple[Sample, ...]]:
    """The test roles; a class that nobody trains on any more leaves `test`."""
    stay = {row.data["label"] for row in kept}
    lost = {row.data["label"] for row in gone} - stay
    test = source["test"]
    out = tuple(row for row in test if row.data["label"] in lost)
    if out:
        names = ", ".join(f"'{source.classes[label]}'" for label in sorted(lost))
        notes.append(
            f"all of {names} is forgotten: its {len(out)} test rows left `test`, on which TA and membership inference rest, "
            "and stand in `test_forget`"
        )
    remaining = tuple(row for row in test if row.data["label"] not in lost)
    if test and not remaining:
        raise UserError("data: no test rows are left beside those of the forgotten classes: name fewer")
    roles = {"test": remaining, "triggered": source.roles.get("triggered", ())}
    if touched is None:
        return roles | {"test_forget": out, "test_retain": remaining if out else ()}
    alike = tuple(row for row in test if touched(row))
    return roles | {"test_forget": alike, "test_retain": tuple(row for row in test if not touched(row))}


def _other(row: Sample, num_classes: int, seed: int) -> Sample:
    """The row with another label, which terms that need another answer train towards."""
    step = 1 + stream_seed(seed, "other label", row.id) % max(1, num_classes - 1)
    return row.with_("other", label=(row.data["label"] + step) % num_classes)
