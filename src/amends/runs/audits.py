"""Conducts a recipe's audit: the auditors score the training rows, their flags are kept, and the first one's split the data.

Each auditor has a folder `audits/<name>[-seedS]` with `flags.csv`: id, score, flagged, label, and whether the row is known to
be bad, where the data knows it, in the order of the rows. The table can be given to another run as
`data: {use: labelled, by: ids, file: FILE}`; `runs/flag_tables.py` ranks it. What the auditor left to look at, such as a mask,
lies there as `NAME.npy`, and small in `pictures.json`. An auditor whose `DONE` matches is not asked again. It is given the
training rows, those of its role and those it is to take for clean, so that test rows which come later change nothing; what the
data knows of the rows is for measuring, and no auditor gets to see it.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from amends.audit.rows import blind
from amends.core import fingerprint
from amends.core.errors import UserError
from amends.core.rng import stream_seed
from amends.core.types import Sample, Scores
from amends.data.bundle import Bundle
from amends.metrics.evaluation import name_of
from amends.metrics.flags import flag_measurements
from amends.runs.audit_entry import SHOWN, splits
from amends.runs.record import Meter, read_json, write_bytes, write_json, write_text
from amends.runs.stages import StageRun, start_over
from amends.runs.thumbnails import thumbnail

FLAGS = "flags.csv"
PICTURE = 32
"""Most pixels a side of an auditor's own picture in the report."""
COLUMNS = ("id", "score", "flagged", "label", "bad")


def conduct(
    auditor: Any, load: Callable[[], Any], data: Bundle, start: str, run: StageRun, show: int = SHOWN
) -> tuple[Scores, dict[str, Any]]:
    """The auditor's scores and how they came about: made now, or read from the folder where they lie finished.

    Args:
        load: brings the model into memory; not called for scores that lie there.
        start: the fingerprint of the model and of the code; that of the rows which the auditor is given joins it here.
        show: how many of the highest scores the report shows.
    """
    assert run.folder is not None
    roles = dict.fromkeys(("train", auditor.role, getattr(auditor, "clean", None) or "train"))
    given = blind(Bundle({role: data[role] for role in roles}, classes=data.classes))
    key = fingerprint.of(start, given.fingerprint(), auditor, fingerprint.contents(auditor), run.seed)
    if run.record.writes:
        start_over(run.folder, key)
    done = read_json(run.folder / "DONE") if (run.folder / "DONE").is_file() else {}
    if done.get("key") == key:
        found = read_flags(run.folder / FLAGS, done["note"])
        if run.record.writes:  # another number of rows may be asked for
            write_json(run.folder / "shown.json", suspects(found, data[auditor.role], data.classes, show))
        return found, {"seconds": done["seconds"], "cached": True}
    meter = Meter()
    found = auditor.scores(load(), given, run)
    if run.record.writes:
        write_text(run.folder / FLAGS, as_csv(found, data[auditor.role], data.classes))
        write_json(run.folder / "shown.json", suspects(found, data[auditor.role], data.classes, show))
        keep_pictures(found, run.folder)
        write_json(run.folder / "DONE", {"key": key, "seconds": meter.seconds, "note": found.note})
        (run.folder / "checkpoint.safetensors").unlink(missing_ok=True)  # of a model that the auditor trained
    run.say(f"flagged {len(found.flagged)} of {len(found.score)} rows" + (f"; {found.note}" if found.note else ""))
    return found, {"seconds": meter.seconds, "cached": False}


def split(recipe: Any, data: Bundle, found: Scores) -> Bundle:
    """The data from here on: flagged rows are `forget`, the others `retain`; all are `retain` where none is flagged
    (`runs/unflagged.py`).

    A source that is not split by flags stays as it is. Raises UserError where the stages, metrics and attacks that follow
    cannot work with that.
    """
    if not splits(recipe.data):
        return data
    flagged = [row.id for row in data["train"] if row.id in found.flagged]
    if not flagged:
        return data.with_role("retain", data["train"])
    try:
        later = recipe.data.flagged(recipe.seeds[0], flagged)
        recipe.check_data(data, later)
    except UserError as error:
        who = f"audit: {recipe.audit.auditors[0].name} flagged {len(flagged)} of {len(found.score)} rows"
        raise UserError(f"{who}, with which the recipe cannot go on: {error}") from None
    return later


def known_bad(rows: tuple[Sample, ...]) -> dict[str, bool]:
    """Whether each row was planted; empty where the data knows of none."""
    bad = {row.id: bool(row.data.get("poisoned")) for row in rows}
    return bad if any(bad.values()) else {}


def told(auditor: Any, found: Scores, data: Bundle, **about: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One line for the manifest, and the measurements for results.json."""
    rows = data[auditor.role]
    bad, values = known_bad(rows), list(found.score.values())
    line = {
        "auditor": auditor.name, **about, "settings": fingerprint.plain(auditor), "rows": len(rows),
        "flagged": len(found.flagged), "highest": values.count(max(values, default=0.0)),
        "bad": sum(bad.values()) if bad else None, "classes": _per_class(rows, found, bad, data), "note": found.note,
    }  # fmt: skip
    own = {key: about[key] for key in ("model", "seed", "decides")}
    measured = flag_measurements(found, bad, {row.id: row.data.get("label") for row in rows})
    return line, [{"auditor": auditor.name, **own, **m.as_dict()} for m in measured]


def _per_class(rows: tuple[Sample, ...], found: Scores, bad: Mapping[str, bool], data: Bundle) -> list[dict[str, Any]]:
    """How many rows of each class there are, are flagged, and are known to be bad."""
    labels = {row.id: row.data.get("label") for row in rows}
    every = Counter(labels.values())
    flagged = Counter(labels[row] for row in found.flagged)
    planted = Counter(labels[row] for row, is_bad in bad.items() if is_bad)
    return [
        {"class": label_name(label, data.classes), "rows": n, "flagged": flagged[label], "bad": planted[label] if bad else None}
        for label, n in sorted(every.items(), key=lambda item: str(item[0]).zfill(6))
    ]


def label_name(label: Any, classes: tuple[str, ...]) -> str:
    """A label in words; `all` for rows without one."""
    return name_of(label, classes) if isinstance(label, int) else "all"


def suspects(found: Scores, rows: tuple[Sample, ...], classes: tuple[str, ...], show: int = SHOWN) -> list[dict[str, Any]]:
    """The highest scores, with a small picture where the row is an image: what the report shows."""
    bad, by_id = known_bad(rows), {row.id: row for row in rows}
    order = ranked(found)[:show]
    return [
        {
            "id": name, "score": found.score[name], "flagged": name in found.flagged, "bad": bad.get(name),
            "label": label_name(by_id[name].data.get("label"), classes),
            "picture": thumbnail(by_id[name].data["image"]) if "image" in by_id[name].data else None,
        }
        for name in order
    ]  # fmt: skip


def keep_pictures(found: Scores, folder: Path) -> None:
    """Each picture's numbers as `NAME.npy`; all of them small, white their largest value, with captions, in `pictures.json`."""
    for name, picture in found.pictures.items():
        out = io.BytesIO()
        np.save(out, np.asarray(picture.values), allow_pickle=False)
        write_bytes(folder / f"{name}.npy", out.getvalue())
    small = [
        {"name": name, "caption": picture.caption, "picture": thumbnail(_colours(picture.values), PICTURE)}
        for name, picture in found.pictures.items()
    ]
    if small:
        write_json(folder / "pictures.json", small)


def _colours(values: Any) -> np.ndarray:
    """[C, H, W], of a [H, W] as well, as shares of the largest value."""
    array = np.asarray(values, dtype=np.float64)
    return (array[None] if array.ndim == 2 else array) / (array.max() or 1.0)


def ranked(found: Scores) -> list[str]:
    """The ids, the highest score first; equal ones in an order drawn from their ids, which favours no class."""
    return sorted(found.score, key=lambda row: (-found.score[row], stream_seed(0, "ties", row)))


def as_csv(found: Scores, rows: tuple[Sample, ...], classes: tuple[str, ...]) -> str:
    """The table as text, in the rows' order; a score is written so that reading gives the same number."""
    bad = known_bad(rows)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        flagged, truth = str(row.id in found.flagged).lower(), str(bad[row.id]).lower() if bad else ""
        label = label_name(row.data.get("label"), classes)
        writer.writerow([row.id, repr(float(found.score[row.id])), flagged, label, truth])
    return out.getvalue()


def read_flags(path: Any, note: str = "") -> Scores:
    """The scores of a table that `as_csv` wrote. Raises UserError where it was changed into something else."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [(row["id"], float(row["score"]), row["flagged"] == "true") for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError, TypeError):
        raise UserError(f"{path}: is not what the audit wrote; remove {path.parent} to have it made again") from None
    return Scores({row: s for row, s, _ in rows}, frozenset(row for row, _, flagged in rows if flagged), note)
