"""What metrics share that ask a model about answers: who is asked, that nothing is asked twice, and how far it can be believed.

A judge is asked about every constraint of an answer, one at a time and without seeing any checker. What it says of constraints
that code decides is no score but its calibration: there the truth is known. What it says of the others is the measurement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from amends.chat.pool import Book, mapped
from amends.constraints.constraint import Constraint, Request
from amends.constraints.looked import passes
from amends.core import fingerprint
from amends.core.chance import no_better
from amends.core.errors import UserError
from amends.core.spec import build_use
from amends.core.types import Role
from amends.data.instructed import request_of
from amends.metrics.compliance import records, requests_of
from amends.metrics.confusion import column, rate_measurement
from amends.metrics.evaluation import Evaluation

AT_ONCE = 32
"""Questions under way at a time; a client bounds its own calls besides."""
Memo = MutableMapping[str, Any]
"""What was answered, by question: equal texts of several arms are asked about once in a run."""
Work = Mapping[str, Callable[[Any], Awaitable[Any]]]
"""Key of a question -> what asks it of a client; its answer is plain JSON."""


class Looked(NamedTuple):
    """One request's answer, constraint by constraint; what rests on a violated constraint is violated as well."""

    judged: tuple[bool | None, ...]
    """Whether each constraint without a checker is met, by the judge; None where it cannot tell."""
    checked: tuple[bool, ...]
    """Whether each of the others is met, by code."""
    counts: tuple[int, int, int, int]
    """The judge against code on the latter (`confusion.column`), each constraint by itself."""
    unread: int
    """Constraints with a checker of which the judge cannot tell."""


# ---------------------------------------------------------------------- who is asked


def judge_of(given: Any) -> Any:
    """The judge of a metric; None is a chat model that is asked for one word."""
    return given if given is not None else build_use("critics", {"use": "judge", "reason": False}, "judge")


def own_client(judge: Any) -> Any:
    """The judge's own client, or that of the one whom it leaves the rest to; None where the model that answers is asked."""
    return getattr(judge, "client", None) or getattr(getattr(judge, "other", None), "client", None)


def judges_itself(judge: Any) -> bool:
    """Whether the model that answers is also the one that judges."""
    return bool(getattr(getattr(judge, "other", judge), "is_a_model", False)) and own_client(judge) is None


def print_of(judge: Any) -> str:
    """Its fingerprint, files that it reads included."""
    return fingerprint.of(judge, fingerprint.contents(judge))


def _client(evaluation: Evaluation, judge: Any) -> Any:
    own = own_client(judge)
    if own is not None or not judges_itself(judge):
        return own
    subject = evaluation.subject
    found = getattr(subject, "client", None) if subject is not None or evaluation.client is None else evaluation.client()
    if found is None:
        raise UserError("judge.client: the model that was measured answers no questions: name a client for the judge")
    return found


# ---------------------------------------------------------------------- asking once


def asked(evaluation: Evaluation, judge: Any, work: Work, doing: str, file: str, memo: Memo) -> dict[str, Any]:
    """The answer to each question; each is asked once in a run, and those that were answered survive a client that fails.

    Raises UserError where some got no answer; the others are in the stage's folder, if there is one.
    """
    left = {key: ask for key, ask in work.items() if key not in memo}
    if left:
        client, folder = _client(evaluation, judge), evaluation.run.folder
        book: Book[Any] | None = None if folder is None else Book(folder / file, _same, _same)

        async def one(key: str) -> Any:
            return await left[key](client)

        keys = list(left)
        with evaluation.run.progress(doing, len(keys)) as bar:
            outcomes = asyncio.run(mapped(one, keys, AT_ONCE, keys, book, lambda *_: bar.advance()))
        memo.update((key, o.value) for key, o in zip(keys, outcomes, strict=True) if o.error is None)
        errors = [o.error for o in outcomes if o.error is not None]
        if errors:
            raise UserError(
                f"{doing}: {len(errors)} of {len(work)} questions got no answer: {errors[0]}; the others are kept: run again "
                "to ask for the rest"
            )
    return {key: memo[key] for key in work}


def _same(value: Any) -> Any:
    return value


# ---------------------------------------------------------------------- constraints


def looked(evaluation: Evaluation, role: Role, judge: Any, memo: Memo) -> dict[str, Looked]:
    """Each answer of the role by code and by the judge, by id in the order of ids; rows without a constraint are left out."""
    requests = sorted((request_of(s) for s in requests_of(evaluation, role) if s.data.get("constraints")), key=lambda r: r.id)
    if not requests:
        raise UserError(f"role '{role}': no row has a constraint; these numbers need one")
    given = records(evaluation, role)
    texts = {r.id: str(given[r.id]["text"]) for r in requests}
    said = evaluation.once(
        f"judged/{role}/{print_of(judge)}", lambda: _verdicts(evaluation, judge, [(r, texts[r.id]) for r in requests], memo)
    )
    return {r.id: _look(r.constraints, texts[r.id], said[r.id]) for r in requests}


def _verdicts(
    evaluation: Evaluation, judge: Any, cases: Sequence[tuple[Request, str]], memo: Memo
) -> dict[str, dict[str, bool | None]]:
    """Row id -> constraint id -> what the judge says."""
    whole, mark = getattr(judge, "batched", False), print_of(judge)
    work, places = {}, []
    for request, text in cases:
        hidden = [replace(c, checker=None) for c in request.constraints]  # type: ignore[type-var]
        for part in [hidden] if whole else [[c] for c in hidden]:
            key = fingerprint.of(mark, request.prompt, text, [(c.id, c.text, c.category) for c in part])
            work[key] = _question(judge, replace(request, constraints=tuple(hidden)), text, part)
            places.append((key, request.id, part))
    answers = asked(evaluation, judge, work, "judging", "judged.jsonl", memo)
    found: dict[str, dict[str, bool | None]] = {request.id: {} for request, _ in cases}
    for key, row, part in places:
        found[row].update(zip((c.id for c in part), answers[key], strict=True))
    return found


def _question(judge: Any, request: Request, text: str, part: Sequence[Constraint]) -> Callable[[Any], Awaitable[Any]]:
    async def ask(client: Any) -> list[bool | None]:
        verdicts, _ = await judge.verdicts(request, text, part, client)
        by_id = {v.constraint: v.passed for v in verdicts}
        return [by_id.get(c.id) for c in part]

    return ask


def _look(constraints: Sequence[Constraint], text: str, said: Mapping[str, bool | None]) -> Looked:
    truth = {c.id: passes(c.checker, text)[0] for c in constraints if c.verifiable}
    counts = [0, 0, 0, 0]
    for row, met in truth.items():
        if (word := said.get(row)) is not None:
            counts[column(met, word)] += 1
    settled: dict[str, bool | None] = {c.id: truth.get(c.id, said.get(c.id)) for c in constraints}
    for _ in constraints:  # a chain is as long as there are constraints, at most
        failed = {row for row, met in settled.items() if met is False}
        settled |= {c.id: False for c in constraints if failed.intersection(c.depends_on)}
    return Looked(
        tuple(settled[c.id] for c in constraints if not c.verifiable),
        tuple(settled[c.id] is True for c in constraints if c.verifiable),
        (counts[0], counts[1], counts[2], counts[3]), sum(said.get(row) is None for row in truth),
    )  # fmt: skip


# ---------------------------------------------------------------------- how far to believe it


def believable(found: Mapping[str, Looked], judge: Any) -> str:
    """What a reader must know of the judge beside its numbers: its rates where code knows better, and who it is."""
    counts_R4 = np.array([one.counts for one in found.values()])
    rates = {what: rate_measurement("", counts_R4, what, version=1) for what in ("tpr", "tnr", "balanced")}
    tp, fn, tn, fp = counts_R4.sum(0)
    unread = sum(one.unread for one in found.values())
    missing = "violated" if tp + fn == 0 else "met" if tn + fp == 0 else ""
    if missing:
        said = f"the judge cannot be calibrated here: of no {missing} constraint that code decides it gave a verdict"
    else:
        said = (
            f"where code decides, the judge calls {rates['tpr'].value:.0%} of {tp + fn} violated constraints violated and "
            f"{rates['tnr'].value:.0%} of {tn + fp} met ones met"
        )
    warning = no_better(rates["tpr"].value, rates["tnr"].value, rates["balanced"].value, rates["balanced"].high)
    more = [f"{unread} verdicts of 'cannot tell' there"] if unread else []
    return "; ".join([said, *more, *([warning] if warning else []), *([ITSELF] if judges_itself(judge) else [])])


ITSELF = "the model that answers judges itself"
