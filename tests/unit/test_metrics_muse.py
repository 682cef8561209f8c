"""MUSE's metrics: ROUGE by hand and by the package, where an answer ends, PrivLeak's two extremes and its guard."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from amends.core.errors import UserError
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.metrics.evaluation import Evaluation, Tokens
from amends.metrics.knowledge import KnowledgeMemory, cut
from amends.metrics.privleak import PrivLeak
from amends.metrics.rouge import f_measure
from amends.metrics.verbatim import VerbatimMemory
from amends.subjects.tiny import TinyLM


def passage(name: str, answer: str) -> Sample:
    """A beginning and what follows it."""
    return Sample(name, {"prompt": f"So begins {name}:", "answer": answer})


def question(name: str, answer: str = "in the old town") -> Sample:
    """A question about the text."""
    return Sample(name, {"question": f"Where was {name}?", "answer": answer})


def given(roles: Mapping[str, Sequence[Sample]], answers: Mapping[str, str], kept: Mapping[str, Any] = {}) -> Evaluation:
    """An evaluation whose texts are given; any other row would need the model, which is None."""
    return Evaluation(None, Bundle({r: tuple(rows) for r, rows in roles.items()}), kept={**kept, "answers/32": dict(answers)})


class TestRouge:
    @pytest.mark.parametrize(
        "answer, expected",
        [
            ("the cat sat", 1.0),
            ("the cat", 2 * 1.0 * (2 / 3) / (1.0 + 2 / 3)),
            ("a cat sat on the mat", 2 * (2 / 6) * (2 / 3) / (2 / 6 + 2 / 3)),  # unlike recall, what is added costs
            ("sat cat the", 1 / 3),
            ("", 0.0),
        ],
    )
    def test_f1_by_hand(self, answer: str, expected: float) -> None:
        assert f_measure("the cat sat", answer, "row") == pytest.approx(expected)

    def test_no_stemmer_and_the_packages_own_number(self) -> None:
        from rouge_score.rouge_scorer import RougeScorer

        truth, answer = "she wrote novels about running rivers", "he writes a novel about the rivers that run"
        plain, stemmed = (RougeScorer(["rougeL"], use_stemmer=s).score(truth, answer)["rougeL"] for s in (False, True))
        assert f_measure(truth, answer, "row") == plain.fmeasure < stemmed.fmeasure


class TestKnowledge:
    @pytest.mark.parametrize(
        "text, kept",
        [
            (" in Porto", " in Porto"),
            (" in Porto\n\nQuestion: And?", " in Porto"),
            (" in Porto\nQuestion: And?", " in Porto"),
            (" in Porto. Question: And?", " in Porto. "),
            (" in\nPorto", " in\nPorto"),
            (" a question: b", " a question: b"),
            ("\n\n in Porto", ""),  # it had ended before it said anything
            ("Question: where? In Porto", ""),
        ],
    )
    def test_where_an_answer_ends(self, text: str, kept: str) -> None:
        assert cut(text) == kept

    def test_what_comes_after_the_end_does_not_count(self) -> None:
        rows = [question("a"), question("b")]
        found = KnowledgeMemory().measure(
            given({"forget_qa": rows}, {"a": " in the town\n\nin the old town", "b": "\n\nin the old town"}), None
        )
        assert found.scores == pytest.approx({"a": 2 * 1.0 * 0.75 / 1.75, "b": 0.0})
        assert (found.name, found.better, found.n) == ("knowledge_memory.forget_qa", "lower", 2)
        assert KnowledgeMemory(role="retain_qa").better == "higher"

    def test_the_examples_come_before_the_question_and_their_answers_are_not_the_plain_ones(self) -> None:
        roles = {"forget_qa": [question("a")], "shown": [question("x", "here"), question("y", "there")]}
        metric = KnowledgeMemory(examples="shown")
        assert metric.roles() == {"forget_qa", "shown"}
        evaluation = given(roles, {"a": "nowhere", "a/after-shown": "in the old town"})
        assert (metric.measure(evaluation, None).value, KnowledgeMemory().measure(evaluation, None).value) == (1.0, 0.0)
        data = Bundle({r: tuple(rows) for r, rows in roles.items()})
        subject = TinyLM(width=16, depth=1, heads=2, vocab=300).load(data, 0)
        asked: list[str] = []
        generate = subject.generate

        def told(samples: Sequence[Sample], *options: Any) -> Any:
            asked.extend(subject.tokenizer.decode(subject.prompt_ids(s)) for s in samples)
            return generate(samples, *options)

        subject.generate = told  # type: ignore[method-assign]
        metric.measure(Evaluation(subject, data), None)
        assert asked == [
            "Question: Where was x?\nAnswer: here\n\nQuestion: Where was y?\nAnswer: there\n\nQuestion: Where was a?\nAnswer:"
        ]

    def test_a_missing_role_of_examples_is_named(self) -> None:
        with pytest.raises(UserError, match="no role 'shown'"):
            KnowledgeMemory(examples="shown").measure(given({"forget_qa": [question("a")]}, {}), None)


class TestVerbatim:
    def test_the_true_continuation_is_cut_where_the_models_is(self) -> None:
        """A model that recites the whole of what it may write knows all that it was asked for."""
        text = " one two three four five six seven eight nine ten eleven twelve"
        data = Bundle({"forget_verbatim": (passage("a", text),)})
        subject = TinyLM(width=16, depth=1, heads=2, vocab=300).load(data, 0)
        ids = subject.tokenizer(text, add_special_tokens=False)["input_ids"]
        for tokens in (4, len(ids) + 3):
            written = subject.tokenizer.decode(ids[:tokens])
            evaluation = Evaluation(subject, data, kept={f"answers/{tokens}": {"a": written}})
            found = VerbatimMemory(tokens=tokens).measure(evaluation, None)
            assert (found.value, found.better) == (1.0, "lower")
        assert subject.tokenizer.decode(ids[:4]) != text

    def test_by_hand(self) -> None:
        kept = {
            "answers/128": {"a": "one two", "b": "none"},
            "expected/forget_verbatim/128": {"a": "one two three", "b": "four"},
        }
        evaluation = given({"forget_verbatim": [passage("a", " one two three"), passage("b", " four")]}, {}, kept)
        assert VerbatimMemory().measure(evaluation, None).scores == pytest.approx({"a": 0.8, "b": 0.0})

    def test_rows_that_are_no_passages_are_refused(self) -> None:
        with pytest.raises(UserError, match="row a: has no 'prompt'"):
            VerbatimMemory(role="forget_qa").measure(given({"forget_qa": [question("a")]}, {}), None)


def model(forget: Sequence[float], holdout: Sequence[float]) -> Evaluation:
    """A model whose every token of a row is that unlikely."""
    groups = {"forget": forget, "holdout": holdout}
    roles = {r: tuple(Sample(f"{r}{i}", {"text": "t"}) for i in range(len(v))) for r, v in groups.items()}
    tokens = {f"{r}{i}": Tokens(np.full(6, -score)) for r, v in groups.items() for i, score in enumerate(v)}
    return Evaluation(None, Bundle(roles), _tokens=tokens)


def spread(low: float, high: float, count: int = 20) -> list[float]:
    """Evenly spaced scores."""
    return np.linspace(low, high, count).tolist()


class TestPrivLeak:
    retrain = model(spread(1, 2), spread(1.04, 2.04))

    def test_a_model_that_still_knows_every_row_is_at_minus_one_hundred(self) -> None:
        found = PrivLeak().measure(model(spread(0, 0.5), spread(1, 2)), self.retrain)
        assert (found.value, found.low, found.high) == (-100, -100, -100)
        assert (found.name, found.better, found.unit, found.n) == ("privleak", "closer", "%", 40)

    def test_a_model_that_has_over_forgotten_is_above_by_what_the_retrained_model_leaves(self) -> None:
        found = PrivLeak().measure(model(spread(3, 4), spread(1, 2)), self.retrain)
        below = np.mean([[f > h for f in spread(1, 2)] for h in spread(1.04, 2.04)])  # MUSE's AUC of the retrained model
        assert 0.4 < below < 0.5
        assert found.value == pytest.approx(100 * (1 - below) / below)
        assert found.low < found.value < found.high  # the retrained model's AUC depends on the rows

    def test_the_retrained_model_against_itself_is_at_zero(self) -> None:
        found = PrivLeak().measure(self.retrain, self.retrain)
        assert (found.value, found.low, found.high) == (0, 0, 0)

    def test_published_numbers(self) -> None:
        """MUSE: A_r is .4772 on News and .5393 on Books; over-forgotten is at most 109.6 and 85.4."""
        from amends.metrics.privleak import leak

        assert leak(1, 0.4772) == pytest.approx(109.6, abs=0.06) and leak(1, 0.5393) == pytest.approx(85.4, abs=0.06)

    def test_a_base_near_zero_gives_no_number_and_says_why(self) -> None:
        odd = model(spread(1, 2), spread(3, 4))
        found = PrivLeak().measure(model(spread(3, 4), spread(1, 2)), odd)
        assert math.isnan(found.value) and math.isnan(found.low) and math.isnan(found.high)
        assert found.note.startswith("no number: the retrained model's AUC is 0.000")

    def test_the_interval_holds_rows_together_over_the_two_models(self) -> None:
        """A model whose every score is the retrained one's, doubled, ranks all rows the same in every draw."""
        forget, holdout = spread(1, 3), spread(1.5, 2.5)
        found = PrivLeak().measure(model([2 * s for s in forget], [2 * s for s in holdout]), model(forget, holdout))
        assert (found.value, found.low, found.high) == (0, 0, 0)

    def test_neither_the_order_of_rows_nor_a_shift_of_all_scores_matters(self) -> None:
        rng = np.random.default_rng(0)
        forget, holdout = rng.normal(3, 1, 30).tolist(), rng.normal(3.5, 1, 25).tolist()
        base = model(rng.normal(3, 1, 30).tolist(), rng.normal(3, 1, 25).tolist())
        plain = PrivLeak().measure(model(forget, holdout), base)
        moved = PrivLeak().measure(model([s + 5 for s in forget], [s + 5 for s in holdout]), base)
        assert moved.value == pytest.approx(plain.value) and moved.low == pytest.approx(plain.low)
        turned = [
            Evaluation(None, Bundle({r: e[r][::-1] for r in ("forget", "holdout")}), _tokens=e._tokens)
            for e in (model(forget, holdout), base)
        ]
        assert PrivLeak().measure(*turned).value == pytest.approx(plain.value)

    def test_without_the_retrained_model_it_says_what_is_missing(self) -> None:
        with pytest.raises(UserError, match="privleak compares with another model"):
            PrivLeak().measure(self.retrain, None)
