"""Loaders of IFEval, IFBench, InFoBench, FollowBench and WildIFEval, on rows of their published forms."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from amends.core.errors import UserError
from amends.data.follow_bench import FollowBench
from amends.data.ifbench import IFBench
from amends.data.ifeval import IFEval
from amends.data.info_bench import InFoBench
from amends.data.instructed import constraints_of, request_of
from amends.data.wild_ifeval import WildIFEval


def written(path: Path, rows: Sequence[Any]) -> str:
    """JSON Lines, or one array for a name that ends in .json."""
    text = json.dumps(rows, indent=1) if path.suffix == ".json" else "\n".join(json.dumps(row) for row in rows)
    path.write_text(text, encoding="utf-8")
    return str(path)


def published(key: int, *demands: tuple[str, dict[str, Any]], prompt: str = "") -> dict[str, Any]:
    """A row of IFEval's form."""
    return {
        "key": key, "prompt": prompt or f"Write about number {key}.", "instruction_id_list": [name for name, _ in demands],
        "kwargs": [given for _, given in demands],
    }  # fmt: skip


COMMA = ("punctuation:no_comma", {})
WORDS = ("length_constraints:number_words", {"relation": "at least", "num_words": 5, "language": None})
GERMAN = ("language:response_language", {"language": "de"})
LETTER = ("keywords:letter_frequency", {"letter": "o", "let_frequency": 6, "let_relation": "less than"})


class TestIFEval:
    def test_rows_keep_what_was_published_without_the_padding(self, tmp_path: Path) -> None:
        data = IFEval(file=written(tmp_path / "a.jsonl", [published(7, COMMA, WORDS)])).load(0)
        (sample,) = data["test"]
        assert sample.id == "ifeval-7" and sample.data["instruction_id_list"] == [COMMA[0], WORDS[0]]
        assert sample.data["kwargs"] == [{}, {"relation": "at least", "num_words": 5}]
        assert [c["id"] for c in sample.data["constraints"]] == ["c1", "c2"]
        json.dumps(sample.data)

    def test_filters(self, tmp_path: Path) -> None:
        rows = [
            published(1, COMMA),
            published(2, GERMAN),
            published(3, WORDS, prompt="x" * 99),
            *(published(i, COMMA) for i in range(4, 20)),
        ]
        file = written(tmp_path / "a.jsonl", rows)  # fmt: skip

        def keys(**filters: Any) -> list[int]:
            return [s.data["key"] for s in IFEval(file=file, **filters).load(3)["test"]]

        assert keys() == list(range(1, 20))
        assert keys(languages=("de",)) == [2] and 2 not in keys(languages=("en",))
        assert keys(without=("response_language",)) == keys(without=(GERMAN[0],)) == keys(languages=("en",))
        assert keys(without=("no_comma",)) == [2, 3]
        assert 3 not in keys(longest=98) and 3 in keys(longest=99)
        assert len(keys(limit=4)) == 4 and keys(limit=4) == sorted(keys(limit=4)) == keys(limit=4)

    def test_constraints(self, tmp_path: Path) -> None:
        (sample,) = IFEval(file=written(tmp_path / "a.jsonl", [published(7, COMMA, WORDS)])).load(0)["test"]
        request = request_of(sample)
        assert (request.id, request.prompt) == ("ifeval-7", "Write about number 7.")
        assert [c.checker.check("a, b").passed for c in request.constraints] == [False, False]
        assert [c.checker.check("a b c d e").passed for c in request.constraints] == [True, True]
        assert [c.category for c in request.constraints] == ["punctuation", "length_constraints"]

    def test_labels_can_be_repaired(self, tmp_path: Path) -> None:
        bullet = ("detectable_format:number_bullet_lists", {"num_bullets": 1})
        file = written(tmp_path / "a.jsonl", [published(1174, LETTER), published(2078, bullet), published(5, COMMA)])
        as_they_are, mended = (IFEval(file=file, labels=labels).load(0) for labels in ("as_published", "repaired"))
        passes = [constraints_of(data["test"][0])[0].checker.check("oooooo").passed for data in (as_they_are, mended)]
        assert passes == [False, True]
        assert [s.id for s in mended["test"]] == ["ifeval-1174", "ifeval-5"], "2078 contradicts itself"
        assert as_they_are.fingerprint() != mended.fingerprint()
        assert IFEval(file=file, labels="repaired", without=("letter_frequency",)).load(0)["test"][0].id == "ifeval-5"

    @pytest.mark.parametrize(
        "row, message",
        [
            ("text", r"a\.jsonl:2: a row must be an object with keys, not a text"),
            ({**published(2, COMMA), "prompt": None}, r"a\.jsonl:2: key 'prompt' must be a text that is not blank, not null"),
            ({**published(2, COMMA), "key": None}, r":2: key 'key' must be a number or a text that names the row"),
            (
                {**published(2, COMMA), "kwargs": [{}, {}]},
                r":2: 1 ids in 'instruction_id_list' and 2 objects in 'kwargs': pair",
            ),
            (
                {**published(2, COMMA), "kwargs": ["{}"]},
                r":2: key 'kwargs' must be a list of objects, one for each instruction",
            ),
            ({**published(2), "kwargs": []}, r":2: 0 ids in"),
            (published(1, COMMA), r":2: id 'ifeval-1' is that of .*:1 too"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path: Path, row: Any, message: str) -> None:
        with pytest.raises(UserError, match=message):
            IFEval(file=written(tmp_path / "a.jsonl", [published(1, COMMA), row])).load(0)

    def test_an_unknown_instruction_is_named_when_it_is_to_be_checked(self, tmp_path: Path) -> None:
        (sample,) = IFEval(file=written(tmp_path / "a.jsonl", [published(1, ("punctuation:no_coma", {}))])).load(0)["test"]
        with pytest.raises(UserError, match=r"ifeval-1\.constraints\.0: .*'punctuation:no_coma' \(did you mean"):
            constraints_of(sample)

    def test_the_file_named_by_the_environment_is_ifeval(self, tmp_path: Path) -> None:
        """The published sizes on the real file where AMENDS_IFEVAL names it, the same identities on a generated one."""
        file = os.environ.get("AMENDS_IFEVAL")
        rows = [published(1, COMMA, WORDS), published(2, GERMAN)]
        data = IFEval(file=file or written(tmp_path / "a.jsonl", rows)).load(0)
        built = [request_of(s).constraints for s in data["test"]]
        assert (len(built), sum(map(len, built))) == ((541, 834) if file else (2, 3))
        assert all(c.verifiable for constraints in built for c in constraints)

    def test_the_hub_has_the_same_rows(self, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        gaps = {"num_words": None, "relation": None}
        rows = [published(1, (COMMA[0], gaps)), published(2, (WORDS[0], {"num_words": 5.0, "relation": "at least"}))]
        datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(str(tmp_path / "hub"))
        (one, two) = IFEval(name=str(tmp_path / "hub")).load(0)["test"]
        assert one.data["kwargs"] == [{}] and two.data["kwargs"] == [{"num_words": 5, "relation": "at least"}]
        with pytest.raises(UserError, match=r"has no split 'test'"):
            WildIFEval(name=str(tmp_path / "hub")).load(0)


class TestIFBench:
    def test_rows_have_ifevals_form(self, tmp_path: Path) -> None:
        row = published(0, ("count:word_count_range", {"min_words": 2, "max_words": 3, "N": None}))
        data = IFBench(file=written(tmp_path / "a.jsonl", [{**row, "key": "0"}])).load(0)
        (sample,) = data["test"]
        assert sample.id == "ifbench-0" and sample.data["kwargs"] == [{"min_words": 2, "max_words": 3}]
        assert sample.data["constraints"][0]["instruction"] == "count:word_count_range"
        with pytest.raises(UserError, match="no request is left"):
            IFBench(file=str(tmp_path / "a.jsonl"), without=("word_count_range",)).load(0)

    def test_the_hubs_form(self, tmp_path: Path) -> None:
        """Keys are texts, and every object of settings has the keys of all kinds."""
        padding = {"N": None, "keyword1": None, "percentage": None, "min_words": None, "max_words": None}
        row = published(
            0, ("count:keywords_multiple", {**padding, "keyword1": "hull"}), ("count:numbers", {**padding, "N": 3.0})
        )
        (sample,) = IFBench(file=written(tmp_path / "a.jsonl", [{**row, "key": "17"}])).load(0)["test"]
        assert (sample.id, sample.data["kwargs"]) == ("ifbench-17", [{"keyword1": "hull"}, {"N": 3}])

    def test_its_checkers_are_those_of_the_package(self, tmp_path: Path) -> None:
        pytest.importorskip("if_verifiable")
        row = published(0, ("count:word_count_range", {"min_words": 2, "max_words": 3}))
        (sample,) = IFBench(file=written(tmp_path / "a.jsonl", [row])).load(0)["test"]
        (constraint,) = constraints_of(sample)
        assert [constraint.checker.check(text).passed for text in ("a b", "a b c d")] == [True, False]


def question(**changes: Any) -> dict[str, Any]:
    """A row of InFoBench's form."""
    row = {
        "id": "domain_oriented_task_0", "input": "Ada, 36", "category": "Law", "instruction": "Write a letter.",
        "decomposed_questions": ["Is the text a letter?", "Is it short?"], "subset": "Hard_set",
        "question_label": [["Format"], ["Number", "Style"]],
    }  # fmt: skip
    return {**row, **changes}


class TestInFoBench:
    def test_questions_become_constraints_for_a_judge(self, tmp_path: Path) -> None:
        rows = [question(), question(id="b", input="", subset="Easy_set")]
        one, two = InFoBench(file=written(tmp_path / "InfoBench.json", rows)).load(0)["test"]
        assert (one.id, one.data["prompt"], two.data["prompt"]) == (
            "infobench-domain_oriented_task_0", "Write a letter.\n\nAda, 36", "Write a letter.",
        )  # fmt: skip
        request = request_of(one)
        assert (request.task, request.context) == ("Write a letter.", "Ada, 36")
        assert [(c.id, c.text, c.category, c.verifiable) for c in request.constraints] == [
            ("q1", "Is the text a letter?", "format", False), ("q2", "Is it short?", "number", False),
        ]  # fmt: skip

    def test_subsets_kinds_and_lists_written_as_text(self, tmp_path: Path) -> None:
        as_text = {key: str(question()[key]) for key in ("decomposed_questions", "question_label")}
        rows = [question(**as_text), question(id="b", subset="Easy_set", question_label=[["Style"], []])]
        file = written(tmp_path / "a.jsonl", rows)
        ids = [s.id for s in InFoBench(file=file, subsets=("Easy_set",)).load(0)["test"]]
        assert ids == [s.id for s in InFoBench(file=file, without=("number",)).load(0)["test"]] == ["infobench-b"]
        first, second = InFoBench(file=file).load(0)["test"]
        assert [c["text"] for c in first.data["constraints"]] == question()["decomposed_questions"]
        assert [c["category"] for c in second.data["constraints"]] == ["style", ""]

    def test_every_kind_of_a_question_counts(self, tmp_path: Path) -> None:
        file = written(tmp_path / "a.jsonl", [question()])
        (sample,) = InFoBench(file=file, subsets=("hard_Set",)).load(0)["test"]
        assert sample.data["kinds"] == ["format", "number", "style"]
        for kind in sample.data["kinds"]:
            with pytest.raises(UserError, match="no request is left"):
                InFoBench(file=file, without=(kind,)).load(0)
        assert len(InFoBench(file=file, without=("linguistic", "content")).load(0)["test"]) == 1

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"instruction": ""}, r"a\.jsonl:1: key 'instruction' must be a text that is not blank"),
            ({"decomposed_questions": "Is it?"}, r":1: key 'decomposed_questions' is a text that is no list: write it as JSON"),
            ({"decomposed_questions": [1]}, r":1: key 'decomposed_questions' must be a list of questions"),
            ({"question_label": [["Format"]]}, r":1: 2 questions and 1 entries in 'question_label'"),
            ({"id": 3}, r":1: key 'id' must be a text that is not blank, not a number"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            InFoBench(file=written(tmp_path / "a.jsonl", [question(**change)])).load(0)


def level(number: int, example: int = 1, category: str = "style", **changes: Any) -> dict[str, Any]:
    """A row of FollowBench's form."""
    wording = " and ".join(["Write a poem", *("shorter" for _ in range(number))])
    row = {"example_id": example, "category": category, "source": "x", "level": number, "instruction": wording, "target": ""}
    return {**row, **changes}


class TestFollowBench:
    def test_a_row_of_level_n_has_n_constraints(self, tmp_path: Path) -> None:
        written(tmp_path / "style_constraints.json", [level(n, e) for e in (1, 2) for n in range(6)])
        data = FollowBench(path=str(tmp_path)).load(0)
        assert [(s.id, s.data["level"]) for s in data["test"][:5]] == [(f"follow-style-1-{n}", n) for n in range(1, 6)]
        assert [len(constraints_of(s)) for s in data["test"]] == [1, 2, 3, 4, 5] * 2
        third = data["test"][2].data
        assert third["group"] == "style-1"
        assert [c["id"] for c in third["constraints"]] == ["level1", "level2", "level3"]
        assert third["constraints"][2]["text"].endswith(f"First: {level(2)['instruction']}\nSecond: {level(3)['instruction']}")

    def test_levels_kinds_and_one_file(self, tmp_path: Path) -> None:
        for kind in ("style", "content"):
            written(tmp_path / f"{kind}_constraints.json", [level(n, category=kind) for n in range(6)])
        ids = [s.id for s in FollowBench(path=str(tmp_path), kinds=("style",), levels=(1, 5)).load(0)["test"]]
        assert ids == ["follow-style-1-1", "follow-style-1-5"]
        assert len(FollowBench(path=str(tmp_path / "content_constraints.json")).load(0)["test"]) == 5

    def test_the_form_of_examples_is_checked_by_code(self, tmp_path: Path) -> None:
        template = "{instruction}\n{{'AI assistant': '{answer}'}}"
        file = written(tmp_path / "example_constraints.json", [level(3, category="example", target=template)])
        (sample,) = FollowBench(path=file).load(0)["test"]
        (constraint,) = constraints_of(sample)
        assert constraint.checker.check("{'AI assistant': 'Brazil (trip)'}").passed
        assert not constraint.checker.check("Brazil trip").passed
        assert not constraint.checker.check("So: {'AI assistant': 'Brazil trip'}").passed

    def test_the_file_of_mixed_kinds_names_the_kind_of_each_demand(self, tmp_path: Path) -> None:
        names = ("mixed", "format", "format, content", "format, content, style")
        written(tmp_path / "mixed_constraints.json", [level(n, category=name) for n, name in enumerate(names)])
        written(tmp_path / "format_constraints.json", [level(n, category="format") for n in range(3)])
        samples = {s.id: s for s in FollowBench(path=str(tmp_path)).load(0)["test"]}
        assert [c["category"] for c in samples["follow-mixed-1-3"].data["constraints"]] == ["format", "content", "style"]
        assert [c["category"] for c in samples["follow-format-1-2"].data["constraints"]] == ["format", "format"]

    def test_all_files_of_the_published_folder(self, tmp_path: Path) -> None:
        """Ids repeat from file to file; examples begin at level 1, keep their form at each, and hold an answer in it."""
        parts = ("format", "content", "content", "format", "style")
        mixed = [level(n, category=", ".join(parts[:n]) or "mixed", target="A story." * (n == 0)) for n in range(6)]
        written(tmp_path / "mixed_constraints.json", mixed)
        for kind in ("content", "situation", "style", "format"):
            written(tmp_path / f"{kind}_constraints.json", [level(n, category=kind, target="(A)") for n in range(6)])
        ends = ("{answer}", "[Bot]\n{answer}", "The answer is: {answer}", "{{'Bot': '{answer}'}}")
        answers = ("Rain.", "[Bot]\nRain.", "The answer is: Rain.", "{'Bot': 'Rain.'}")
        rows = [
            {**level(n, example, "example", target=f"{{instruction}}\n{ends[example]}"), "answer": answers[example]}
            for example in range(4)
            for n in range(1, 6)
        ]
        written(tmp_path / "example_constraints.json", rows)
        samples = FollowBench(path=str(tmp_path)).load(0)["test"]
        assert len(samples) == len({s.id for s in samples}) == 5 * (5 + 4)
        assert [c["category"] for s in samples if s.id == "follow-mixed-1-5" for c in s.data["constraints"]] == list(parts)
        for sample in samples:
            if sample.data["kind"] == "example":
                (form,) = constraints_of(sample)
                example = int(sample.data["group"].rpartition("-")[2])
                assert form.checker.check(answers[example]).passed
                assert example == 0 or not form.checker.check(answers[0]).passed

    def test_a_level_may_repeat_the_one_before(self, tmp_path: Path) -> None:
        rows = [level(0), level(1), level(2, instruction=level(1)["instruction"])]
        samples = FollowBench(path=written(tmp_path / "style_constraints.json", rows)).load(0)["test"]
        assert samples[1].data["constraints"][1]["text"] == f"What this request asks for: {level(1)['instruction']}"

    def test_a_request_may_begin_empty(self, tmp_path: Path) -> None:
        file = written(tmp_path / "mixed_constraints.json", [level(0, instruction=""), level(1)])
        (sample,) = FollowBench(path=file).load(0)["test"]
        assert sample.data["constraints"][0]["text"] == f"What this request asks for: {level(1)['instruction']}"

    @pytest.mark.parametrize(
        "rows, message",
        [
            ([level(0), level(2)], r"style_constraints\.json:\d+: level 1 of example 1 is missing: use the file as published"),
            ([level(0), level(1), level(1)], r"level 1 of example 1 stands at .*style_constraints\.json:\d+ too"),
            ([level(0), level(6)], r"key 'level' must be a whole number from 0 to 5"),
            ([level(0), level(1, instruction=" ")], r"key 'instruction' must be a text that is not blank"),
            ([level(0, example="one")], r"key 'example_id' must be a whole number"),  # type: ignore[arg-type]
            ([level(0), level(1, category="")], r"key 'category' must be a text that is not blank, not ''"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path: Path, rows: list[Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            FollowBench(path=written(tmp_path / "style_constraints.json", rows)).load(0)

    def test_an_example_without_its_form(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"example_constraints\.json:\d+: key 'target' must be a text that is not blank"):
            FollowBench(path=written(tmp_path / "example_constraints.json", [level(1, category="example")])).load(0)

    def test_a_folder_without_its_files(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"holds no file \*_constraints\.json: name the folder"):
            FollowBench(path=str(tmp_path)).load(0)


class TestWildIFEval:
    def test_rows(self, tmp_path: Path) -> None:
        rows = [
            {"conversation_id": "ab1", "task": "A limerick, clean please.", "decomposition": ["A limerick. ", "Clean", ""]},
            {"conversation_id": "ab2", "task": "Do it all.", "decomposition": [f"Demand {i}" for i in range(9)]},
        ]  # fmt: skip
        file = written(tmp_path / "a.jsonl", rows)
        (sample,) = WildIFEval(file=file).load(0)["test"]
        assert (sample.id, sample.data["prompt"]) == ("wild-ab1", rows[0]["task"])
        assert [(c.id, c.text) for c in constraints_of(sample)] == [("c1", "A limerick."), ("c2", "Clean")]
        assert len(WildIFEval(file=file, most=None).load(0)["test"]) == 2

    def test_what_was_asked_is_the_first_message_of_the_conversation(self, tmp_path: Path) -> None:
        """Rows as they are published, and the rows of LMSYS-Chat-1M."""
        rows = [{"conversation_id": name, "decomposition": ["Short."]} for name in ("ab1", "ab2")]
        turns = [{"content": "A limerick.", "role": "user"}, {"content": "There was", "role": "assistant"}]
        said = [{"conversation_id": "ab1", "model": "m", "conversation": turns, "turn": 1, "language": "English"}]
        file, all_said = written(tmp_path / "a.jsonl", rows[:1]), written(tmp_path / "b.jsonl", said)
        (sample,) = WildIFEval(file=file, conversations=all_said).load(0)["test"]
        assert (sample.id, sample.data["prompt"]) == ("wild-ab1", "A limerick.")
        with pytest.raises(UserError, match=r"a\.jsonl:1: key 'task' is missing: .* give rows of that set as conversations"):
            WildIFEval(file=file).load(0)
        with pytest.raises(UserError, match=r"c\.jsonl:2: key 'task' is missing"):
            WildIFEval(file=written(tmp_path / "c.jsonl", rows), conversations=all_said).load(0)
        with pytest.raises(UserError, match=r"d\.jsonl:1: key 'conversation' must be a list of messages"):
            WildIFEval(file=file, conversations=written(tmp_path / "d.jsonl", [{**said[0], "conversation": "Hi"}])).load(0)

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"task": None}, r"a\.jsonl:1: key 'task' must be a text that is not blank, not null: it is the first message of"),
            ({"decomposition": []}, r":1: key 'decomposition' holds no constraint: mend or remove the row"),
            ({"decomposition": "all"}, r":1: key 'decomposition' must be a list of sentences"),
            ({"conversation_id": ""}, r":1: key 'conversation_id' must be a text"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        row = {"conversation_id": "a", "task": "Go.", "decomposition": ["Short."], **change}
        with pytest.raises(UserError, match=message):
            WildIFEval(file=written(tmp_path / "a.jsonl", [row])).load(0)

    def test_files_that_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"gone\.jsonl: no such file"):
            WildIFEval(file=str(tmp_path / "gone.jsonl")).load(0)
        (tmp_path / "a.jsonl").write_text("{", encoding="utf-8")
        with pytest.raises(UserError, match=r"a\.jsonl:1: not valid JSON"):
            WildIFEval(file=str(tmp_path / "a.jsonl")).load(0)
