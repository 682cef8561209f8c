"""Attacks that ask in another way, which rows an attacker is given, and where a decoder is cut."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from amends.attack.asking import asked_otherwise
from amends.attack.depth import cut
from amends.attack.few_shot import FewShot, gives_away
from amends.attack.logit_lens import LogitLens
from amends.attack.paraphrase import FRAMES, Paraphrase, reworded
from amends.attack.prefix import PRESETS, Prefix
from amends.attack.probe import Probe
from amends.attack.quantise import Quantise
from amends.attack.relearn import Relearn
from amends.core import catalog
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.spec import build_use
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.metrics.evaluation import Evaluation
from amends.metrics.probability import Probability
from amends.report import words
from amends.subjects.tiny import TinyLM

CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


def row(number: int, **extra: Any) -> Sample:
    """A row about a person, whose answer no other row holds."""
    answer = {"question": f"Where does person {number} live?", "answer": f"In town {chr(65 + number) * 3}."}
    return Sample(f"row-{number}", {**answer, **extra})


@pytest.fixture
def data() -> Bundle:
    """Three rows to forget, four to retain."""
    forget = [row(i, paraphrased_question=f"Which town is person {i}'s home?") for i in range(3)]
    return Bundle({"forget": tuple(forget), "retain": tuple(row(i) for i in range(3, 7))})


@pytest.fixture
def subject(data: Bundle) -> Any:
    """Random weights and a tokenizer."""
    return TinyLM(width=16, depth=3, heads=2, vocab=300).load(data, 0)


def shown(subject: Any, sample: Sample) -> str:
    """The prompt as the model sees it."""
    return subject.tokenizer.decode(subject.prompt_ids(sample))


# ---------------------------------------------------------------------- prefixes


@pytest.mark.parametrize("kind", PRESETS)
@pytest.mark.parametrize("chat", [False, True])
def test_the_words_of_a_prefix_stand_where_they_belong(kind: str, chat: bool, subject: Any, data: Bundle) -> None:
    subject.tokenizer.chat_template = CHAT if chat else None
    words, question = PRESETS[kind], data["forget"][0].data["question"]
    asked = shown(subject, Prefix(kind=kind)(subject, data, Memory())["forget"][0])
    user, _, answer = asked.partition("<assistant>" if chat else "\nAnswer:")
    assert user.endswith(" ".join(filter(None, [words.before, question, words.after])))
    assert answer.strip() == words.lead
    assert any(words)


def test_own_words_replace_a_preset_and_an_unknown_one_is_said(subject: Any, data: Bundle) -> None:
    own = Prefix(kind="mine", lead=" It is well known that ")
    assert own.name == "prefix-mine"
    asked = own(subject, data, Memory())["forget"][1]
    assert asked.data["lead"] == "It is well known that"
    assert asked.data["question"] == data["forget"][1].data["question"]
    with pytest.raises(UserError, match=r"no prefix is called 'shure' \(did you mean 'sure'\?\)"):
        Prefix(kind="shure").objective_on(data)
    with pytest.raises(UserError, match=r"attack\.0\.kind"):
        build_use("attacks", {"use": "prefix", "kind": "a.b"}, "attack.0")


def test_a_bare_prompt_keeps_the_space_that_parts_it_from_its_answer(subject: Any) -> None:
    rows = (Sample("a", {"prompt": "The capital is ", "answer": "X."}), Sample("b", {"prompt": "It is", "answer": " Y."}))
    data = Bundle({"forget": rows})
    a, b = Prefix(before="Listen.", after="Speak.", lead="Sure:")(subject, data, Memory())["forget"]
    assert (a.data["prompt"], b.data["prompt"]) == ("Listen. The capital is Speak. Sure: ", "Listen. It is Speak. Sure:")
    told = FewShot(shots=1, shown="forget")(subject, data, Memory())["forget"]
    assert [s.data["prompt"] for s in told] == ["It isY.\n\nThe capital is ", "The capital is X.\n\nIt is"]


def test_a_row_that_no_longer_fits_stays_and_is_said(data: Bundle) -> None:
    small = TinyLM(width=16, depth=1, heads=2, vocab=300, context=60).load(data, 0)
    run = Memory()
    after = Prefix(kind="expert")(small, data, run)
    assert after["forget"] == data["forget"]
    assert run.said == ["3 of 3 rows are asked as they were: no changed form fits the model's context"]


def test_a_changed_row_is_changed_in_every_role_and_for_derived_rows(subject: Any, data: Bundle) -> None:
    both = data.with_role("all", (*data["forget"], *data["retain"]))
    after = Prefix(kind="ignore")(subject, both, Memory())
    assert after["all"][:3] == after["forget"]
    assert after["all"][3:] == after["retain"] == data["retain"]
    assert after["forget"][0].data["paraphrased_question"].startswith("Ignore")
    nothing = asked_otherwise(subject, both, "forget", lambda s: (s,), Memory())
    assert nothing == both


# ---------------------------------------------------------------------- few-shot


@pytest.mark.parametrize("shown_role", ["retain", "forget"])
@pytest.mark.parametrize("pick", ["random", "similar"])
def test_the_turns_shown_are_other_rows_and_a_function_of_the_seed(
    shown_role: str, pick: Any, subject: Any, data: Bundle
) -> None:
    attack = FewShot(shots=2, shown=shown_role, pick=pick)
    after = attack(subject, data, Memory())
    for old, new in zip(data["forget"], after["forget"], strict=True):
        turns = new.data["before"]
        known = {(s.data["question"], s.data["answer"]) for s in data[shown_role] if s.id != old.id}
        assert {(t["question"], t["answer"]) for t in turns} <= known
        assert len(turns) == len({t["question"] for t in turns}) == 2
        text = shown(subject, new)
        assert old.data["answer"] not in text and text.count("Answer:") == 3
    assert attack(subject, data, Memory())["forget"] == after["forget"]
    other = [attack(subject, data, Memory(seed=s))["forget"] for s in range(1, 6)]
    assert any(rows != after["forget"] for rows in other)


def test_a_turn_that_gives_the_answer_away_is_never_shown() -> None:
    asked = Sample("a", {"question": "Where was Ada born?", "answer": "In Oslo.", "keys": ["Oslo"]})

    def turn(question: str, answer: str) -> Sample:
        return Sample("b", {"question": question, "answer": answer})

    assert gives_away(asked, asked)
    assert gives_away(turn("where was Ada born? ", "In a town."), asked)
    assert gives_away(turn("Where does Ada live?", "She never left OSLO."), asked)
    assert gives_away(turn("What was told?", "She was born in oslo"), asked)
    assert not gives_away(turn("Where does Ada live?", "In Rome."), asked)


def test_similar_turns_share_the_rare_words_and_the_nearest_one_stands_last(subject: Any) -> None:
    names, asked = ("Ada", "Bo", "Cy"), ("live", "work", "swim")
    rows = [Sample(f"{n}-{v}", {"question": f"Where does {n} {v}?", "answer": f"In {n}{v}."}) for n in names for v in asked]
    data = Bundle({"forget": tuple(rows[:1]), "retain": tuple(rows[1:])})
    turns = FewShot(shots=4, pick="similar")(subject, data, Memory())["forget"][0].data["before"]
    assert all("Ada" in t["question"] or "live" in t["question"] for t in turns)
    twice = Sample("twin", {"question": "Where does Ada live now?", "answer": "In a town."})
    near = data.with_role("retain", (*data["retain"], twice))
    turns = FewShot(shots=4, pick="similar")(subject, near, Memory())["forget"][0].data["before"]
    assert turns[-1]["question"] == twice.data["question"]


def test_only_as_many_turns_are_shown_as_fit(data: Bundle) -> None:
    lengths = []
    for context in (60, 120, 512):
        small = TinyLM(width=16, depth=1, heads=2, vocab=300, context=context).load(data, 0)
        rows = FewShot(shots=4)(small, data, Memory())["forget"]
        lengths.append(len(rows[0].data.get("before", ())))
        assert all(small.encode(r).size <= context for r in rows)
    assert lengths[0] < lengths[1] < lengths[2] == 4


# ---------------------------------------------------------------------- paraphrases


def test_the_rows_own_words_are_asked_and_a_row_without_any_is_named(subject: Any, data: Bundle) -> None:
    after = Paraphrase()(subject, data, Memory())["forget"]
    assert [s.data["question"] for s in after] == [s.data["paraphrased_question"] for s in data["forget"]]
    assert [s.data["answer"] for s in after] == [s.data["answer"] for s in data["forget"]]
    with pytest.raises(UserError, match="role 'retain', row row-3: has no 'paraphrased_question'"):
        Paraphrase(role="retain").objective_on(data)
    assert Paraphrase(role="retain", by="rule").objective_on(data) == ()


def test_rules_reword_every_question_and_keep_its_words(subject: Any, data: Bundle) -> None:
    assert reworded("Who wrote Hamlet?", 0) == "Give the name of the one who wrote Hamlet."
    assert reworded("what was the name of the ship of Ada?", 0) == "Tell me the name of the ship of Ada."
    for choice in range(len(FRAMES)):
        text = reworded("When was Ada's first book printed?", choice)
        assert "When was Ada's first book printed?" in text and text != "When was Ada's first book printed?"
    after = Paraphrase(by="rule")(subject, data, Memory())["forget"]
    assert all(old.data["question"] in new.data["question"] for old, new in zip(data["forget"], after, strict=True))
    assert all(old.data["question"] != new.data["question"] for old, new in zip(data["forget"], after, strict=True))


# ---------------------------------------------------------------------- relearning: who has what


def test_an_attackers_rows_are_drawn_by_the_seed_or_are_the_shortest(data: Bundle) -> None:
    lengths = {"a": 9, "b": 2, "c": 7, "d": 1, "e": 5}
    rows = tuple(Sample(i, {"question": "q", "answer": "x" * n}) for i, n in lengths.items())
    rows += (Sample("f", {"text": "xxx"}),)
    many = Bundle({"forget": rows})
    assert Relearn(rows=3, order="shortest").held(many, 0) == {"d", "b", "f"}
    drawn = {Relearn(rows=3).held(many, seed) for seed in range(8)}
    assert len(drawn) > 1 and all(len(d) == 3 for d in drawn)
    assert Relearn(rows=3).held(many, 5) == Relearn(share=0.5).held(many, 5)
    assert Relearn().held(many, 0) == set("abcdef")
    assert Relearn(share=0.01).held(many, 0) == Relearn(rows=1).held(many, 0)
    assert Relearn(role="retain").held(data, 0) == {s.id for s in data["retain"]}


def test_impossible_attackers_are_refused(data: Bundle) -> None:
    with pytest.raises(UserError, match="rows: the role 'forget' has 3 rows, not 4"):
        Relearn(rows=4).objective_on(data)
    with pytest.raises(UserError, match="give either `rows` or `share`"):
        Relearn(rows=2, share=0.5).objective_on(data)
    with pytest.raises(UserError, match="no other questions with answers"):
        FewShot(shown="alone").objective_on(data.with_role("alone", ()))
    with pytest.raises(UserError, match="no other questions with answers"):
        FewShot(shown="forget").objective_on(data.with_role("forget", data["forget"][:1]))


# ---------------------------------------------------------------------- cutting a decoder


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_a_cut_model_is_its_first_blocks_under_its_own_norm_and_head(arch: Any, data: Bundle) -> None:
    subject = TinyLM(arch=arch, width=16, depth=3, heads=2, vocab=300).load(data, 0)
    whole = copy.deepcopy(subject.module)
    ids = torch.tensor([subject.tokenizer("Where does person 1 live?")["input_ids"]])
    states = whole(ids, output_hidden_states=True).hidden_states
    norm = whole.model.norm if arch == "llama" else whole.transformer.ln_f
    behind = cut(subject, 1)
    torch.testing.assert_close(subject.module(ids).logits, whole.lm_head(norm(states[2])))
    assert subject.module.config.num_hidden_layers == 2
    assert sum(p.numel() for p in behind) == sum(p.numel() for m in (norm, whole.lm_head) for p in m.parameters())
    with torch.no_grad():
        subject.module.get_output_embeddings().weight.zero_()
    assert subject.module.get_input_embeddings().weight.abs().sum() > 0  # no longer tied
    list(subject.generate(data["forget"], max_new_tokens=2))


def test_depths_are_an_index_or_a_share(data: Bundle, subject: Any) -> None:
    assert [Probe(at=a).name for a in (0.5, 1.0, 3, 0)] == ["probe-50", "probe-100", "probe-L3", "probe-L0"]
    assert [LogitLens(at=a).name for a in (0.25, 2)] == ["logit_lens-25", "logit_lens-L2"]
    for at, kept in ((0.5, 2), (0.1, 1), (1.0, 3), (0, 1), (2, 3)):
        one = TinyLM(width=16, depth=3, heads=2, vocab=300).load(data, 0)
        LogitLens(at=at)(one, data, Memory())
        assert len(one.module.model.layers) == kept
    with pytest.raises(UserError, match="there is no block 3: the model has 3, 0 to 2"):
        LogitLens(at=3)(subject, data, Memory())
    for wrong in (-1, 1.5):
        with pytest.raises(UserError, match=r"attack\.0\.at"):
            build_use("attacks", {"use": "probe", "at": wrong}, "attack.0")


def test_the_lens_at_the_last_block_changes_nothing(data: Bundle, subject: Any) -> None:
    before = Probability().measure(Evaluation(subject, data)).value
    LogitLens(at=1.0)(subject, data, Memory())
    assert Probability().measure(Evaluation(subject, data)).value == before


@pytest.mark.parametrize(
    ("attack", "label"),
    [
        (Relearn(), "relearning"),
        (Relearn(share=0.5), "relearning on 50 % of the rows"),
        (Relearn(rows=4, order="shortest"), "relearning on 4 of the rows, the shortest"),
        (Relearn(role="retain"), "relearning on the retain rows"),
        (Relearn(role="retain", share=0.125), "relearning on 12.5 % of the retain rows"),
        (Quantise(kind="8bit"), "quantising to 8 bits"),
        (Quantise(head=True), "quantising to 4 bits (NF4), the output head too"),
        (Prefix(kind="sure"), "the prefix 'sure'"),
        (FewShot(shots=2), "showing 2 answered questions"),
        (FewShot(shown="forget", pick="similar"), "showing 4 similar answered questions of forget"),
        (Paraphrase(by="rule"), "asking in other words, by rule"),
        (Probe(), "a probe at 50 % of the depth"),
        (LogitLens(at=3), "the logit lens at block 3"),
    ],
)
def test_an_attack_says_in_words_what_it_does(attack: Any, label: str) -> None:
    assert attack.label == label


def test_every_attack_has_words_of_its_own() -> None:
    for entry in catalog.list_kind("attacks"):
        assert hasattr(entry.load(), "label"), entry.name


def test_the_report_has_words_for_every_default_attack() -> None:
    named = [Relearn(), Prefix(), FewShot(), Paraphrase(), Probe(), LogitLens(), *(Prefix(kind=k) for k in PRESETS)]
    for attack in named:
        assert words.attack(attack.name) != attack.name.replace("_", " ").replace(".", " ")
