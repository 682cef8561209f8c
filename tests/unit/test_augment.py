"""Rows made before training: drawn answers and their stream, AltPO's alternatives, other wordings, wrong answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from amends.augment.paraphrased import WORDINGS, Paraphrased
from amends.augment.written import Written
from amends.augment.wrong import Wrong
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.rng import rng
from amends.core.spec import Weighted
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.data.facts import Facts
from amends.engine.loader import Loader
from amends.engine.optim import AdamW
from amends.terms.dpo import DPO
from amends.terms.nll import NLL
from amends.unlearn.gradient import Gradient

WRITTEN = Written(num=3, max_new_tokens=6, request="{question}", temperature=1.5)


@pytest.fixture(scope="module")
def subject(lm_world: Any) -> Any:
    return lm_world.make()


@pytest.fixture(scope="module")
def facts() -> Bundle:
    return Facts(authors=10).load(0)


def written(subject: Any, rows: list[Sample], *stream: object, temperature: float = 1.0, **options: Any) -> list[str]:
    sampling = (temperature, rng(0, *stream))
    return [t for texts in subject.generate(rows, 8, sampling=sampling, **options) for t in texts]


# ---------------------------------------------------------------------- drawn answers


def test_equal_streams_draw_equal_answers_and_leave_torchs_own_alone(subject: Any, lm_world: Any) -> None:
    rows = lm_world.data["forget"][:6]
    before = torch.random.get_rng_state()
    first = written(subject, rows, "a")
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    assert written(subject, rows, "a") == first != written(subject, rows, "b")
    torch.random.set_rng_state(before)


def test_the_coldest_draw_is_the_greedy_answer(subject: Any, lm_world: Any) -> None:
    rows = lm_world.data["forget"][:6]
    greedy = [t for texts in subject.generate(rows, 8) for t in texts]
    assert written(subject, rows, "a", temperature=1e-6) == greedy


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_words_are_drawn_as_often_as_the_model_says(subject: Any, temperature: float) -> None:
    """The first words of 2,000 answers to one question, in seven groups, against softmax(z / T): within 5 standard errors."""
    row, num = Sample("row", {"question": "Who lives in Lisbon?", "answer": "Ann."}), 2000
    logits = subject.module(torch.tensor([subject.prompt_ids(row)])).logits[0, -1].detach().double()
    words = subject.tokenizer.batch_decode([[i] for i in range(len(logits))], skip_special_tokens=True)
    expected, found = torch.zeros(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)
    for word, p in zip(words, (logits / temperature).softmax(0), strict=True):
        expected[sum(word.encode()) % 7] += p
    for texts in subject.generate([row] * num, 1, 1000, sampling=(temperature, rng(0, "often"))):
        for word in texts:
            found[sum(word.encode()) % 7] += 1 / num
    assert expected.min() > 0.01
    assert ((found - expected).abs() < 5 * (expected * (1 - expected) / num).sqrt()).all()


# ---------------------------------------------------------------------- alternatives that the model writes


def test_each_row_stands_once_for_each_answer_under_an_id_that_shows_it(subject: Any, lm_world: Any) -> None:
    run = Memory()
    made = WRITTEN(subject, lm_world.data, run)
    rows = made["forget"]
    assert len(rows) == len({s.id for s in rows}) <= 3 * len(lm_world.data["forget"])
    assert {s.id.split("/alt-")[0] for s in rows} == {s.id for s in lm_world.data["forget"]}
    originals = {s.id: s.data for s in lm_world.data["forget"]}
    for row in rows:
        own = originals[row.id.split("/")[0]]
        assert dict(row.data) == own
        other = made.alternatives[row.id]
        assert other.id == f"{row.id}/other" and other.data["question"] == own["question"]
        assert other.data["answer"].strip() and other.data["answer"] != own["answer"]
    assert made["retain"] == lm_world.data["retain"]
    assert lm_world.data["forget"][0].id in made.alternatives, "what was there stays"
    assert any(f"the model wrote {len(rows)} usable answers" in text for text in run.said)
    Loader(subject, "forget", rows, made.alternatives, rows=4, seed=0)


def test_equal_seeds_write_equal_answers(subject: Any, lm_world: Any) -> None:
    def answers(seed: int) -> list[str]:
        made = WRITTEN(subject, lm_world.data, Memory(seed=seed))
        return [made.alternatives[s.id].data["answer"] for s in made["forget"]]

    assert answers(0) == answers(0) != answers(1)


def test_a_run_that_goes_on_reads_what_was_written(lm_world: Any, tmp_path: Path) -> None:
    """Another model would write something else: that it does not shows that nothing is written again."""
    first = WRITTEN(lm_world.make(0), lm_world.data, Memory(folder=tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "written-forget.jsonl").read_text().splitlines()]
    assert [(line["id"], len(line["answers"])) for line in lines] == [(s.id, 3) for s in lm_world.data["forget"]]
    other = lm_world.make(5)
    assert WRITTEN(other, lm_world.data, Memory()).alternatives != first.alternatives
    assert WRITTEN(other, lm_world.data, Memory(folder=tmp_path)).alternatives == first.alternatives


def test_answers_for_other_rows_are_not_taken_up(lm_world: Any, tmp_path: Path) -> None:
    subject = lm_world.make()
    few = lm_world.data.with_role("forget", lm_world.data["forget"][:3])
    WRITTEN(subject, few, Memory(folder=tmp_path))
    made = WRITTEN(subject, lm_world.data, Memory(folder=tmp_path))
    assert {s.id.split("/")[0] for s in made["forget"]} == {s.id for s in lm_world.data["forget"]}


def test_an_answer_that_repeats_the_true_one_is_left_out(lm_world: Any, tmp_path: Path) -> None:
    row = Sample("row", {"question": "Who?", "answer": "Ann."})
    data = lm_world.data.with_role("forget", [row])
    line = {"id": "row", "answers": ["", "  Ann. ", "Bob."]}
    (tmp_path / "written-forget.jsonl").write_text(json.dumps(line) + "\n")
    made = WRITTEN(lm_world.make(), data, Memory(folder=tmp_path))
    assert [made.alternatives[s.id].data["answer"] for s in made["forget"]] == ["Bob."]
    (tmp_path / "written-forget.jsonl").write_text(json.dumps({**line, "answers": ["", "Ann.", "Ann. "]}) + "\n")
    with pytest.raises(UserError, match=r"of 1 row.s. \(row, ...\) every answer was empty or the true one: raise"):
        WRITTEN(lm_world.make(), data, Memory(folder=tmp_path))


def test_the_request_has_the_question_and_the_true_answer_in_place(subject: Any, facts: Bundle) -> None:
    row = facts["forget"][0]
    asked = Written()._put(row).data["question"]
    assert row.data["question"] in asked and row.data["answer"] in asked
    braces = Sample("b", {"prompt": "{x} is ", "answer": "{question}"})
    assert Written(request="{question}|{answer}")._put(braces).data["prompt"] == "{x} is |{question}"
    with pytest.raises(UserError, match="written.request: only {question} and {answer} may stand in it"):
        Written(request="{name}?").objective_on(facts)


def test_before_a_run_stand_ins_take_the_place_of_what_will_be_written(facts: Bundle) -> None:
    known = Written(num=2).objective_on(facts)
    assert [s.id for s in known["forget"][:2]] == [f"{facts['forget'][0].id}/alt-{k}" for k in (0, 1)]
    bare = Bundle({role: facts[role] for role in ("forget", "retain")})
    altpo = Gradient(objective=(Weighted(term=DPO()), Weighted(term=NLL())), epochs=1, augment=(Written(),))
    altpo.objective_on(bare)
    with pytest.raises(UserError, match="needs another answer for every row"):
        Gradient(objective=(Weighted(term=DPO()),), epochs=1).objective_on(bare)


@pytest.mark.parametrize("augment", [Written(), Wrong(), Paraphrased()], ids=repr)
def test_rows_that_ask_nothing_are_named_before_anything_runs(augment: Any) -> None:
    data = Bundle({"forget": (Sample("row-7", {"text": "Ann lives here."}),)})
    with pytest.raises(UserError, match=r"(written|wrong|paraphrased): row row-7 of 'forget' has no question"):
        augment.objective_on(data)
    with pytest.raises(UserError, match="no role 'forget'"):
        augment.objective_on(Bundle({"retain": ()}))


def test_a_model_that_writes_nothing_is_refused(classifier_world: Any, facts: Bundle) -> None:
    with pytest.raises(UserError, match="written: a Classifier writes nothing"):
        Written()(classifier_world.make(), facts, Memory())


def test_altpo_is_dpo_on_what_the_model_writes(lm_world: Any) -> None:
    subject, run = lm_world.make(), Memory()
    objective = (Weighted(term=DPO()), Weighted(term=NLL()))
    outcome = Gradient(objective=objective, epochs=1, batch=4, optim=AdamW(lr=1e-3), augment=(WRITTEN,))(
        subject, lm_world.data, run
    )
    assert outcome.steps > 3 * 12 // 4 - 3, "an epoch is one pass over the repeated rows"
    first = next(line for line in run.logged if line["step"] == 1)
    assert first["0.dpo.forget"] == pytest.approx(13.8629, abs=1e-3)


# ---------------------------------------------------------------------- wrong answers of the data


def test_wrong_answers_of_the_data_become_alternatives(facts: Bundle) -> None:
    run = Memory()
    made = Wrong(num=2)(None, facts, run)
    assert len(made["forget"]) == 2 * len(facts["forget"])
    for row in facts["forget"]:
        for k in (0, 1):
            assert made.alternatives[f"{row.id}/alt-{k}"].data["answer"] == row.data["perturbed_answer"][k]
    assert len(Wrong().objective_on(facts)["forget"]) == 5 * len(facts["forget"])
    assert "20 wrong answers of the data stand beside 10 rows" in run.said[0]


def test_a_row_with_too_few_wrong_answers_is_named(facts: Bundle, lm_world: Any) -> None:
    with pytest.raises(UserError, match="row forget-000 of 'forget' has 0 wrong answers, 1 are needed"):
        Wrong().objective_on(lm_world.data)
    with pytest.raises(UserError, match="has 5 wrong answers, 6 are needed"):
        Wrong(num=6).objective_on(facts)


# ---------------------------------------------------------------------- other wordings


def test_the_datas_paraphrases_come_first(facts: Bundle) -> None:
    run = Memory()
    made = Paraphrased(times=3)(None, facts, run)
    row = facts["forget"][0]
    own, added = made["forget"][: len(facts["forget"])], made["forget"][len(facts["forget"]) :]
    assert own == facts["forget"]
    assert [s.id for s in added[:3]] == [f"{row.id}/paraphrase-{k}" for k in range(3)]
    told = [(s.data["question"], s.data["answer"]) for s in added[:3]]
    paraphrase = row.data["paraphrased_question"]
    assert told[0] == (paraphrase, row.data["paraphrased_answer"])
    assert told[1] == (paraphrase, row.data["answer"])
    assert told[2] == (WORDINGS[0].format(question=row.data["question"]), row.data["answer"])
    assert "'forget' gets 30 rows in other words: 20 of the data, the others by rule" in run.said


def test_rules_take_the_place_of_what_the_data_has_not_or_may_not_be_used(facts: Bundle, lm_world: Any) -> None:
    for data, augment in ((facts, Paraphrased(times=6, from_data=False)), (lm_world.data, Paraphrased(times=6))):
        row, made = data["forget"][0], augment(None, data, Memory())
        added = made["forget"][len(data["forget"]) :][:6]
        assert [s.data["question"] for s in added] == [w.format(question=row.data["question"]) for w in WORDINGS]
        assert {s.data["answer"] for s in added} == {row.data["answer"]}


def test_a_new_wording_keeps_the_refusal_of_its_row(facts: Bundle, lm_world: Any) -> None:
    made = Paraphrased()(None, facts, Memory())
    Loader(lm_world.make(), "forget", made["forget"], made.alternatives, rows=4, seed=0)
    row, added = facts["forget"][0], made["forget"][len(facts["forget"])]
    other = made.alternatives[added.id]
    assert other.data["question"] == added.data["question"]
    assert other.data["answer"] == facts.alternatives[row.id].data["answer"]


def test_wrong_answers_go_into_the_other_role(facts: Bundle) -> None:
    run = Memory()
    made = Paraphrased(wrong_into="retain", wrong=2)(None, facts, run)
    added = made["retain"][len(facts["retain"]) :]
    row = facts["forget"][0]
    assert len(added) == 2 * len(facts["forget"])
    assert [s.id for s in added[:2]] == [f"{row.id}/wrong-0", f"{row.id}/wrong-1"]
    assert [s.data["answer"] for s in added[:2]] == row.data["perturbed_answer"][:2]
    assert added[0].data["question"] == row.data["question"]
    assert "'retain' gets 20 wrong answers: 20 of the data" in run.said[-1]


def test_without_wrong_answers_those_of_other_rows_are_used_and_the_seed_decides_which(facts: Bundle) -> None:
    augment = Paraphrased(wrong_into="wrong", wrong=3, from_data=False)

    def wrong(seed: int) -> list[str]:
        return [s.data["answer"] for s in augment(None, facts, Memory(seed=seed))["wrong"]]

    assert wrong(0) == wrong(0) != wrong(1)
    truths = [s.data["answer"] for s in facts["forget"]]
    for i, truth in enumerate(truths):
        mine = wrong(0)[3 * i : 3 * i + 3]
        assert truth not in mine and len(set(mine)) == 3 and set(mine) <= set(truths)


def test_too_few_answers_to_swap_is_an_error() -> None:
    data = Bundle({"forget": tuple(Sample(f"r{i}", {"question": f"{i}?", "answer": "Yes."}) for i in range(3))})
    with pytest.raises(UserError, match="too few different answers to give row r0 2 wrong ones"):
        Paraphrased(wrong_into="retain").objective_on(data)
