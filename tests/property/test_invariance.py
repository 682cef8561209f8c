"""Padding, other rows' prompts, batch order and the pad token never change what a row contributes to any term."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amends.core import catalog
from amends.core.context import Memory
from amends.core.spec import Weighted
from amends.core.types import Batch, Mean, Sample
from amends.engine.fit import fit
from amends.engine.optim import AdamW
from amends.engine.view import RoleView
from amends.subjects.causal_lm import CausalLM
from amends.subjects.reference import frozen_copy
from amends.subjects.tiny import TinyLM
from amends.terms.ceu import CEU
from amends.terms.constraint import Constraint
from amends.terms.embed_diff import EmbedDiff
from amends.terms.nll import NLL
from amends.terms.npo import NPO
from amends.terms.rmu import RMU
from amends.terms.undial import UNDIAL
from amends.terms.wga import WGA

WRAPPERS = {"constraint", "during"}
"""Terms without a role of their own."""
TERMS = [
    *(entry.load()(role="forget") for entry in catalog.list_kind("terms") if entry.name not in WRAPPERS),
    Constraint(term=NLL(role="forget")), RMU(tokens="answer"), RMU(layer=-1, relative=True, c=0.5, direction="orthant"),
    EmbedDiff(role="forget", tokens="answer", layer=1), CEU(skip_first=2), WGA(per="row"), UNDIAL(per="row", beta=3),
]  # fmt: skip
WORDS = st.lists(
    st.sampled_from(["red", "house", "Lisbon", "quite", "old", "zebra", "x", "<|end|>"]), min_size=1, max_size=12
).map(" ".join)
ROWS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def models(request: pytest.FixtureRequest, lm_world: Any) -> tuple[CausalLM, Any]:
    """A policy and a reference that disagree, in float64 so that only a real dependence shows."""
    spec = TinyLM(arch=request.param, width=32, depth=2, heads=2, vocab=300)
    policy, start = spec.load(lm_world.data, 0), spec.load(lm_world.data, 1)
    policy.module.double(), start.module.double()
    return policy, frozen_copy(start)


def samples(rows: list[tuple[str, str]]) -> list[Sample]:
    return [Sample(f"row-{i}", {"question": question, "answer": answer}) for i, (question, answer) in enumerate(rows)]


def batch_of(subject: CausalLM, rows: list[Sample]) -> Batch:
    """Rows followed by their refusals, as the loader deals them."""
    both = [*rows, *(s.with_("idk", answer="I do not know.") for s in rows)]
    return subject.collate([subject.encode(s) for s in both])


def means(subject: CausalLM, reference: Any, batch: Batch) -> list[Mean]:
    """Every term of the catalog, from one forward of each model."""
    view = RoleView(subject, batch, len(batch) // 2, reference)
    with torch.no_grad():
        return [term(view) for term in TERMS]


def test_every_term_is_looked_at() -> None:
    assert len(TERMS) >= 20
    assert {entry.name for entry in catalog.list_kind("terms")} >= WRAPPERS


@given(rows=ROWS, mark=st.randoms(use_true_random=False))
def test_a_row_counts_the_same_alone_and_anywhere_in_any_batch(models: tuple[CausalLM, Any], rows: Any, mark: Any) -> None:
    subject, reference = models
    order = samples(rows)
    mark.shuffle(order)
    together = means(subject, reference, batch_of(subject, order))
    for i, row in enumerate(order):
        alone = means(subject, reference, batch_of(subject, [row]))
        for whole, one in zip(together, alone, strict=True):
            torch.testing.assert_close(whole.total_B[i : i + 1], one.total_B, rtol=1e-6, atol=1e-6)
            assert whole.count_B[i] == one.count_B[0]


@given(question=WORDS, longer=WORDS, answer=WORDS)
def test_the_prompt_is_never_supervised(models: tuple[CausalLM, Any], question: str, longer: str, answer: str) -> None:
    """Whatever the prompt, n is the answer's tokens and EOS, and nll is the sum over exactly those positions."""
    subject, _ = models
    rows = samples([(question, answer), (f"{question} {longer}", answer)])
    batch = subject.collate([subject.encode(s) for s in rows])
    like = subject.likelihood(batch)
    assert like.n_B.tolist() == [len(subject.tokenizer(" " + answer)["input_ids"]) + 1] * 2
    for i, row in enumerate(rows):
        prompt, target = subject.prompt_ids(row), subject.answer_ids(row)
        assert target[-1] == subject.tokenizer.eos_token_id
        logp = torch.log_softmax(subject.module(torch.tensor([prompt + target])).logits[0], -1)
        by_hand = -sum(logp[len(prompt) + t - 1, token] for t, token in enumerate(target))
        torch.testing.assert_close(like.nll_B[i], by_hand, rtol=1e-6, atol=1e-6)


@given(rows=ROWS)
def test_a_pad_token_equal_to_eos_changes_nothing(models: tuple[CausalLM, Any], rows: Any) -> None:
    subject, reference = models
    twin = CausalLM(subject.module, copy.deepcopy(subject.tokenizer))
    twin.tokenizer.pad_token = twin.tokenizer.eos_token
    assert twin.tokenizer.pad_token_id == twin.tokenizer.eos_token_id != subject.tokenizer.pad_token_id
    ours = means(subject, reference, batch_of(subject, samples(rows)))
    theirs = means(twin, reference, batch_of(twin, samples(rows)))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.total_B, other.total_B)
        assert torch.equal(one.count_B, other.count_B)


def test_a_pad_token_equal_to_eos_changes_no_training_step(lm_world: Any) -> None:
    def trained(pad_is_eos: bool) -> CausalLM:
        subject = lm_world.make()
        if pad_is_eos:
            subject.tokenizer.pad_token = subject.tokenizer.eos_token
        fit(subject, [Weighted(term=NPO())], lm_world.data, steps=3, optim=AdamW(lr=1e-3), reference="start", run=Memory())
        return subject

    for p, q in zip(trained(False).module.parameters(), trained(True).module.parameters(), strict=True):
        assert torch.equal(p, q)


@given(rows=ROWS)
def test_half_the_digits_give_half_the_digits(models: tuple[CausalLM, Any], rows: Any) -> None:
    """float32 agrees with float64 to float32's own precision."""
    subject, reference = models
    small = CausalLM(copy.deepcopy(subject.module).float(), subject.tokenizer)
    batch = batch_of(subject, samples(rows))
    for wide, narrow in zip(means(subject, reference, batch), means(small, reference, batch), strict=True):
        torch.testing.assert_close(narrow.total_B.double(), wide.total_B.double(), rtol=1e-4, atol=1e-3)


@given(rows=ROWS)
def test_totals_and_counts_add_up_over_any_cut_of_a_batch(models: tuple[CausalLM, Any], rows: Any) -> None:
    """What accumulation and several processes rest on."""
    subject, reference = models
    every = samples(rows)
    whole = means(subject, reference, batch_of(subject, every))
    parts = [means(subject, reference, batch_of(subject, part)) for part in (every[::2], every[1::2]) if part]
    for i, mean in enumerate(whole):
        torch.testing.assert_close(mean.total_B.sum(), sum(p[i].total_B.sum() for p in parts), rtol=1e-6, atol=1e-6)
        assert mean.count_B.sum() == sum(p[i].count_B.sum() for p in parts)
