"""The packaged requests are what their card says, their checkers decide what the words say, bad files are named."""

from __future__ import annotations

import json
import re
import runpy
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from amends.constraints.constraint import Constraint
from amends.core.errors import UserError
from amends.core.types import Sample
from amends.data.instructed import constraints_of, request_of
from amends.data.real_requests import CATEGORIES, PACKAGED, RealRequests

ROWS: list[dict[str, Any]] = [json.loads(line) for line in PACKAGED.read_text(encoding="utf-8").splitlines()]
FULL = [row for row in ROWS if len(row["constraints"]) > 1]
DEMANDS = [c for row in ROWS for c in row["constraints"]]
ANSWERS = Path(__file__).parents[1] / "data" / "real_requests_answers.jsonl"


def packaged() -> dict[str, Sample]:
    """Every packaged request by its id."""
    return {s.id: s for rows in RealRequests().load(0).roles.values() for s in rows}


class TestPackaged:
    def test_sizes_are_those_of_the_card(self) -> None:
        assert len(ROWS) == 120 and len(FULL) == 112 and len({row["id"] for row in ROWS}) == 120
        assert {len(row["constraints"]) for row in FULL} <= set(range(2, 7))
        assert Counter(len(row["constraints"]) for row in ROWS if row not in FULL) == {0: 5, 1: 3}
        verifiable = sum(c["kind"] == "verifiable" for c in DEMANDS)
        assert 1 / 3 <= verifiable / len(DEMANDS) <= 1 / 2

    def test_the_card_prints_what_the_command_counts(self) -> None:
        root = Path(__file__).parents[2]
        found = runpy.run_path(str(root / "docs" / "count_requests.py"))
        assert found["tables"]() in (root / "docs" / "real_requests.md").read_text(encoding="utf-8")

    def test_every_row_has_the_form(self) -> None:
        for row in ROWS:
            assert set(row) == {
                "id", "source", "licence", "request", "task", "context", "constraints", "split", "lang", "notes",
            }  # fmt: skip
            assert row["source"] == "written for this set" and row["licence"] == "Apache-2.0"
            assert row["request"].strip() and row["task"].strip() and row["context"] in row["request"]
            assert [c["id"] for c in row["constraints"]] == [f"c{i}" for i in range(1, len(row["constraints"]) + 1)]
            for c in row["constraints"]:
                assert c["text"].strip().endswith((".", "!", '"', "?")), c["text"]
                assert c["category"] in CATEGORIES
                assert (c["kind"] == "verifiable") == ("checker" in c)
                assert "annotators" not in c, "nobody but the author has decided on them"

    def test_no_two_requests_are_nearly_alike(self) -> None:
        words = {row["id"]: set(re.findall(r"\w+", row["request"].lower())) for row in ROWS}
        for (a, one), (b, two) in combinations(words.items(), 2):
            assert len(one & two) / len(one | two) < 0.4, (a, b)

    def test_splits_are_stratified_by_category(self) -> None:
        split = Counter(row["split"] for row in ROWS)
        assert set(split) == {"dev", "test"} and split["dev"] / len(ROWS) == pytest.approx(0.4, abs=0.01)
        of = Counter((row["split"], c["category"]) for row in ROWS for c in row["constraints"])
        for category in CATEGORIES:
            total = of["dev", category] + of["test", category]
            assert abs(of["dev", category] - 0.4 * total) <= 1 + 0.05 * total, category

    def test_it_holds_what_is_tricky(self) -> None:
        assert sum("depends_on" in c for c in DEMANDS) >= 20
        assert sum(not c.get("hard", True) for c in DEMANDS) >= 3
        assert sum(row["notes"].startswith("Conflict") for row in ROWS) == 2
        assert len({row["lang"] for row in ROWS}) >= 6
        assert sum(bool(row["context"]) for row in ROWS) >= 20
        assert any("IGNORE THE ABOVE" in row["context"] for row in ROWS)

    def test_roles(self) -> None:
        data = RealRequests().load(0)
        assert {role: len(rows) for role, rows in data.roles.items()} == {"dev": 45, "test": 67, "control": 8}
        assert all(len(s.data["constraints"]) < 2 for s in data["control"])
        (sample,) = [s for s in data["dev"] + data["test"] if s.id == "mail-two-tones"]
        assert sample.data["constraints"][1] == {
            "id": "c2", "text": "One version is polite and one is stern.", "category": "tone", "depends_on": ["c1"],
        }  # fmt: skip

    def test_a_constraint_changes_the_fingerprint(self, tmp_path: Path) -> None:
        row = {"id": "a", "request": "Hi", "constraints": [{"id": "c1", "text": "Short."}]}
        prints = set()
        for text in ("Short.", "Long."):
            row["constraints"] = [{"id": "c1", "text": text}]
            prints.add(RealRequests(file=written(tmp_path, row)).load(0).fingerprint())
        assert len(prints) == 2

    def test_filters(self) -> None:
        everything = RealRequests().load(0)
        few = RealRequests(limit=5).load(1)
        assert [len(few[r]) for r in ("dev", "test", "control")] == [5, 5, 5]
        order = [s.id for s in everything["test"]]
        assert [s.id for s in few["test"]] == sorted((s.id for s in few["test"]), key=order.index)
        assert few["test"] != RealRequests(limit=5).load(2)["test"]
        assert all(len(s.data["prompt"]) <= 120 for s in RealRequests(longest=120).load(0)["test"])
        french = RealRequests(languages=("fr",)).load(0)
        assert {s.data["lang"] for rows in french.roles.values() for s in rows} == {"fr"}
        left = RealRequests(without=("NumberWords", "persona")).load(0)
        told = json.dumps([s.data["constraints"] for rows in left.roles.values() for s in rows])
        assert "number_words" not in told and "persona" not in told
        with pytest.raises(UserError, match="no request is left: widen"):
            RealRequests(languages=("xx",)).load(0)


BY_HAND = [
    ("mail-out-of-office", "c2", "I am away.\nWrite to Paul.\n", "I am away.\n \nWrite to Paul."),
    ("code-docstring", "c1", "Clip.\n\nParameters\n----------\nx : float", "Clip.\n\nParameters: x"),
    ("code-docstring", "c2", '"""\nLimit x to a range.\n\nMore.', f"{'Limit ' * 13}\n\nMore."),
    ("code-sql-only", "c3", "SELECT 1;\n```", "SELECT 1"),
    ("code-review-comment", "c5", "Could it be local?", "Could it be local? \U0001f642"),
    ("travel-phrasebook", "c2", "Bilet - ticket\nPeron – platform\n", "Bilet: ticket"),
    ("travel-delay-claim", "c1", "Flight [flight number]", "Flight FR 1147"),
    ("school-quiz-fractions", "c3", "1/2 + 5/12", "1/2 + 1/15"),
    ("school-latin-mnemonic", "c2", "My very eager mother just served us nuts", "My very eager mother served us nuts"),
    ("school-simple-photosynthesis", "c5", "Plants eat light.", "Plants eat light (more or less)."),
    ("ad-slogans", "c2", "Old bikes, new roads\nTwo wheels, second life", "Old bikes, new roads\na b c d e f"),
    ("ad-slogans", "c4", "Old bikes", "1. Old bikes"),
    ("law-house-rules", "c1", "".join(f"{i}. Be kind\n" for i in range(1, 7)), "1. a\n2. b\n3. c"),
    ("law-house-rules", "c1", "".join(f"{i}) a\n" for i in range(1, 7)), "".join(f"{i}. a\n" for i in range(1, 8))),
    ("poem-limerick-cat", "c3", "There was\na cat,\nold Pixel.\n", "Pixel was\na cat."),
    ("story-continue-rude", "c1", "One.\nStill one.\n\nTwo.", "One.\n\nTwo.\n\nThree."),
    ("story-two-endings", "c3", f"{'a ' * 60}\n******\n{'b ' * 60}", f"{'a ' * 61}\n******\n{'b ' * 60}"),
    ("story-two-endings", "c3", "a\n******\nb", f"{'a ' * 60}\n******\n{'b ' * 61}"),
    ("job-cv-bullets", "c3", "- Led 12 people. It worked.", "- I led 12 people"),
    ("job-linkedin-post", "c3", "I can weld. C# I cannot.", "I can weld. #welding"),
    ("job-linkedin-post", "c5", "What do you learn?\n", "What do you learn? Tell me."),
    ("sport-training-week", "c2", "Tue - 3 km - 4\nThu - 2 km - 3/10\n", "Tue: 3 km, easy"),
    ("tech-password-policy", "c5", "Please pick a new one.", "Please pick a new One."),
    ("multi-translate-menu", "c3", "A (b c d)\nE (f g h)", "A (b c d)\nE"),
    ("multi-translate-menu", "c5", "Spätzle (2 kinds of cheese)", "Spätzle 11,50"),
    ("job-linkedin-post", "c2", "I can weld.", "I can weld \U0001f525"),
    ("role-tutor-no-answers", "c3", "What holds the water down?", "What? Why?"),
    ("quick-synonyms", "c1", "glad, merry, cheerful, content, jolly", "glad, merry, cheerful, content"),
]  # fmt: skip
"""Request, constraint, a text that meets it and one that does not, where no answer of the file does."""


def demand(request: str, name: str) -> Constraint:
    """One constraint of a packaged request, with its checker."""
    return next(c for c in constraints_of(packaged()[request]) if c.id == name)


class TestChecked:
    def test_every_checker_is_built(self) -> None:
        built = [c for s in packaged().values() for c in request_of(s).constraints]
        assert len(built) == len(DEMANDS)
        for constraint, raw in zip(built, DEMANDS_IN_ORDER, strict=True):
            assert (constraint.text, constraint.verifiable) == (raw["text"], raw["kind"] == "verifiable")

    def test_answers_meet_and_violate_what_they_should(self) -> None:
        answers = [json.loads(line) for line in ANSWERS.read_text(encoding="utf-8").splitlines()]
        samples = packaged()
        assert len(answers) >= 25
        for answer in answers:
            constraints = [c for c in constraints_of(samples[answer["id"]]) if c.verifiable]
            for which, expected in (("good", []), ("flawed", answer["violated"])):
                violated = [c.id for c in constraints if not c.checker.check(answer[which]).passed]
                assert violated == expected, (answer["id"], which)
            assert answer["violated"]
            assert not set(answer["judged_violated"]) & {c.id for c in constraints}

    @pytest.mark.parametrize("request_id, name, passing, failing", BY_HAND)
    def test_patterns_by_hand(self, request_id: str, name: str, passing: str, failing: str) -> None:
        checker = demand(request_id, name).checker
        assert checker.check(passing).passed
        assert not checker.check(failing).passed

    def test_every_pattern_is_tried_on_both_sides(self) -> None:
        tried = {(request, name) for request, name, *_ in BY_HAND}
        for answer in (json.loads(line) for line in ANSWERS.read_text(encoding="utf-8").splitlines()):
            tried |= {(answer["id"], name) for name in answer["violated"]}
        patterns = {
            (row["id"], c["id"]) for row in ROWS for c in row["constraints"] if c.get("checker", {}).get("use") == "matches"
        }
        assert patterns <= tried

    def test_no_pattern_is_slow_on_a_long_answer(self) -> None:
        text = f"{'The quick brown fox - 12, jumps over 3 lazy dogs. ' * 60}\n" * 4
        patterns = [c.checker for s in packaged().values() for c in constraints_of(s) if type(c.checker).__name__ == "Matches"]
        assert len(patterns) > 40
        assert not [p.pattern for p in patterns if "too long" in p.check(text).feedback]


DEMANDS_IN_ORDER = [
    c for role in ("dev", "test", "control") for row in ROWS
    if (row["split"] if row in FULL else "control") == role for c in row["constraints"]
]  # fmt: skip


def written(folder: Path, *rows: Any) -> str:
    """A JSON Lines file of rows."""
    path = folder / "own.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def own(*constraints: Any, **changes: Any) -> dict[str, Any]:
    """A row with constraints."""
    return {"id": "a", "request": "Say hello.", "constraints": list(constraints), **changes}


class TestOwn:
    def test_a_file_of_ones_own_has_no_role_for_controls(self, tmp_path: Path) -> None:
        rows = [own({"id": "c1", "text": "Short.", "checker": {"use": "no_comma"}}), own(id="b", split="dev", lang="de")]
        data = RealRequests(file=written(tmp_path, *rows)).load(0)
        assert data["test"][0].data["constraints"][0]["checker"] == {"use": "no_comma"}
        assert [s.id for s in data["dev"]] == ["b"] and "control" not in data

    @pytest.mark.parametrize(
        "row, message",
        [
            ("a", r"own\.jsonl:1: a row must be an object with keys, not a text"),
            (own(request=" "), r"own\.jsonl:1: key 'request' must be a text that is not blank, not ' '"),
            ({"request": "x", "constraints": []}, r"key 'id' is missing: mend or remove the row"),
            (own("short"), r"key 'constraints' must be a list of objects with 'id' and 'text'"),
            (own({"id": "c1"}), r":1: constraint 1: key 'text' is missing: a constraint needs 'id' and 'text'"),
            (own({"id": "c1", "text": "x", "wieght": 2}), r"key 'wieght' is not known \(did you mean 'weight'\?\)"),
            (own({"id": "c1", "text": "x"}, {"id": "c1", "text": "y"}), r"two constraints have the id 'c1': number them"),
            (own({"id": "c1", "text": "x", "depends_on": ["c2"]}), r"'depends_on' names 'c2', which is no other constraint"),
            (own({"id": "c1", "text": "x", "depends_on": ["c1"]}), r"'depends_on' names 'c1', which is no other constraint"),
            (own({"id": "c1", "text": "x", "depends_on": "c2"}), r"key 'depends_on' must be a list of ids"),
            (own({"id": "c1", "text": "x", "checker": "no_comma"}), r"key 'checker' must be an object that names a checker"),
            (
                own({"id": "c1", "text": "x", "kind": "verifiable"}),
                r"'kind' says 'verifiable' and the constraint has no checker",
            ),
            (own(split="train"), r"key 'split' is 'train' and must be dev or test; leave it out for test"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path: Path, row: Any, message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            RealRequests(file=written(tmp_path, row)).load(0)
        assert "\n" not in str(caught.value)

    def test_an_id_twice_and_an_unknown_checker(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"own\.jsonl:2: id 'a' is that of .*own\.jsonl:1 too: give each row"):
            RealRequests(file=written(tmp_path, own(), own())).load(0)
        row = own({"id": "c1", "text": "x", "checker": {"use": "no_coma"}})
        (sample,) = RealRequests(file=written(tmp_path, row)).load(0)["test"]
        with pytest.raises(UserError, match=r"a\.constraints\.0\.checker\.use: no checker is called 'no_coma'.*no_comma"):
            constraints_of(sample)
