"""What a model minus an assistant is made of, as transformers keeps it in a config.json."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from amends.subjects.contrast import Subtract

_OF_TARGET = (
    "vocab_size", "hidden_size", "max_position_embeddings", "num_attention_heads", "num_key_value_heads", "head_dim",
    "sliding_window", "attention_chunk_size",
)  # fmt: skip
"""What other code asks of a config, answered by the target's."""


class LogitDifferenceConfig(PreTrainedConfig):
    """The target's config, how the assistant is made from it, and how the two are combined."""

    model_type = "logit_difference"
    sub_configs = {"target_config": AutoConfig}  # type: ignore[assignment]  # noqa: RUF012

    def __init__(
        self, target_config: Any = None, blocks: int = 1, shared: int = 0, rank: int = 32, alpha: float = 32.0,
        dropout: float = 0.0, weight: float = 0.75, filter_rate: float = 0.01, subtract: Subtract = "log_probs", **options: Any,
    ) -> None:  # fmt: skip
        own: Any = {**options, "tie_word_embeddings": False}  # the target ties its own
        super().__init__(**own)
        self.blocks, self.shared, self.rank, self.alpha, self.dropout = blocks, shared, rank, alpha, dropout
        self.weight, self.filter_rate, self.subtract = weight, filter_rate, subtract
        if isinstance(target_config, dict):
            target_config = AutoConfig.for_model(**target_config)
        self.target_config = target_config

    @property
    def num_hidden_layers(self) -> int:
        """Blocks that run for a token: what a key-value cache has room for."""
        return self._decoder.num_hidden_layers + self.blocks - self.shared

    @property
    def layer_types(self) -> list[str] | None:
        """The target's kinds of attention, then the assistant's; None where there is one kind."""
        types = getattr(self._decoder, "layer_types", None)
        return types and [*types, *types[self.shared : self.blocks]]

    @property
    def _decoder(self) -> Any:
        return self.target_config.get_text_config(decoder=True)

    def __getattr__(self, name: str) -> Any:
        if name in _OF_TARGET and self.__dict__.get("target_config") is not None:
            return getattr(self._decoder, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
