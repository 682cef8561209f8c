"""The ledger of one mended answer in the terminal: version by version, what was asked, found and changed, and what it
cost."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from amends.chat.client import Usage
from amends.constraints.constraint import Verdict
from amends.constraints.looked import EMPTY
from amends.core.shown import shown
from amends.refine.parts import Attempt, Refined, StopReason
from amends.refine.saved import from_json, to_json
from amends.refine.scoring import changed, tally

__all__ = ["WHY", "as_text", "from_json", "ledger", "to_json"]

WHY: dict[StopReason, str] = {
    "all_pass": "no constraint is violated",
    "max_rounds": "the rounds are used up",
    "no_change": "the model returned the version as it was",
    "cycle": "the model returned an earlier version",
    "budget": "the budget is used up",
    "no_progress": "several rounds brought nothing better",
    "critic_error": "the critic failed",
    "client_error": "the model could not be asked",
}
"""Each reason to stop, in words."""
_HOW = {"response": "first answer", "refinement": "rewritten", "repair": "repaired by code", "sample": "drawn again"}
_MARK = {True: ("met", "green"), False: ("violated", "red"), None: ("cannot tell", "yellow")}


def ledger(refined: Refined) -> RenderableType:
    """What to print with rich: a table a version, then why it ended, what it cost and what to know."""
    parts: list[RenderableType] = [Text(f"{refined.request.id}: {_line(refined.request.prompt, 200)}", style="bold")]
    for attempt in refined.attempts:
        parts += [Text(""), _heading(refined, attempt)]
        parts += [_table(refined, attempt)] if attempt.verdicts else []
        parts += [Text(f"  warning: {shown(warning)}", style="yellow") for warning in attempt.warnings]
    parts += [Text(""), Text(f"Ended because {WHY[refined.stopped]}. {_verdict(refined)}", style="bold")]
    parts.append(Text(f"In all: {_cost(refined.usage)}."))
    parts += [Text(f"note: {_line(note)}") for note in refined.notes]
    return Group(*parts)


def as_text(refined: Refined, width: int = 100) -> str:
    """The ledger without colours, for files and tests."""
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(ledger(refined))
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def _heading(refined: Refined, attempt: Attempt) -> Text:
    source = "" if attempt.parent is None else f" from {attempt.parent}"
    before = refined.attempts[attempt.parent].text if attempt.parent is not None else ""
    edits = "" if attempt.parent is None else f", {changed(before, attempt.text):.0%} of its words changed"
    heading = Text(f"Version {attempt.k}")
    heading.append(" (best)" if attempt.k == refined.best else "", style="bold green")
    return heading.append(f": {_HOW[attempt.how]}{source}{edits}; {_cost(attempt.usage)}")


def _table(refined: Refined, attempt: Attempt) -> Table:
    table = Table(box=None, padding=(0, 1), show_header=True, header_style="dim")
    for column, least in (("", 2), ("constraint", 12), ("verdict", 9), ("found -> asked", 12), ("by", 7)):
        table.add_column(column, overflow="fold", min_width=least)
    texts = {c.id: c.text + ("" if c.hard else " (soft)") for c in refined.request.constraints}
    for v in attempt.verdicts:
        word, colour = _MARK[v.passed]
        news = _news(refined, attempt, v)
        text = Text(_line(texts.get(v.constraint, "")))
        table.add_row(Text(_line(v.constraint)), text, Text(word + news, style=colour), Text(_found(v)), v.source)
    return table


def _news(refined: Refined, attempt: Attempt, verdict: Verdict) -> str:
    """Whether this verdict changed against the version it was made from."""
    if attempt.parent is None:
        return ""
    before = next((v.passed for v in refined.attempts[attempt.parent].verdicts if v.constraint == verdict.constraint), None)
    if before is verdict.passed or before is None or verdict.passed is None:
        return ""
    return ", mended" if verdict.passed else ", broken"


def _found(verdict: Verdict) -> str:
    """Measured and asked for where a checker measured and that is why; else the reason: a judge's, or what it rests on."""
    for_itself = verdict.passed is not False or (verdict.distance > 0 and verdict.reason != EMPTY)
    if verdict.target and (for_itself or not verdict.reason):
        return f"{_line(str(verdict.measured), 40)} -> {_line(verdict.target, 60)}"
    return _line(verdict.reason, 120)


def _verdict(refined: Refined) -> str:
    met, of, unknown = tally(refined.attempts[refined.best].verdicts)
    if not of:
        return f"Version {refined.best} is returned; nothing was checked."
    open_ = f", {unknown} could not be told" if unknown else ""
    return f"Version {refined.best} is returned: {met} of {of} constraints met{open_}."


def _cost(usage: Usage) -> str:
    if usage == Usage():
        return "at no cost"
    calls = f"{usage.calls} call{'' if usage.calls == 1 else 's'}"
    if usage.cached:
        calls += " (from the cache)" if usage.cached == usage.calls else f" ({usage.cached} from the cache)"
    return f"{calls}, {usage.prompt_tokens} tokens read, {usage.new_tokens} written, {usage.seconds:.1f} s"


def _line(text: Any, longest: int | None = None) -> str:
    line = shown(" ".join(str(text).split()))
    return line if longest is None or len(line) <= longest else line[: longest - 3] + "..."
