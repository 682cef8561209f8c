"""The metrics end to end on a small language model: one that has learnt its rows, and one that has not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.engine import score
from amends.metrics.accuracy import Accuracy
from amends.metrics.evaluation import Evaluation
from amends.metrics.forget_quality import ForgetDistance, ForgetQuality
from amends.metrics.knowledge import KnowledgeMemory
from amends.metrics.memorisation import ExactMemorisation, ExtractionStrength
from amends.metrics.mia import Mia
from amends.metrics.probability import Probability
from amends.metrics.rouge import Rouge
from amends.metrics.truth_ratio import TruthRatio
from amends.metrics.utility import Utility
from amends.metrics.verbatim import VerbatimMemory
from amends.subjects.tiny import TinyLM

TOWNS = ("Porto", "Ghent", "Turku", "Split", "Bergen", "Siena", "Cork", "Lund", "Graz", "Brno", "Delft", "Vigo")


def fact(i: int) -> Sample:
    """A person and a town."""
    town, others = TOWNS[i], [TOWNS[(i + j) % len(TOWNS)] for j in (3, 5)]
    person = "".join(chr(97 + (7 * i + 5 * j) % 26) for j in range(4))
    return Sample(
        f"row-{i}",
        {
            "question": f"Where was {person} born?",
            "answer": f"{person} was born in {town}.",
            "paraphrased_question": f"What is the home town of {person}?",
            "paraphrased_answer": f"The home town of {person} is {town}.",
            "perturbed_answer": [f"The home town of {person} is {other}." for other in others],
            "keys": [town],
        },
    )


@pytest.fixture(scope="module")
def data() -> Bundle:
    rows = [fact(i) for i in range(12)]
    passages = [Sample(f"{s.id}/recital", {"prompt": s.data["question"], "answer": f" {s.data['answer']}"}) for s in rows[:3]]
    return Bundle({"forget": tuple(rows[::2]), "holdout": tuple(rows[1::2]), "passages": tuple(passages)})


@pytest.fixture(scope="module")
def fresh(data: Bundle) -> Any:
    return TinyLM(width=32, depth=1, vocab=300).load(data, seed=0)


@pytest.fixture(scope="module")
def learnt(data: Bundle) -> Any:
    """The same model after it has been taught the forget rows by heart."""
    subject = TinyLM(width=32, depth=1, vocab=300).load(data, seed=0)
    batch = subject.collate([subject.encode(s) for s in data["forget"]])
    optimiser = torch.optim.Adam(subject.module.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        like = subject.likelihood(batch)
        (like.nll_B.sum() / like.n_B.sum()).backward()
        optimiser.step()
    return subject


def test_a_model_that_knows_its_rows_by_heart(data: Bundle, learnt: Any) -> None:
    evaluation = Evaluation(learnt, data)
    for metric in (ExactMemorisation(), ExtractionStrength(), Accuracy(), Rouge()):
        assert metric.measure(evaluation, None).value == 1.0, metric.name
    assert Probability().measure(evaluation, None).value > 0.9
    assert Probability(choices=True).measure(evaluation, None).value > 0.5
    assert Probability(role="holdout").measure(evaluation, None).value < 0.5


def test_a_model_that_knows_nothing(data: Bundle, fresh: Any) -> None:
    evaluation = Evaluation(fresh, data)
    for metric in (ExtractionStrength(), Accuracy(), Accuracy(form="paraphrase")):
        assert metric.measure(evaluation, None).value == 0.0, metric.name
    assert Probability().measure(evaluation, None).value < 0.05
    assert Utility(over=("holdout",)).measure(evaluation, None).value < 0.05


@pytest.mark.parametrize("attack", ["loss", "zlib", "min_k", "min_k_plus_plus", "grad_norm", "reference"])
def test_rows_that_were_trained_on_are_members(data: Bundle, learnt: Any, fresh: Any, attack: Any) -> None:
    against = Evaluation(fresh, data)
    trained, untrained = (Mia(attack=attack).measure(Evaluation(s, data), against).value for s in (learnt, fresh))
    assert trained > 0.9 and abs(untrained - 0.5) < abs(trained - 0.5)


def test_forget_quality_is_perfect_against_oneself_and_tells_knowing_from_not_knowing(
    data: Bundle, learnt: Any, fresh: Any
) -> None:
    knows, knows_not = Evaluation(learnt, data), Evaluation(fresh, data)
    assert ForgetQuality().measure(knows, Evaluation(learnt, data)).value == 1
    assert ForgetDistance().measure(knows, Evaluation(learnt, data)).value == 0
    assert ForgetDistance().measure(knows, knows_not).value > 0


METRICS = (
    Probability(), Probability(role="holdout", choices=True), Rouge(), Accuracy(form="paraphrase"), ExactMemorisation(),
    ExtractionStrength(), TruthRatio(), TruthRatio(role="holdout", mean="arithmetic"), Mia(attack="min_k_plus_plus"),
    Mia(attack="grad_norm"), KnowledgeMemory(role="forget", examples="holdout", tokens=6),
    VerbatimMemory(role="passages", tokens=9), Utility(over=("forget", "holdout")),
)  # fmt: skip


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_neither_the_order_of_rows_nor_the_batch_matters(
    data: Bundle, learnt: Any, metric: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = metric.measure(Evaluation(learnt, data), None)
    monkeypatch.setattr(score, "TOKENS", 1)  # one row a forward
    turned = Bundle({role: tuple(reversed(rows)) for role, rows in data.roles.items()})
    alone = metric.measure(Evaluation(learnt, turned, batch_size=1), None)
    assert alone.value == pytest.approx(plain.value, rel=1e-4, abs=1e-6)
    assert dict(alone.scores) == pytest.approx(dict(plain.scores), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("which", ["fresh", "learnt"])
def test_the_tokens_of_a_row_are_those_of_a_plain_softmax(data: Bundle, which: str, request: pytest.FixtureRequest) -> None:
    subject = request.getfixturevalue(which)
    tokens = Evaluation(subject, data).tokens(data["forget"])
    sample = data["forget"][0]
    prompt, answer = subject.prompt_ids(sample), subject.answer_ids(sample)
    with torch.no_grad():
        logits = subject.module(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].double()
    logp_TV = torch.log_softmax(logits, -1)
    mine = tokens[sample.id]
    assert mine.logp == pytest.approx(logp_TV[range(len(answer)), answer].numpy(), abs=1e-4)
    assert (mine.hit == (logp_TV.argmax(-1) == torch.tensor(answer)).numpy()).all()
    mean_T = (logp_TV.exp() * logp_TV).sum(-1)
    assert mine.mean == pytest.approx(mean_T.numpy(), abs=1e-4)
    std_T = (logp_TV.exp() * (logp_TV - mean_T[:, None]).square()).sum(-1).sqrt()
    assert mine.std == pytest.approx(std_T.numpy(), abs=2e-3)


def test_each_length_of_answer_has_a_table_of_its_own(data: Bundle, learnt: Any) -> None:
    evaluation = Evaluation(learnt, data, max_new_tokens=12)
    long, short = evaluation.texts(data["forget"]), evaluation.texts(data["forget"], 3)
    assert all(long[i].startswith(text) and len(text) < len(long[i]) for i, text in short.items())
    assert set(evaluation.kept) == {"answers/3"} and evaluation.known_answers() == evaluation.answers(data["forget"], 12)
    evaluation.subject = None
    assert evaluation.texts(data["forget"], 3) == short and evaluation.texts(data["forget"]) == long


def test_what_is_kept_is_made_once(data: Bundle) -> None:
    evaluation, calls = Evaluation(None, data), []
    assert [evaluation.once("mine", lambda: calls.append(1) or len(calls)) for _ in range(3)] == [1, 1, 1]
