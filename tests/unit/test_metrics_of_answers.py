"""Metrics that read greedy answers, on hand-built tables: values worked by hand, the package's own ROUGE, limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from amends.core.errors import UserError
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.metrics.accuracy import Accuracy, mentions
from amends.metrics.evaluation import Evaluation
from amends.metrics.fluency import Fluency, Repetition, ngram_entropy
from amends.metrics.rouge import Rouge


def row(name: str, **data: Any) -> Sample:
    """A question row."""
    return Sample(name, {"question": f"What of {name}?", "answer": f"It is {name}", **data})


def given(rows: Sequence[Sample], answers: Mapping[str, str]) -> Evaluation:
    """An evaluation of one role under two names, whose answers are given; any other would need the model, which is None."""
    return Evaluation(None, Bundle({"forget": tuple(rows), "retain": tuple(rows)}), _answers=dict(answers))


class TestRouge:
    @pytest.mark.parametrize(
        "answer, expected",
        [
            ("It is a", 1.0),
            ("The town was, I think: It. Is. A. (or b)", 1.0),  # recall: what is added costs nothing
            ("is a", 2 / 3),
            ("a is it", 1 / 3),  # order counts
            ("", 0.0),
        ],
    )
    def test_recall_by_hand(self, answer: str, expected: float) -> None:
        found = Rouge().measure(given([row("a")], {"a": answer}), None)
        assert found.value == pytest.approx(expected)

    def test_stems_and_agrees_with_the_package(self) -> None:
        from rouge_score.rouge_scorer import RougeScorer

        truth, answer = "she wrote novels about running rivers", "He writes a novel, about the rivers that run"
        found = Rouge(role="retain").measure(given([row("a", answer=truth)], {"a": answer}), None)
        assert found.value == RougeScorer(["rougeL"], use_stemmer=True).score(truth, answer)["rougeL"].recall
        assert found.value > RougeScorer(["rougeL"], use_stemmer=False).score(truth, answer)["rougeL"].recall

    def test_a_paraphrased_question_is_compared_with_the_plain_answer(self) -> None:
        rows = [row("a", paraphrased_question="And a?", paraphrased_answer="quite another wording")]
        found = Rouge(paraphrased_question=True).measure(given(rows, {"a/paraphrase": "It is a"}), None)
        assert (found.name, found.value, list(found.scores)) == ("rouge.forget.paraphrase", 1.0, ["a"])

    def test_an_answer_the_tokenizer_cannot_read_is_refused(self) -> None:
        evaluation = given([row("a", answer="東京")], {"a": "東京"})
        with pytest.raises(UserError, match="role 'forget', row a.*Latin"):
            Rouge().measure(evaluation, None)


class TestAccuracy:
    @pytest.mark.parametrize(
        "text, key, there",
        [
            ("Born in LISBON.", "Lisbon", True),
            ("The Lisbonites", "Lisbon", False),
            ("by William Shakespeares Juliet", "Shakespeare", True),
            ("a Shakespearean play", "Shakespeare", True),
            ("Lisbon's port", "Lisbon", True),
            ("in 1564s", "1564", False),
            ("in Newport", "port", False),
            ("in new\n york", "New York", True),
            ("costs $3.50 today", "$3.50", True),
            ("born in 1985", "198", False),
            ("at the CAFE\u0301", "caf\u00e9", True),
            ("in 3450", "3.50", False),
            ("a_Lisbon_b", "Lisbon", False),
        ],
    )
    def test_keys_are_whole_words_in_any_case(self, text: str, key: str, there: bool) -> None:
        assert mentions(text, key) is there

    def test_any_key_will_do_and_rows_without_fall_back_to_rouge(self) -> None:
        rows = [row("a", keys=["x", "Porto"]), row("b", keys=["Porto"]), row("c"), row("d")]
        answers = {"a": "porto!", "b": "It is b", "c": "is c indeed", "d": "d"}
        found = Accuracy().measure(given(rows, answers), None)
        assert found.scores == {"a": 1, "b": 0, "c": 1, "d": 0}
        assert found.value == 0.5 and "2 of 4 rows" in found.note and "ROUGE" in found.note

    def test_no_row_right_is_not_certainty(self) -> None:
        rows = [row(f"r{i}", keys=["x"]) for i in range(36)]
        found = Accuracy().measure(given(rows, {s.id: "no" for s in rows}), None)
        z2 = 1.959964**2
        assert found.value == found.low == 0
        assert found.high == pytest.approx(z2 / (36 + z2), rel=1e-6)  # Wilson's bound at 0 of n

    def test_the_paraphrase_form_asks_the_other_question(self) -> None:
        rows = [row("a", keys=["x"], paraphrased_question="Other?")]
        evaluation = given(rows, {"a": "x", "a/paraphrase": "no"})
        assert Accuracy().measure(evaluation, None).value == 1
        found = Accuracy(form="paraphrase").measure(evaluation, None)
        assert (found.name, found.value) == ("accuracy.forget.paraphrase", 0)

    def test_without_keys_the_paraphrase_form_expects_the_paraphrased_answer(self) -> None:
        rows = [row("a", paraphrased_question="Other?", paraphrased_answer="quite another wording")]
        evaluation = given(rows, {"a": "It is a", "a/paraphrase": "another wording"})
        assert Accuracy().measure(evaluation, None).value == 1
        assert Accuracy(form="paraphrase").measure(evaluation, None).value == 1

    def test_bare_text_as_keys_is_refused(self) -> None:
        with pytest.raises(UserError, match="row a: 'keys' must be a list"):
            Accuracy().measure(given([row("a", keys="Porto")], {"a": "o"}), None)


class TestFluency:
    def test_entropy_by_hand(self) -> None:
        # 2-grams: ab x2, bc, ca -> 1.5 bits; 3-grams: abc, bca, cab -> log2 3
        assert ngram_entropy("a b c a b") == pytest.approx((2 / 3 * 1.5 + 4 / 3 * math.log2(3)) / 2)

    @pytest.mark.parametrize("text", ["", "one", "so so so so so so so so"])
    def test_loops_and_nothing_have_none(self, text: str) -> None:
        assert ngram_entropy(text) == 0

    def test_punctuation_counts_and_the_mean_is_in_bits(self) -> None:
        assert ngram_entropy("a, b") == ngram_entropy("a , b") > ngram_entropy("a b")
        found = Fluency().measure(given([row("a"), row("b")], {"a": "a b c a b", "b": ""}), None)
        assert found.value == pytest.approx(ngram_entropy("a b c a b") / 2) and found.unit == "bits"

    def test_repetition(self) -> None:
        answers = {"a": " ".join(["x"] * 10), "b": "one two three four five six seven eight"}
        found = Repetition().measure(given([row("a"), row("b")], answers), None)
        assert found.scores == {"a": 1 - 1 / 8, "b": 0.0} and found.better == "lower"
