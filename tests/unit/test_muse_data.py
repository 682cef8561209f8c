"""Text to forget: how files are cut, ids that stay, splits that may not meet, generated stories."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amends.core.errors import UserError
from amends.core.types import Sample
from amends.data.muse import SPLITS, Document, Folders, check_disjoint, passages, recital
from amends.data.stories import Stories

WORD = st.text(alphabet="abcxyz", min_size=1, max_size=3)
SPACE = st.sampled_from([" ", "  ", "\n", "\n\n\t"])
TEXT = st.lists(st.tuples(WORD, SPACE), min_size=1, max_size=60).map(lambda pairs: "".join(w + s for w, s in pairs))


def words(start: int, count: int) -> str:
    """Words that stand nowhere else."""
    return " ".join(f"w{i}" for i in range(start, start + count))


def corpus(root: Path, **texts: str) -> Path:
    """A folder a split, each with one file."""
    for i, split in enumerate(("forget", "retain", "retain_train", "holdout")):
        (root / split).mkdir(parents=True)
        (root / split / "one.txt").write_text(texts.get(split, words(1000 * i, 50)))
    return root


def folders(root: Path, **options: object) -> Folders:
    """The source of a folder a split."""
    paths = {split: str(root / split) for split in ("forget", "retain", "retain_train", "holdout")}
    return Folders(**{**paths, "passage": 10, "prefix": 4, **options})  # type: ignore[arg-type]


class TestPassages:
    @given(TEXT, st.integers(1, 25))
    def test_every_word_stands_in_one_passage_in_order(self, text: str, size: int) -> None:
        cut = passages(text, size)
        assert " ".join(cut).split() == text.split()
        lengths = [len(p.split()) for p in cut]
        assert all(n == size for n in lengths[:-1])
        assert len(cut) == 1 or size / 2 <= lengths[-1] < 1.5 * size

    @given(TEXT, TEXT, st.integers(1, 10))
    def test_text_added_at_the_end_moves_no_passage_but_the_last(self, text: str, more: str, size: int) -> None:
        before = passages(text, size)
        assert passages(f"{text} {more}", size)[: len(before) - 1] == before[:-1]

    @given(TEXT, st.integers(1, 25))
    def test_a_recital_is_the_passage_in_two(self, text: str, prefix: int) -> None:
        (whole,) = passages(text, 1000)
        row = recital(Sample("x", {"text": whole}), prefix)
        if len(whole.split()) <= prefix:
            assert row is None
        else:
            assert row is not None
            assert row.data["prompt"] + row.data["answer"] == whole
            assert len(row.data["prompt"].split()) == prefix


class TestFolders:
    def test_roles_rows_and_ids(self, tmp_path: Path) -> None:
        root = corpus(tmp_path, forget=words(0, 23))
        (root / "forget" / "sub").mkdir()
        (root / "forget" / "sub" / "one.txt").write_text(words(500, 6))
        (root / "qa.jsonl").write_text(json.dumps({"question": "Who?", "answer": "w1"}))
        data = folders(root, forget_qa=str(root / "qa.jsonl"), examples_retain=str(root / "qa.jsonl")).load(0)
        assert [s.id for s in data["forget"]] == ["forget-one-0000", "forget-one-0001", "forget-sub/one-0000"]
        assert [len(s.data["text"].split()) for s in data["forget"]] == [10, 13, 6]
        assert [s.id for s in data["forget_verbatim"]] == [f"{s.id}/recital" for s in data["forget"]]
        assert {role: len(rows) for role, rows in data.roles.items()} == {
            "forget": 3, "retain": 5, "retain_train": 5, "holdout": 5, "forget_verbatim": 3, "forget_qa": 1,
            "examples_retain": 1,
        }  # fmt: skip
        assert data.notes == ()

    def test_another_file_changes_no_id(self, tmp_path: Path) -> None:
        root = corpus(tmp_path)
        before = folders(root).load(0)["forget"]
        (root / "forget" / "a first file.txt").write_text(words(700, 30))
        after = {s.id: s for s in folders(root).load(0)["forget"]}
        assert all(after[s.id] == s for s in before) and len(after) == len(before) + 3

    def test_one_file_will_do_and_short_passages_are_not_recited(self, tmp_path: Path) -> None:
        root = corpus(tmp_path, forget=words(0, 12))
        (root / "forget" / "two.txt").write_text(words(100, 3))
        data = folders(root, holdout=None).load(0)
        assert "holdout" not in data and data.notes == ("1 of 2 forget passages have no more than 4 words: not recited",)
        assert len(folders(root, forget=str(root / "forget" / "one.txt")).load(0)["forget"]) == 1

    @pytest.mark.parametrize(
        "make, message",
        [
            (lambda r: (r / "retain" / "one.txt").unlink(), r"data\.retain: .*none"),
            (lambda r: (r / "retain" / "one.txt").write_text(" \n"), r"one\.txt holds no text"),
            (lambda r: (r / "retain" / "one.txt").write_bytes(b"a\n\xff"), r"one\.txt:2: not UTF-8"),
            (lambda r: (r / "retain").rename(r / "gone"), r"data\.retain: .*no such folder"),
        ],
    )
    def test_a_split_without_text_is_named(self, tmp_path: Path, make: object, message: str) -> None:
        root = corpus(tmp_path)
        make(root)  # type: ignore[operator]
        with pytest.raises(UserError, match=message):
            folders(root).load(0)

    def test_questions_are_questions(self, tmp_path: Path) -> None:
        (tmp_path / "qa.jsonl").write_text('{"text": "no question"}')
        with pytest.raises(UserError, match=r"qa\.jsonl: row forget_qa-0000: .*'question'"):
            folders(corpus(tmp_path / "c"), forget_qa=str(tmp_path / "qa.jsonl")).load(0)


class TestDisjointness:
    @pytest.mark.parametrize("offset", range(12))
    def test_a_shared_passage_is_found_wherever_it_begins(self, tmp_path: Path, offset: int) -> None:
        shared = words(9000, 10)
        root = corpus(
            tmp_path, retain=f"{words(6000, 17)} {shared} {words(7000, 8)}", retain_train=f"{words(8000, offset)} {shared}"
        )
        with pytest.raises(UserError, match="'retain.*' .*share a passage, 'w90"):
            folders(root).load(0)

    def test_whatever_the_space_between_its_words(self) -> None:
        texts = {"retain": [Document("a", words(0, 10))], "holdout": [Document("b", words(0, 10).replace(" ", "\n "))]}
        with pytest.raises(UserError, match=r"'retain' \(a\) and 'holdout' \(b\)|'holdout' \(b\) and 'retain' \(a\)"):
            check_disjoint(texts, 10)

    @given(st.integers(1, 30), st.integers(0, 40), st.integers(0, 40), st.integers(0, 10))
    def test_never_less_than_half_a_passage_and_always_a_whole_one(self, size: int, left: int, right: int, shared: int) -> None:
        a = f"{words(0, left)} {words(9000, shared)} {words(100, 30)}"
        b = f"{words(200, right)} {words(9000, shared)} {words(300, 30)}"
        texts = {"forget": [Document("a", a)], "retain": [Document("b", b)]}
        try:
            check_disjoint(texts, size)
        except UserError:
            assert 2 * shared >= size
        else:
            assert shared < size

    def test_the_same_words_twice_in_one_split_are_nobodys_business(self) -> None:
        check_disjoint({"retain": [Document("a", words(0, 40)), Document("b", words(0, 40))]}, 10)

    def test_a_short_document_is_compared_whole(self) -> None:
        short = [Document("a", "three words only")]
        with pytest.raises(UserError, match="three words only"):
            check_disjoint({"forget": short, "retain": [Document("b", "three  words only")]}, 50)
        check_disjoint({"forget": short, "retain": [Document("b", "three words only and more")]}, 50)


class TestStories:
    @pytest.mark.parametrize("seed", range(3))
    def test_every_answer_stands_verbatim_in_its_persons_story_and_in_no_other_splits(self, seed: int) -> None:
        data = Stories().load(seed)
        for role in ("forget", "retain"):
            stories: dict[str, str] = {}
            for s in data[role]:
                person = s.id.split("-")[2]
                stories[person] = f"{stories.get(person, '')} {s.data['text']}"
            for row in data[f"{role}_qa"]:
                assert row.data["answer"] in stories[row.id.split("-")[1]]
        people = {role: {s.id.split("-")[2] for s in data[role]} for role in ("forget", "retain", "retain_train", "holdout")}
        assert sum(map(len, people.values())) == len(set().union(*people.values())) == 32

    def test_no_two_people_are_told_of_in_the_same_words(self) -> None:
        data = Stories().load(0)
        texts = {role: [Document(s.id, s.data["text"]) for s in data[role]] for role in SPLITS}
        check_disjoint(texts, 40)

    def test_more_to_forget_are_the_same_people_and_more(self) -> None:
        few, many = (Stories(people=40, forget=n, holdout=0.0).load(0) for n in (4, 8))
        assert [s.data for s in few["forget"]] == [s.data for s in many["forget"][-len(few["forget"]) :]]
        assert "holdout" not in few

    def test_the_seed_makes_the_world(self) -> None:
        one, same, other = Stories().load(1), Stories().load(1), Stories().load(2)
        assert one.fingerprint() == same.fingerprint() != other.fingerprint()
        assert {len(s.data["text"].split()) for s in one["forget"]} != {1}

    def test_without_examples(self) -> None:
        assert "examples_forget" not in Stories(examples=0).load(0)
