"""Activations inside a model: what `hidden` gives, what it leaves uncomputed, and which positions predict an answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.spec import Weighted
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.edits.only_blocks import OnlyBlocks
from amends.engine.fit import fit
from amends.engine.optim import SGD, AdamW
from amends.subjects.blocks import blocks, place
from amends.subjects.tiny import TinyLM
from amends.terms.logit_flattening import LogitFlattening
from amends.terms.nll import NLL
from amends.terms.rmu import RMU
from amends.terms.undial import UNDIAL

ROWS = [
    Sample("short", {"question": "Who?", "answer": "Ann."}),
    Sample("long", {"question": "Who lives in the old house in Lisbon?", "answer": "A very old man with a dog."}),
]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def subject(request: pytest.FixtureRequest, lm_world: Any) -> Any:
    made = TinyLM(arch=request.param, width=32, depth=4, heads=2, vocab=300).load(lm_world.data, 0)
    made.module.double()
    return made


def batch_of(subject: Any, rows: list[Sample]) -> Any:
    return subject.collate([subject.encode(s) for s in rows])


@pytest.mark.parametrize("at", [0, 1, 2, -2])
def test_it_is_what_transformers_calls_hidden_states(subject: Any, at: int) -> None:
    batch = batch_of(subject, ROWS)
    everything = subject.module(batch["input_ids"], output_hidden_states=True).hidden_states
    hidden = subject.hidden(batch, at)
    lengths = [subject.encode(s).size for s in ROWS]
    for i, length in enumerate(lengths):
        torch.testing.assert_close(hidden.state_NC[hidden.row_N == i], everything[place(at, 4) + 1][i, :length])
    assert len(hidden.row_N) == sum(lengths)


def test_the_last_block_is_taken_before_the_final_norm(subject: Any) -> None:
    batch = batch_of(subject, ROWS[:1])
    backbone = subject.module.base_model
    norm = backbone.norm if hasattr(backbone, "norm") else backbone.ln_f
    expected = subject.module(batch["input_ids"], output_hidden_states=True).hidden_states[-1][0]
    torch.testing.assert_close(norm(subject.hidden(batch, -1).state_NC), expected)


def test_padding_changes_nothing_and_does_not_appear(subject: Any) -> None:
    alone, together = subject.hidden(batch_of(subject, ROWS[:1]), 1), subject.hidden(batch_of(subject, ROWS), 1)
    torch.testing.assert_close(together.rows(0, 1).state_NC, alone.state_NC)
    assert together.rows(0, 1).answer_N.tolist() == alone.answer_N.tolist()
    assert together.rows(1, 2).row_N.unique().tolist() == [0]


def test_nothing_behind_the_block_is_computed_and_the_next_forward_is_whole(subject: Any) -> None:
    called: list[int] = []
    hooks = [b.register_forward_hook(lambda m, a, o, i=i: called.append(i)) for i, b in enumerate(blocks(subject.module))]
    hooks.append(subject.module.get_output_embeddings().register_forward_hook(lambda m, a, o: called.append(99)))
    try:
        batch = batch_of(subject, ROWS)
        before = subject.likelihood(batch).nll_B
        called.clear()
        subject.hidden(batch, 1).state_NC.sum().backward()
        assert called == [0, 1]
        torch.testing.assert_close(subject.likelihood(batch).nll_B, before)
    finally:
        for hook in hooks:
            hook.remove()
        reached = {i for i, b in enumerate(blocks(subject.module)) for p in b.parameters() if p.grad is not None}
        subject.module.zero_grad(set_to_none=True)
    assert reached == {0, 1}


def test_a_block_is_an_index_or_a_share_of_the_depth(subject: Any) -> None:
    batch = batch_of(subject, ROWS)
    for share, index in ((0.0, 0), (0.25, 1), (0.5, 2), (0.99, 3), (1.0, 3)):
        assert torch.equal(subject.hidden(batch, share).state_NC, subject.hidden(batch, index).state_NC)
    with pytest.raises(UserError, match="there is no block 4: the model has 4, 0 to 3"):
        subject.hidden(batch, 4)
    assert [place(0.22, n) for n in (2, 16, 32)] == [0, 3, 7]


# ---------------------------------------------------------------------- which positions predict the answer


def test_the_positions_that_predict_the_answer_are_those_before_it(subject: Any) -> None:
    """open-unlearning masks by unshifted labels: it takes the positions one later, the closing token's included."""
    hidden = subject.hidden(batch_of(subject, ROWS), 1)
    for i, row in enumerate(ROWS):
        prompt, answer = len(subject.prompt_ids(row)), len(subject.answer_ids(row))
        chosen = hidden.answer_N[hidden.row_N == i].nonzero().flatten().tolist()
        assert chosen == list(range(prompt - 1, prompt + answer - 1))


class _View:
    """One batch, its likelihood and that of the start model."""

    def __init__(self, subject: Any, batch: Any) -> None:
        self.policy = self.reference = subject.likelihood(batch)


def test_logit_flattening_and_undial_read_the_logits_that_predict_the_answer(subject: Any) -> None:
    """PDU's mask is off by one, UNDIAL's average runs over prompt and padding; here each position by hand."""
    batch = batch_of(subject, ROWS)
    logits = subject.module(batch["input_ids"]).logits
    flattening, undial = LogitFlattening()(_View(subject, batch)), UNDIAL(beta=3)(_View(subject, batch))
    for i, row in enumerate(ROWS):
        prompt, target = len(subject.prompt_ids(row)), torch.tensor(subject.answer_ids(row))
        z = logits[i, prompt - 1 : prompt - 1 + len(target)]
        torch.testing.assert_close(flattening.total_B[i], (z.max(1).values - z.mean(1)).square().sum())
        lowered = z - 3 * torch.nn.functional.one_hot(target, z.shape[1])
        torch.testing.assert_close(undial.total_B[i], -(lowered.softmax(1) * z.log_softmax(1)).sum())
        assert flattening.count_B[i] == undial.count_B[i] == len(target)


# ---------------------------------------------------------------------- training some blocks only


def moved(subject: Any, edit: OnlyBlocks, term: Any, optim: Any) -> set[str]:
    before = {n: p.detach().clone() for n, p in subject.module.named_parameters()}
    rows = [Sample(f"row-{i}", s.data) for i, s in enumerate(ROWS)]
    fit(subject, [Weighted(term=term)], Bundle({"forget": tuple(rows)}), steps=2, optim=optim, edits=[edit], run=Memory())
    assert all(p.requires_grad for p in subject.module.parameters()), "a fit gives the subject back as it was"
    return {n for n, p in subject.module.named_parameters() if not torch.equal(p, before[n])}


@pytest.mark.parametrize(("arch", "only"), [("llama", "*down_proj*"), ("gpt2", "*mlp.c_proj.weight")])
def test_rmu_trains_three_matrices(lm_world: Any, arch: Any, only: str) -> None:
    subject = TinyLM(arch=arch, width=16, depth=5, heads=2, vocab=300).load(lm_world.data, 0)
    names = moved(subject, OnlyBlocks(layer=3, only=(only,)), RMU(layer=3), AdamW(lr=1e-2, weight_decay=0.1))
    stem = "model.layers.{}.mlp.down_proj.weight" if arch == "llama" else "transformer.h.{}.mlp.c_proj.weight"
    assert names == {stem.format(i) for i in (1, 2, 3)}


def test_only_blocks_takes_as_many_blocks_as_there_are(lm_world: Any) -> None:
    subject = TinyLM(width=16, depth=4, heads=2, vocab=300).load(lm_world.data, 0)
    names = moved(subject, OnlyBlocks(layer=0.25), NLL(role="forget"), SGD(lr=1.0))
    assert {n.split(".")[2] for n in names} == {"0", "1"} and all(n.startswith("model.layers.") for n in names)


def test_only_blocks_names_what_it_did_not_find(lm_world: Any) -> None:
    subject = TinyLM(width=16, depth=2, heads=2, vocab=300).load(lm_world.data, 0)
    with pytest.raises(UserError, match=r"only_blocks: no weight of the blocks up to 0 matches \['\*fc9\*'\]: they have model"):
        moved(subject, OnlyBlocks(only=("*fc9*",)), NLL(role="forget"), SGD())


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_a_model_of_one_block_has_that_block(lm_world: Any, arch: Any) -> None:
    one = TinyLM(arch=arch, width=16, depth=1, heads=2, vocab=300).load(lm_world.data, 0)
    batch = batch_of(one, ROWS)
    assert len(blocks(one.module)) == 1
    assert one.hidden(batch, 0).state_NC.shape[1] == 16
