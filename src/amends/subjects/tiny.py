"""Models small enough for a laptop CPU and for tests: the same code paths as the large ones, at a millionth of the cost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from amends.core.rng import stream_seed
from amends.core.spec import Count, spec
from amends.data.bundle import Bundle
from amends.subjects.causal_lm import CausalLM
from amends.subjects.classifier import Classifier
from amends.subjects.diffusion import Denoiser

TEXT_KEYS = ("question", "prompt", "answer", "text", "paraphrased_question", "paraphrased_answer")


@spec
class TinyLM:
    """A small decoder of transformers with a byte-pair tokenizer trained on the bundle's own texts; random weights."""

    arch: Literal["llama", "gpt2"] = "llama"
    """Which of transformers' architectures."""
    width: Count = 128
    """Hidden size."""
    depth: Count = 4
    """Blocks."""
    heads: Count = 4
    """Attention heads; must divide the width."""
    vocab: Count = 2048
    """Largest vocabulary of the tokenizer."""
    context: Count = 512
    """Longest row in tokens."""

    def content(self) -> str:
        """Built from its fields and the seed alone."""
        return ""

    def load(self, data: Bundle, seed: int) -> CausalLM:
        """Trains the tokenizer on every text of the bundle, so that original and retrain share it, and draws weights."""
        tokenizer = train_tokenizer(texts(data), self.vocab)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, "init"))  # inside fork_rng: no global stream is moved
            module = self._module(len(tokenizer))
        return CausalLM(module.eval(), tokenizer)

    def _module(self, vocab: int) -> Any:
        from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

        special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
        if self.arch == "gpt2":
            return GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=vocab, n_positions=self.context, n_embd=self.width, n_layer=self.depth, n_head=self.heads,
                    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **special,
                )
            )  # fmt: skip
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocab, max_position_embeddings=self.context, hidden_size=self.width,
                intermediate_size=3 * self.width, num_hidden_layers=self.depth, num_attention_heads=self.heads,
                num_key_value_heads=self.heads, tie_word_embeddings=True, **special,
            )
        )  # fmt: skip


def texts(data: Bundle) -> Iterable[str]:
    """Every text of a bundle, wrong answers and refusals included."""
    for sample in [s for rows in data.roles.values() for s in rows] + list(data.alternatives.values()):
        yield from (sample.data[k] for k in TEXT_KEYS if k in sample.data)
        yield from sample.data.get("perturbed_answer", ())


def train_tokenizer(corpus: Iterable[str], vocab: int) -> Any:
    """A byte-level BPE tokenizer with EOS (id 0) and a pad token of its own (id 1)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=["<|end|>", "<|pad|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    bpe.train_from_iterator(sorted(set(corpus)), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|pad|>")


@spec
class TinyClassifier:
    """A small convolutional classifier."""

    classes: Count = 4
    """Number of classes."""
    channels: Count = 1
    """Channels of the image."""
    width: Count = 8
    """Channels of the hidden layers."""

    def content(self) -> str:
        """Built from its fields and the seed alone."""
        return ""

    def load(self, data: Bundle, seed: int) -> Classifier:
        """Draws weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, "init"))
            module = nn.Sequential(
                nn.Conv2d(self.channels, self.width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(self.width, self.width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                nn.Linear(4 * self.width, self.classes),
            )  # fmt: skip
        return Classifier(module)


class _ConvDenoiser(nn.Module):
    """Three convolutions, told the noise level and the concept."""

    def __init__(self, channels: int, width: int, concepts: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.told = nn.Linear(2, width)
        self.concept = nn.Embedding(concepts, width)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.leave = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, noisy: Tensor, level: Tensor, concept: Tensor) -> Tensor:
        told = self.told(torch.stack([level, level.square()], -1)) + self.concept(concept)
        hidden = torch.nn.functional.silu(self.enter(noisy) + told[:, :, None, None])
        return self.leave(torch.nn.functional.silu(self.middle(hidden)))


@spec
class TinyDenoiser:
    """A small convolutional denoiser, conditioned on a concept."""

    concepts: Count = 4
    """Number of concepts."""
    channels: Count = 1
    """Channels of the image."""
    width: Count = 8
    """Channels of the hidden layers."""

    def content(self) -> str:
        """Built from its fields and the seed alone."""
        return ""

    def load(self, data: Bundle, seed: int) -> Denoiser:
        """Draws weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, "init"))
            return Denoiser(_ConvDenoiser(self.channels, self.width, self.concepts))
