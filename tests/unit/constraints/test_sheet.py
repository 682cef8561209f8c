"""Sheets: what a person may write, what comes back, and what is refused with the place and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checker_uses import USES

from amends.constraints.checkers.cases import NoComma
from amends.constraints.checkers.lengths import NumberWords
from amends.constraints.constraint import Constraint
from amends.constraints.looked import verdicts
from amends.constraints.sheet import Sheet, check_text, from_plain, load, parse, save, to_plain
from amends.core import catalog
from amends.core.errors import UserError

TEXT = """
prompt: Write to the landlord.
task: a letter
constraints:
- id: short
  text: Use at most 5 words.
  use: number_words
  args: {num_words: 5, relation: at most}
- id: plain
  checker: no_comma
- id: polite
  text: Be polite.
  hard: false
  weight: 2
  depends_on: [short]
  category: style
- id: end
  checker: {use: end_checker, end_phrase: Yours}
  depends_on: [polite]
"""


def test_a_sheet_is_read_as_it_is_meant() -> None:
    sheet = parse(TEXT)
    short, plain, polite, end = sheet.constraints
    assert short.checker == NumberWords(num_words=5, relation="at most")
    assert (plain.checker, plain.text) == (NoComma(), "Do not use any commas.")
    assert (polite.checker, polite.hard, polite.weight, polite.depends_on) == (None, False, 2.0, ("short",))
    assert end.checker.end_phrase == "Yours"
    assert sheet.request("r").constraints == sheet.constraints
    assert (sheet.prompt, sheet.task) == ("Write to the landlord.", "a letter")


@pytest.mark.parametrize("name", ["sheet.yaml", "sheet.json"])
def test_saving_and_loading_gives_the_sheet_back(tmp_path: Path, name: str) -> None:
    ifbench = {"id": "b", "use": "ifbench", "args": {"type": "count:numbers", "kwargs": {"N": 2}}}
    words = {"id": "w", "use": "mentions", "args": {"words": ["on", "1e5", "é: -"], "how": "any"}}
    items = to_plain(parse(TEXT))["constraints"] + [ifbench, words]
    sheet = from_plain({"prompt": "a: b\n- c", "constraints": items})
    save(sheet, tmp_path / name)
    assert load(tmp_path / name) == sheet
    assert to_plain(load(tmp_path / name)) == to_plain(sheet)


def test_a_sheet_checks_a_text_and_leaves_judges_their_part() -> None:
    sheet = parse(TEXT)
    assert [v.passed for v in check_text(sheet, "We met. Yours")] == [True, True, None, True]
    assert [v.passed for v in check_text(sheet, "One two, three four five six Yours")] == [False, False, False, False]
    short, _, polite, end = check_text(sheet, "One two three four five six Yours")
    assert (short.measured, short.distance) == (7, 2.0)
    assert (polite.reason, end.reason) == (
        "It depends on short, which is violated.", "It depends on polite, which is violated.",
    )  # fmt: skip
    assert [v.passed for v in check_text(sheet, " ")] == [False, False, False, False]


def test_loose_checks_take_the_first_and_last_line_away() -> None:
    sheet = parse("constraints: [{id: a, use: quotation}]")
    answer = 'Sure, here it is:\n"Yes"'
    assert check_text(sheet, answer)[0].passed is False
    assert check_text(sheet, answer, loose=True)[0].passed is True


REFUSED: list[tuple[Any, str]] = [
    ("a", r"f: expected a mapping with `constraints:`, got str"),
    ({"constraints": []}, r"f: constraints: expected a list of at least one constraint"),
    ({"constraint": []}, r"f: constraint: there is no such key \(did you mean 'constraints'\?\)"),
    ({"prompt": 3, "constraints": [{"id": "a", "text": "b"}]}, r"f: prompt: expected text, got 3"),
    (None, r"f: expected a mapping with `constraints:`, got nothing: the file is empty"),
    ({"constraints": [{"id": " ", "use": "title"}]}, r"f: constraints\. \.id: is empty"),
    ({"constraints": [{"id": "a", "use": "title", "depends_on": "b"}]}, r"f: constraints\.a\.depends_on: .*valid list"),
    (
        {"constraints": [{"id": "a", "use": "title", "depends_on": ["a"]}]},
        r"constraints\.a\.depends_on: it depends on itself",
    ),
    ({"constraints": [{"id": "a", "use": "matches", "args": {"pattern": "("}}]}, r"args\.pattern: is no regular expression"),
    ({"constraints": ["a"]}, r"f: constraints\[0\]: expected a mapping"),
    ({"constraints": [{"text": "b"}]}, r"f: constraints\[0\]\.id: .*"),
    ({"constraints": [{"id": "a"}]}, r"f: constraints\.a\.text: "),
    ({"constraints": [{"id": "a", "text": " "}]}, r"f: constraints\.a\.text: a constraint without a checker needs words"),
    ({"constraints": [{"id": "a", "txt": "b"}]}, r"f: constraints\.a\.txt: there is no such key \(did you mean 'text'\?\)"),
    ({"constraints": [{"id": "a", "use": "no_coma"}]}, r"f: constraints\.a\.use: no checker .*'no_comma'"),
    (
        {"constraints": [{"id": "a", "use": "number_words", "args": {"num_wrods": 1}}]},
        r"f: constraints\.a\.args\.num_wrods: NumberWords has no such key \(did you mean 'num_words'\?\)",
    ),
    ({"constraints": [{"id": "a", "use": "number_words"}]}, r"f: constraints\.a\.args\.num_words: "),
    ({"constraints": [{"id": "a", "use": "no_comma", "args": [1]}]}, r"f: constraints\.a\.args: expected a mapping"),
    ({"constraints": [{"id": "a", "args": {}}]}, r"f: constraints\.a\.args: say by `use:`"),
    ({"constraints": [{"id": "a", "use": "title", "checker": "title"}]}, r"f: constraints\.a\.checker: give either"),
    ({"constraints": [{"id": "a", "checker": {"use": "title", "x": 1}}]}, r"f: constraints\.a\.checker\.x: Title has no such"),
    ({"constraints": [{"id": "a", "checker": {"x": 1}}]}, r"f: constraints\.a\.checker: expected a mapping with `use:`"),
    ({"constraints": [{"id": "a", "use": "title", "weight": 0}]}, r"f: constraints\.a\.weight: .*greater than 0"),
    ({"constraints": [{"id": "a", "use": "title"}] * 2}, r"f: constraints\.a: this id stands twice"),
    (
        {"constraints": [{"id": "abc", "use": "title", "depends_on": ["abd"]}]},
        r"f: constraints\.abc\.depends_on: there is no constraint 'abd' \(did you mean 'abc'\?\)",
    ),
    (
        {"constraints": [{"id": i, "use": "title", "depends_on": [j]} for i, j in ("ab", "bc", "cb")]},
        r"f: constraints: a, b, c depend on one another in a circle",
    ),
]


@pytest.mark.parametrize(("value", "message"), REFUSED)
def test_what_is_wrong_is_named_by_file_constraint_and_key(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_plain(value, "f")


def test_files_that_cannot_be_read_and_texts_that_are_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read .*; give a YAML or JSON file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="f: is no YAML"):
        parse("a: [", "f")


def test_every_checker_can_be_named_and_written_by_a_sheet() -> None:
    items = [{"id": f"c{i}", "checker": use} for i, use in enumerate(USES)]
    sheet = from_plain({"constraints": items})
    assert from_plain(to_plain(sheet)) == sheet
    assert {use["use"] for use in USES} == {e.name for e in catalog.list_kind("checkers")} - {"ifbench"}


def test_order_does_not_matter_for_what_depends_on_what() -> None:
    chain = [
        Constraint(id=i, text="t", checker=NoComma() if i == "c" else None, depends_on=tuple(j))
        for i, j in ("ab", "bc", ("c", ""))
    ]
    for constraints in (chain, chain[::-1]):
        assert [v.passed for v in verdicts(constraints, "a, b")] == [False, False, False]
    assert isinstance(Sheet(tuple(chain)).request("r").id, str)


def test_a_sheet_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none/s\.yaml: could not be written \(No such file or directory\): give another file"):
        save(Sheet((Constraint(id="a", text="b", depends_on=()),)), tmp_path / "none" / "s.yaml")
