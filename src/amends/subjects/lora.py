"""Low-rank adapters (LoRA, arXiv 2106.09685) on a causal language model, by peft.

Only the adapter is trained: `h = W x + (alpha / rank) B A x` with B zero at the start, so the adapted model begins as
the model it was, and switching the adapter off gives that model back. A term that compares with the start model
therefore needs no second copy of the weights.
"""

from __future__ import annotations

import warnings
from typing import Annotated, Any

import torch
from pydantic import Field

from amends.core.errors import UserError
from amends.core.rng import stream_seed
from amends.core.spec import Count, Positive, spec
from amends.subjects.causal_lm import CausalLM


@spec
class Lora:
    """Low-rank adapters on the linear layers: trains a few per cent of the weights, keeps the rest as they were."""

    rank: Count = 8
    """Columns of A's transpose and of B: 8 in TOFU, 8 to 32 elsewhere."""
    alpha: Positive = 16.0
    """The adapter's output is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of an adapter's inputs that is dropped in training; ratio terms such as NPO want 0."""
    targets: str | tuple[str, ...] = "all-linear"
    """Names of the layers that get an adapter, or `all-linear` for every one but the output head."""

    def attach(self, subject: CausalLM, seed: int) -> CausalLM:
        """Puts a fresh adapter into the subject's model, freezes the rest, and returns the subject."""
        from peft import LoraConfig, get_peft_model

        if not isinstance(subject, CausalLM):
            raise UserError(f"lora: adapts causal language models, not a {type(subject).__name__}")
        targets = self.targets if isinstance(self.targets, str) else list(self.targets)
        scale: Any = self.alpha  # peft annotates an int and takes any number
        config = LoraConfig(
            r=self.rank, lora_alpha=scale, lora_dropout=self.dropout, target_modules=targets, task_type="CAUSAL_LM"
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.manual_seed(stream_seed(seed, "lora"))  # inside fork_rng: no global stream is moved
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # peft 0.21 reads it
            warnings.filterwarnings("ignore", "fan_in_fan_out is set to")  # peft sets it right by itself
            try:
                adapted = get_peft_model(subject.module, config)
            except ValueError as error:
                raise UserError(f"lora.targets: {error}") from None
        subject.wrap(adapted.eval())
        return subject

    def merge(self, subject: CausalLM) -> CausalLM:
        """Adds the adapter into the weights and takes it off: an ordinary model that any library loads."""
        subject.wrap(subject.module.merge_and_unload().requires_grad_(True))
        return subject
