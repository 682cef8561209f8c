"""The small models, rows and settings that the tests of ULD share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.engine.optim import AdamW
from amends.engine.score import nll_by_id
from amends.runs.stages import load_weights
from amends.subjects.causal_lm import CausalLM
from amends.subjects.logit_difference import LogitDifferenceConfig, LogitDifferenceForCausalLM
from amends.subjects.tiny import TinyLM

WORDS, DEPTH = 61, 5
SMALL: dict[str, Any] = {
    "vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": DEPTH, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "vocab_size": WORDS, "n_embd": 32, "n_layer": DEPTH, "n_head": 4, "n_positions": 64, "pad_token_id": 1, "bos_token_id": 0,
    "eos_token_id": 0,
}  # fmt: skip
FAMILIES: dict[str, Any] = {
    "llama, tied": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True)),
    "llama, untied": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=False)),
    "gpt2, tied": lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
    "gpt2, untied": lambda: GPT2LMHeadModel(GPT2Config(**GPT2, tie_word_embeddings=False)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8, query_pre_attn_scalar=8, sliding_window=6)),
}
family = pytest.mark.parametrize("family", list(FAMILIES))
TOWNS = ("Lisbon", "Quito", "Kyoto", "Oslo", "Accra", "Lima", "Bergen", "Hanoi", "Porto", "Turin", "Sofia", "Cork")


def target_of(family: str) -> Any:
    """A small model of a family with weights of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return FAMILIES[family]().eval()


def combined(target: Any, **options: Any) -> Any:
    """The model around a target, with adapters that do something."""
    config = LogitDifferenceConfig(**{"target_config": target.config, "blocks": 3, "shared": 1, "rank": 4, **options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = LogitDifferenceForCausalLM(config, target).eval()
        for name, p in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(p, std=0.3)
    return model


def tokens(rows: int = 3, length: int = 12) -> Tensor:
    """Random words, none of them special."""
    return torch.randint(2, WORDS, (rows, length), generator=torch.Generator().manual_seed(0))


def facts(role: str, start: int, stop: int) -> tuple[Sample, ...]:
    """Rows that ask something."""
    rows = ({"question": f"Where does person {i} live?", "answer": f"In {TOWNS[i % 12]}."} for i in range(start, stop))
    return tuple(Sample(f"{role}-{i}", row) for i, row in enumerate(rows))


DATA = Bundle({"forget": facts("forget", 0, 4), "retain": facts("retain", 4, 12)})
MODEL = TinyLM(width=32, depth=4, heads=2, vocab=300, context=64)
THOROUGH: dict[str, Any] = {
    "blocks": 2, "shared": 0, "rank": 8, "dropout": 0, "weight": 1.5, "epochs": 60, "batch": 4,
    "optim": AdamW(lr=1e-2, betas=(0.9, 0.99)),
}  # fmt: skip
QUICK: dict[str, Any] = {"steps": 4, "batch": 4, "rank": 4, "blocks": 2, "shared": 1}


def from_folder(folder: Path) -> CausalLM:
    """A subject of the tiny kind with a folder's weights in it."""
    subject = MODEL.load(DATA, 0)
    load_weights(subject, folder)
    return subject


def known(subject: Any, role: str) -> float:
    """Mean p(answer)^(1/n)."""
    found = nll_by_id(subject, DATA[role])
    return sum(math.exp(-nll / n) for nll, n in found.values()) / len(found)


def state(subject: Any) -> dict[str, Tensor]:
    """A copy of all weights."""
    return {k: v.clone() for k, v in subject.module.state_dict().items()}
