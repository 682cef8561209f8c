"""Many prompts at once: outcomes, and the book of what is finished."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from chat_world import Echo, say
from hypothesis import given
from hypothesis import strategies as st

from amends.chat.budget import Budget
from amends.chat.client import Client, Params
from amends.chat.pool import Book, mapped
from amends.core.errors import UserError


def book(path: Path) -> Book[str]:
    """Texts in a file."""
    return Book(path, lambda text: text, str)


def run_mapped(echo: Client, texts: list[str], **options: Any) -> list[Any]:
    """Texts of the outcomes, or their errors."""

    async def work(text: str) -> str:
        return (await echo.complete(say(text), Params())).text.split("/")[0]

    made = asyncio.run(mapped(work, texts, **options))
    return [m.value if m.error is None else type(m.error).__name__ for m in made]


def test_a_failure_leaves_the_others_and_a_second_run_does_only_what_failed(tmp_path: Path) -> None:
    texts, path = list("abcde"), tmp_path / "book.jsonl"
    ended: list[int] = []
    options = {"keys": texts, "book": book(path), "at_once": 2, "done": lambda i, _: ended.append(i)}
    assert run_mapped(Echo(fails_on="c"), texts, **options) == ["a", "b", "ClientError", "d", "e"]
    assert sorted(ended) == [0, 1, 2, 3, 4]
    path.write_text(path.read_text() + '{"key": "c", "va')  # killed while it wrote
    echo = Echo()
    assert run_mapped(echo, texts, **options) == texts
    assert echo.asked == ["c"]
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()][-1] == "c"


def test_after_the_budget_nothing_more_is_begun() -> None:
    echo = Echo()
    assert run_mapped(Budget(echo, calls=3), list("abcdefgh"), at_once=2).count("BudgetSpent") == 5
    assert len(echo.asked) == 3


@given(st.integers(1, 5), st.integers(0, 9))
def test_no_more_are_under_way_than_allowed_and_order_is_kept(at_once: int, num: int) -> None:
    now = most = 0

    async def work(i: int) -> int:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _ in range((i * 7) % 5):
            await asyncio.sleep(0)
        now -= 1
        return i

    made = asyncio.run(mapped(work, list(range(num)), at_once))
    assert [m.value for m in made] == list(range(num))
    assert most <= at_once


def test_a_defect_ends_the_map_as_itself_and_a_damaged_book_is_named(tmp_path: Path) -> None:
    async def broken(text: str) -> str:
        raise UserError("one sentence")

    with pytest.raises(UserError, match="one sentence"):
        asyncio.run(mapped(broken, ["a", "b"]))
    (tmp_path / "b").write_text('{"key": "a"}\n')
    with pytest.raises(UserError, match="line 1: is no finished item"):
        run_mapped(Echo(), ["a"], keys=["a"], book=book(tmp_path / "b"))
