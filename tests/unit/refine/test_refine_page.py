"""The page on refining: its example prints what it says, and every reason, part and arm is on it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from amends.core import catalog
from amends.refine.parts import StopReason

PAGE = (Path(__file__).parents[3] / "docs" / "refine.md").read_text(encoding="utf-8")


def test_the_example_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = re.search(r"```python\n(.*?)```\n\nIt prints\n\n```\n(.*?)```", PAGE, re.DOTALL).groups()  # type: ignore[union-attr]
    exec(compile(code, "docs/refine.md", "exec"), {"__name__": "example"})
    assert capsys.readouterr().out == printed


def test_everything_that_can_be_chosen_is_on_the_page() -> None:
    arms = next(kind for kind, places in catalog.PLACES.items() if "refine/arms/*.py" in places)
    names = [e.name for kind in ("critics", "decomposers") for e in catalog.list_kind(kind)]
    names += [e.name for e in catalog.list_kind(arms) if e.origin.startswith("amends.refine.arms")]
    names += get_args(StopReason)
    assert len(names) >= 2 + 5 + 6 + 8
    assert not [name for name in names if f"`{name}`" not in PAGE]
