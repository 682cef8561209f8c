"""The page on two levels: its example runs as it stands, and prints what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "bilevel.md").read_text(encoding="utf-8")


def test_the_example_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = re.search(r"```python\n(.*?)```\n\nIt prints\n\n```\n(.*?)```", PAGE, re.DOTALL).groups()  # type: ignore[union-attr]
    exec(compile(code, "docs/bilevel.md", "exec"), {})
    assert capsys.readouterr().out == printed


def test_every_strategy_and_every_bound_is_on_the_page() -> None:
    from dataclasses import fields

    from amends.bilevel import solvers
    from amends.bilevel.trust import Trust
    from amends.core import catalog

    missing = [e.load().__name__ for e in catalog.list_kind("hypergradients") if e.load().__name__ not in PAGE]
    missing += [f.name for f in fields(Trust) if f.name not in ("curvature", "singular") and f.name not in PAGE]
    made = [name for name, part in vars(solvers).items() if part.__class__ is type and part.__module__ == solvers.__name__]
    missing += [name for name in made if name != "Given" and f"`{name}`" not in PAGE]
    assert "Momentum" in made and not missing
