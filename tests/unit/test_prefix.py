"""What all rows begin with is computed once, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from amends.core.context import Memory
from amends.core.spec import Weighted
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.engine.fit import fit
from amends.engine.optim import AdamW
from amends.subjects import causal_lm, prefix
from amends.subjects.lora import Lora
from amends.subjects.tiny import TinyLM
from amends.terms.kl import KL
from amends.terms.nll import NLL
from amends.terms.npo import NPO

TEMPLATE = (
    "system: You are a patient and truthful assistant of the town's old library, and you never guess.\n"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def rows(role: str) -> tuple[Sample, ...]:
    asked = [f"Who {'once ' * (i % 3)}lives at {role} {i}?" for i in range(6)]
    said = ["An " + "old " * (i % 4) + f"man, {i}." for i in range(6)]
    return tuple(Sample(f"{role}-{i}", {"question": q, "answer": a}) for i, (q, a) in enumerate(zip(asked, said, strict=True)))


DATA = Bundle({role: rows(role) for role in ("forget", "retain")})


def chat(arch: Any, seed: int = 0) -> Any:
    """A tiny model whose chat template begins every row with the same sentence."""
    subject = TinyLM(arch=arch, width=32, depth=2, heads=2, vocab=400).load(DATA, seed)
    subject.tokenizer.chat_template = TEMPLATE
    return subject


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Switches sharing off for as long as a function runs."""

    def without(call: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(causal_lm, "can_share", lambda _: False)
            return call()

    return without


def batch_of(subject: Any, role: str = "forget") -> Any:
    return subject.collate([subject.encode(s) for s in DATA[role]])


def gradients(subject: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    subject.module.zero_grad()
    like = subject.likelihood(batch_of(subject))
    (like.nll_B * torch.arange(1.0, 1 + len(like.nll_B))).sum().backward()
    return like.nll_B.detach(), {n: p.grad.clone() for n, p in subject.module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
@pytest.mark.parametrize("lora", [False, True])
def test_likelihood_and_gradients_are_those_of_the_plain_way(arch: str, lora: bool, plain: Any) -> None:
    subject = Lora(rank=4).attach(chat(arch), seed=0) if lora else chat(arch)
    batch = batch_of(subject)
    assert prefix.can_share(subject.module)
    assert prefix.shared_length(batch["input_ids"], 10_000) > 15, "otherwise this test shows nothing"
    shared, shared_grads = gradients(subject)
    usual, usual_grads = plain(lambda: gradients(subject))
    torch.testing.assert_close(shared, usual, rtol=1e-5, atol=1e-5)
    assert shared_grads.keys() == usual_grads.keys()
    for name, expected in usual_grads.items():
        torch.testing.assert_close(shared_grads[name], expected, rtol=1e-3, atol=1e-4)


def test_the_shared_tokens_go_through_the_network_as_one_row() -> None:
    subject, seen = chat("llama"), []
    hook = subject.module.model.layers[0].mlp.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[:2].numel()))
    batch = batch_of(subject)
    subject.likelihood(batch)
    hook.remove()
    num_rows, length = batch["input_ids"].shape
    common = seen[0]
    assert common > 15 and seen[1:] == [num_rows * (length - common)]


def test_a_row_alone_and_rows_with_little_in_common_take_the_plain_way() -> None:
    ids = torch.tensor([[5, 6, 7, 1, 2, 9, 9, 9, 9, 9], [5, 8, 7, 3, 4, 9, 9, 9, 9, 9]])
    assert prefix.shared_length(ids[:1], 9) == 0
    assert prefix.shared_length(ids, 9) == 0, "one token in ten is not worth a forward"
    assert prefix.shared_length(ids[:, 2:3].expand(2, 10), 0) == 0, "no position before the first answer is left"


def test_a_prediction_of_the_first_token_behind_the_prefix_keeps_its_position() -> None:
    """Equal prompts: all rows agree up to the answer, whose first token is predicted from the last shared one."""
    subject = chat("llama")
    same = [
        Sample(f"r{i}", {"question": "Who lives here?", "answer": a})
        for i, a in enumerate(("Ann.", "Bob, the old one.", "Eve"))
    ]
    encoded = [subject.encode(s) for s in same]
    together = subject.likelihood(subject.collate(encoded)).nll_B
    alone = torch.cat([subject.likelihood(subject.collate([e])).nll_B for e in encoded])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_models_of_another_kind_are_left_alone() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                           num_key_value_heads=2, sliding_window=8)  # fmt: skip
    assert not prefix.can_share(MistralForCausalLM(config))
    config.sliding_window = None
    assert prefix.can_share(MistralForCausalLM(config))


def test_training_with_a_shared_prefix_follows_the_plain_trajectory(plain: Any) -> None:
    objective = [Weighted(term=NPO()), Weighted(term=NLL()), Weighted(term=KL(), weight=0.5)]

    def losses() -> list[float]:
        run = Memory()
        fit(chat("llama"), objective, DATA, steps=4, optim=AdamW(lr=1e-3), batch=4, reference="start", run=run)
        return [line["loss"] for line in run.logged if line["step"]]

    assert losses() == pytest.approx(plain(losses), rel=1e-4)
