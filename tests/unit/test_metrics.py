"""Metrics that read probabilities, on hand-built tables: values worked by hand, limits; missing fields of every metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from amends.core import catalog
from amends.core.errors import UserError
from amends.core.protocols import Metric
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.metrics.accuracy import Accuracy
from amends.metrics.evaluation import Evaluation, Tokens
from amends.metrics.fluency import Fluency
from amends.metrics.knowledge import KnowledgeMemory
from amends.metrics.memorisation import ExactMemorisation, ExtractionStrength
from amends.metrics.probability import Probability
from amends.metrics.rouge import Rouge
from amends.metrics.truth_ratio import TruthRatio, log_ratios, ratios
from amends.metrics.utility import Utility
from amends.metrics.verbatim import VerbatimMemory


def row(name: str, **data: Any) -> Sample:
    """A question row."""
    return Sample(name, {"question": f"What of {name}?", "answer": f"It is {name}", **data})


def flat(p: float, n: int = 3) -> Tokens:
    """n tokens of probability p each."""
    return Tokens(np.full(n, math.log(p)))


def given(
    roles: Mapping[str, Sequence[Sample]], tokens: Mapping[str, Tokens] | None = None, answers: Mapping[str, str] | None = None,
) -> Evaluation:  # fmt: skip
    """An evaluation whose tables are given; a row that is in neither would need the model, which is None."""
    data = Bundle({role: tuple(rows) for role, rows in roles.items()})
    return Evaluation(None, data, _tokens=dict(tokens or {}), _answers=dict(answers or {}))


NEEDED: dict[str, dict[str, Any]] = {
    "symbol_error": {"pilots": 10}, "rate_ratio": {"role": "test"}, "task_rate_ratio": {"tasks": ("test",)},
}  # fmt: skip
"""What has no default."""


def test_the_catalog_finds_every_metric() -> None:
    names = {entry.name for entry in catalog.list_kind("metrics")}
    assert names == {
        "asr", "disparity", "mia_efficacy", "mia_privacy", "ra", "ta", "ua",
        "accuracy", "exact_memorisation", "extraction_strength", "fluency", "forget_distance", "forget_quality", "harness",
        "knowledge_memory", "mia", "privleak", "probability", "repetition", "rouge", "truth_ratio", "utility",
        "verbatim_memory", "hinge", "neurons", "neuron_norm", "update_spectrum", "weight_distance",
        "known_channel", "rate_ratio", "robust_accuracy", "symbol_error", "task_rate_ratio", "worst_class",
        "all_pass", "constraint_rate", "gain", "spent", "spent_per_gain", "answer_length", "degenerate", "critic_rates",
        "verdicts", "judged", "judge_rates", "quality",
    }  # fmt: skip
    called = {
        "update_spectrum": "update_energy", "spent": "calls", "spent_per_gain": "calls_per_gain",
        "answer_length": "answer_words", "critic_rates": "critic_balanced", "verdicts": "verdict_balanced",
        "judge_rates": "judge_balanced",
    }  # fmt: skip
    for entry in catalog.list_kind("metrics"):
        metric = entry.load()(**NEEDED.get(entry.name, {}))
        assert isinstance(metric, Metric)
        # the harness brings questions of its own; the others look at weights
        assert bool(metric.roles()) == (
            entry.name not in ("harness", "neurons", "neuron_norm", "update_spectrum", "weight_distance")
        )
        assert metric.name.split(".")[0] == called.get(entry.name, entry.name)
        assert metric.better in ("lower", "higher", "closer")


@pytest.mark.parametrize(
    "role, better", [("forget", "lower"), ("paraphrase", "lower"), ("retain", "higher"), ("neighbour", "higher")]
)
@pytest.mark.parametrize(
    "metric", [Probability, Rouge, Accuracy, ExactMemorisation, ExtractionStrength, VerbatimMemory, KnowledgeMemory]
)
def test_knowledge_is_to_go_from_forget_roles_only(metric: Any, role: str, better: str) -> None:
    assert metric(role=role).better == better
    assert metric(role=role).name.endswith(f".{role}")


class TestProbability:
    def test_is_the_geometric_mean_over_tokens(self) -> None:
        tokens = {"a": Tokens(np.log([0.5, 0.5, 0.125])), "b": flat(0.5)}
        found = Probability().measure(given({"forget": [row("a"), row("b")]}, tokens), None)
        assert found.scores == pytest.approx({"a": (1 / 32) ** (1 / 3), "b": 0.5})
        assert found.value == pytest.approx(np.mean(list(found.scores.values())))
        assert found.low <= found.value <= found.high and found.n == 2

    def test_among_choices_each_answer_has_its_own_length(self) -> None:
        tokens = {"a": flat(0.6), "a/perturbed-0": flat(0.3, 2), "a/perturbed-1": flat(0.1, 7)}
        found = Probability(role="world_facts", choices=True).measure(
            given({"world_facts": [row("a", perturbed_answer=["x", "y"])]}, tokens), None
        )
        assert found.value == pytest.approx(0.6 / 1.0, abs=1e-9)
        assert (found.name, found.better) == ("probability.world_facts.choices", "higher")

    def test_choices_of_a_model_that_gives_nothing_any_chance_are_zero(self) -> None:
        tokens = {"a": flat(1e-30), "a/perturbed-0": flat(1e-30)}
        found = Probability(role="world_facts", choices=True).measure(
            given({"world_facts": [row("a", perturbed_answer=["x"])]}, tokens), None
        )
        assert found.value == pytest.approx(0, abs=1e-15)  # the 1e-10 of the definition; 0.5 without it


class TestMemorisation:
    @pytest.mark.parametrize(
        "hits, em, es",
        [
            ("11111", 1.0, 1.0),
            ("11110", 1.0, 1.0),  # the closing token is not a position
            ("00001", 0.0, 0.0),  # nothing comes out: 0, not 1/n
            ("10111", 3 / 4, 2 / 4),
            ("11101", 3 / 4, 0.0),  # one miss at the end of the answer
            ("01111", 3 / 4, 3 / 4),
        ],
    )
    def test_by_hand(self, hits: str, em: float, es: float) -> None:
        tokens = {"a": Tokens(np.zeros(len(hits)), np.array([h == "1" for h in hits]))}
        evaluation = given({"forget": [row("a")]}, tokens)
        assert ExactMemorisation().measure(evaluation, None).value == pytest.approx(em)
        assert ExtractionStrength().measure(evaluation, None).value == pytest.approx(es)

    def test_a_model_without_tokens_is_refused(self) -> None:
        with pytest.raises(UserError, match="row a.*language model"):
            ExactMemorisation().measure(given({"forget": [row("a")]}, {"a": Tokens(np.zeros(3))}), None)


def perturbed(name: str, **data: Any) -> Sample:
    """A row with two wrong answers and a paraphrase."""
    return row(name, paraphrased_answer="p", perturbed_answer=["x", "y"], **data)


def three(name: str, right: float, *wrong: float, kind: str = "/paraphrased-answer") -> dict[str, Tokens]:
    """Tables of a right answer and its wrong ones, each of its own length."""
    return {f"{name}{kind}": flat(right, 2), **{f"{name}/perturbed-{j}": flat(p, 3 + j) for j, p in enumerate(wrong)}}


class TestTruthRatio:
    def test_geometric_and_arithmetic_by_hand(self) -> None:
        evaluation = given({"forget": [perturbed("a")]}, three("a", 0.5, 0.1, 0.4))
        assert ratios(evaluation, evaluation["forget"])["a"] == pytest.approx(0.2 / 0.5)
        assert ratios(evaluation, evaluation["forget"], mean="arithmetic")["a"] == pytest.approx(0.25 / 0.5)

    def test_is_reported_both_ways_round_on_forget_and_one_way_elsewhere(self) -> None:
        tokens = {**three("a", 0.5, 0.25, 0.25), **three("b", 0.25, 0.5, 0.5)}
        rows = [perturbed("a"), perturbed("b")]
        evaluation = given({"forget": rows, "retain": rows}, tokens)
        forget, retain = (TruthRatio(role=r).measure(evaluation, None) for r in ("forget", "retain"))
        assert forget.scores == pytest.approx({"a": 0.5, "b": 0.5}) and forget.better == "closer"
        assert retain.scores == pytest.approx({"a": 0.5, "b": 0.0}) and retain.better == "higher"

    def test_real_authors_and_world_facts_rest_on_the_plain_answer(self) -> None:
        tokens = three("a", 0.5, 0.1, 0.1, kind="")
        rows = [row("a", perturbed_answer=["x", "y"])]
        for role in ("real_authors", "world_facts"):
            assert TruthRatio(role=role).measure(given({role: rows}, tokens), None).value == pytest.approx(0.8)
        assert TruthRatio(role="mine", plain=True).measure(given({"mine": rows}, tokens), None).value == pytest.approx(0.8)

    def test_a_collapsed_model_neither_overflows_nor_bends(self) -> None:
        tokens = {
            "a/paraphrased-answer": Tokens(np.full(2, -2000.0)),
            "a/perturbed-0": Tokens(np.full(2, -1000.0)),
            "a/perturbed-1": Tokens(np.full(2, -1000.0)),
        }
        evaluation = given({"forget": [perturbed("a")]}, tokens)
        assert log_ratios(evaluation, evaluation["forget"])["a"] == 1000
        assert log_ratios(evaluation, evaluation["forget"], mean="arithmetic")["a"] == 1000
        assert ratios(evaluation, evaluation["forget"])["a"] == math.inf
        assert TruthRatio().measure(evaluation, None).value == 0

    def test_a_model_to_which_all_answers_are_alike_scores_one_on_forget_and_zero_on_retain(self) -> None:
        evaluation = given({"forget": [perturbed("a")], "retain": [perturbed("a")]}, three("a", 0.01, 0.01, 0.01))
        assert TruthRatio().measure(evaluation, None).value == pytest.approx(1)
        assert TruthRatio(role="retain").measure(evaluation, None).value == pytest.approx(0)


class TestUtility:
    def test_nine_parts_by_hand(self) -> None:
        found = Utility().measure(self.evaluation(), None)
        retain = [0.5, 1.0, 0.75]  # probability, rouge, 1 - 0.1 / 0.4
        choice = [0.5 / 0.7, 1 / 3, 1 - 0.1 / 0.5]
        parts = [*retain, *choice, *choice]
        assert found.value == pytest.approx(9 / sum(1 / p for p in parts))
        assert found.low == found.value == found.high and found.n == 3 and found.note == ""
        assert found.scores["r/truth_ratio"] == pytest.approx(0.75)

    def test_is_zero_as_soon_as_one_part_is(self) -> None:
        found = Utility().measure(self.evaluation(rouge="nothing of the sort"), None)
        assert found.value == 0 == found.low

    def test_parts_that_the_rows_cannot_give_are_left_out_and_named(self) -> None:
        rows = {"retain": [row("r")], "general": [row("g")]}
        evaluation = given(rows, {"r": flat(0.5), "g": flat(0.25)}, {"r": "It is r", "g": "is g"})
        found = Utility(over=("retain", "general")).measure(evaluation, None)
        assert found.value == pytest.approx(4 / (1 / 0.5 + 1 / 1 + 1 / 0.25 + 1 / (2 / 3)))
        assert "truth_ratio.retain (row r has no 'perturbed_answer')" in found.note and "truth_ratio.general" in found.note

    def test_choice_roles_without_wrong_answers_keep_rouge_alone(self) -> None:
        evaluation = given({"general": [row("g")]}, {}, {"g": "is g"})
        found = Utility(over=("general",), choice_roles=("general",)).measure(evaluation, None)
        assert found.value == pytest.approx(2 / 3) and "probability.general" in found.note

    def test_no_part_at_all_is_an_error(self) -> None:
        with pytest.raises(UserError, match="no part can be computed.*truth_ratio.retain"):
            Utility(over=("retain",), parts=("truth_ratio",)).measure(given({"retain": [row("r")]}), None)

    def test_the_interval_resamples_a_rows_parts_together(self) -> None:
        """Two parts that move against each other row by row: their means always add to 1 when drawn together."""
        names = [f"r{i}" for i in range(40)]
        good = {name: i % 2 == 0 for i, name in enumerate(names)}
        rows = [row(name, answer=f"alpha {name}") for name in names]
        tokens = {name: flat(0.9 if good[name] else 0.1) for name in names}
        answers = {name: "none" if good[name] else f"alpha {name}" for name in names}
        found = Utility(over=("retain",), parts=("probability", "rouge")).measure(
            given({"retain": rows}, tokens, answers), None
        )
        assert found.value == pytest.approx(0.5) and found.low < 0.5
        assert found.high <= 0.51  # with p = 0.9 - 0.8 r the harmonic mean cannot rise above 0.501

    def evaluation(self, rouge: str = "It is r") -> Evaluation:
        """One row a role."""
        choices = [row(n, perturbed_answer=["x", "y"]) for n in ("ra", "wf")]
        rows = {"retain": [perturbed("r")], "real_authors": choices[:1], "world_facts": choices[1:]}
        tokens = {"r": flat(0.5), **three("r", 0.4, 0.1, 0.1)}
        tokens |= {k: v for n in ("ra", "wf") for k, v in three(n, 0.5, 0.1, 0.1, kind="").items()}
        return given(rows, tokens, {"r": rouge, "ra": "ra", "wf": "no wf"})


@pytest.mark.parametrize(
    "metric, sample, field",
    [
        (Probability(), Sample("a", {"question": "q"}), "answer"),
        (Probability(choices=True), row("a"), "perturbed_answer"),
        (Rouge(), Sample("a", {"text": "t"}), "question"),
        (Rouge(paraphrased_question=True), row("a"), "paraphrased_question"),
        (Accuracy(form="paraphrase"), row("a"), "paraphrased_question"),
        (TruthRatio(), row("a", perturbed_answer=["x"]), "paraphrased_answer"),
        (TruthRatio(), row("a", paraphrased_answer="p"), "perturbed_answer"),
        (Fluency(), Sample("a", {"text": "t"}), "question"),
    ],
)
def test_a_missing_field_names_role_row_and_field(metric: Any, sample: Sample, field: str) -> None:
    with pytest.raises(UserError, match=f"role 'forget', row a: has no '{field}'"):
        metric.measure(given({"forget": [sample]}), None)


@pytest.mark.parametrize("metric", [Probability(), Rouge(), Accuracy(), ExactMemorisation(), TruthRatio(), Fluency()])
def test_an_empty_role_is_an_error(metric: Any) -> None:
    with pytest.raises(UserError, match="role 'forget' is empty"):
        metric.measure(given({"forget": []}), None)
