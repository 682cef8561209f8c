"""`assert_follows(text, spec)` for pytest: an answer, held to a sheet of constraints, with what it breaks in the failure.

    def test_reply(reply):
        assert_follows(reply, "reply.yaml")

With the package installed, pytest finds a fixture of the same name, which looks for sheets beside the test's own file; the
function looks in the working directory. Code decides alone: no model is asked, so a judged constraint is never broken.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amends.constraints.constraint import Verdict
    from amends.constraints.sheet import Sheet


def assert_follows(text: str, spec: Sheet | str | Path, *, loose: bool = False, soft: bool = False) -> tuple[Verdict, ...]:
    """Raises AssertionError that lists every broken constraint; returns all verdicts otherwise.

    Args:
        text: the answer.
        spec: a sheet, or the path of a YAML or JSON file of one.
        loose: forgive markup, a first and a last line (IFEval's eight variants).
        soft: soft constraints count as well.

    Raises:
        UserError: a file that is no sheet, or a sheet none of whose constraints code can decide.
    """
    __tracebackhide__ = True
    from amends.constraints.sheet import Sheet, check_text, load
    from amends.core.errors import UserError

    sheet = spec if isinstance(spec, Sheet) else load(spec)
    verdicts = check_text(sheet, text, loose)
    if all(v.passed is None for v in verdicts):
        raise UserError(
            f"{spec if not isinstance(spec, Sheet) else 'sheet'}: holds nothing that code can check; a judge is needed"
        )
    counts = {c.id: c.text for c in sheet.constraints if c.hard or soft}
    broken = [v for v in verdicts if v.passed is False and v.constraint in counts]
    if broken:
        lines = [f"  {v.constraint}: {counts[v.constraint]} ({v.reason})" for v in broken]
        raise AssertionError("\n".join([f"{len(broken)} of {len(verdicts)} constraints are broken:", *lines]))
    return verdicts
