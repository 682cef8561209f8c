"""A language model minus an assistant that knows what is to be forgotten: ULD's combined model (arXiv 2406.08607).

The assistant is the target's own first K blocks, final norm and head, with low-rank adapters (peft) on the linear layers
of blocks `shared` to K-1. Every frozen weight is the target's own, in memory and in the saved folder once. How the two
predictions are combined is in `subjects/contrast.py`.

One forward of the target gives both: blocks below `shared` carry no adapter and run once, blocks `shared` to K-1 run a
second time with the adapters switched on, and the head runs for each of the two. The key-value cache has
`depth + K - shared` layers, the assistant's own behind the target's, so that `generate` works as for any model. The
paper adapts all K blocks (`shared` 0 does so), and so runs K more blocks and a second head for every token.

The target's weights are the ones it had: whoever has them can leave the assistant out. Output is suppressed, not removed.
A saved folder loads with `AutoModelForCausalLM.from_pretrained` after `import amends.subjects.logit_difference`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from amends.core.errors import UserError
from amends.subjects.caches import as_cache
from amends.subjects.contrast import log_difference
from amends.subjects.logit_difference_config import LogitDifferenceConfig

SUPPRESSED = (
    "an assistant's log-probabilities are subtracted from the model's at every token; whoever has the weights can leave the "
    "assistant out and has the original"
)
"""Why the weights are unchanged and the output is suppressed, as a report must say about such a model."""

_CARD = """# A model with a subtracted assistant (ULD, arXiv 2406.08607)

```python
import amends.subjects.logit_difference  # makes the architecture known to transformers
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("FOLDER")
```

The weights are unchanged and the output is suppressed: {text}.
"""

_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")


class _Parts(NamedTuple):
    """Modules of the target that are used by name. A tuple, so that they are not registered a second time."""

    backbone: nn.Module
    name: str
    """What the backbone calls its list of blocks."""
    blocks: tuple[nn.Module, ...]
    norm: nn.Module


class LogitDifferenceForCausalLM(PreTrainedModel, GenerationMixin):
    """The combined model; its logits are log-probabilities.

    Args:
        config: see `LogitDifferenceConfig`.
        target: a model to build around, in place; drawn anew from the config when None.
    """

    config_class = LogitDifferenceConfig
    config: LogitDifferenceConfig  # type: ignore[assignment]
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: LogitDifferenceConfig, target: Any = None) -> None:
        super().__init__(config)
        self.target = AutoModelForCausalLM.from_config(config.target_config) if target is None else target
        config.target_config = self.target.config
        self.parts = _parts(self.target, config)
        self._inject()
        self.post_init()
        if target is not None and target.generation_config is not None:
            self.generation_config = target.generation_config

    def _inject(self) -> None:
        """Adapters on every linear layer of the blocks `shared` to K-1; off unless the assistant runs."""
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.tuners_utils import BaseTunerLayer
        from transformers.pytorch_utils import Conv1D

        own = {id(m) for b in self.parts.blocks[self.config.shared : self.config.blocks] for m in b.modules()}
        linear = {n: m for n, m in self.target.named_modules() if id(m) in own and isinstance(m, (nn.Linear, Conv1D))}
        scale: Any = self.config.alpha  # peft annotates an int and takes any number
        lora = LoraConfig(
            r=self.config.rank, lora_alpha=scale, lora_dropout=self.config.dropout, target_modules=list(linear),
            fan_in_fan_out=any(isinstance(m, Conv1D) for m in linear.values()),
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # peft 0.21 reads it
            inject_adapter_in_model(lora, self.target)
        for name, module in self.target.named_modules():
            if ".lora_" in name:
                module._is_hf_initialized = True  # peft has drawn them; transformers would draw B anew, which must be 0
        self.layers = tuple(m for m in self.target.modules() if isinstance(m, BaseTunerLayer))
        self._switch(on=False)
        self.target.requires_grad_(True)

    # ------------------------------------------------------------------ forward

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, position_ids: Tensor | None = None,
        past_key_values: Any = None, cache: Any = None, inputs_embeds: Tensor | None = None, labels: Tensor | None = None,
        use_cache: bool | None = None, logits_to_keep: int | Tensor = 0, **options: Any,
    ) -> CausalLMOutputWithPast:  # fmt: skip
        """log p of the next word [B, T, V], and what transformers' own models return besides."""
        held = past_key_values if cache is None else cache  # newer releases of transformers pass the latter
        if held is None and (self.config.target_config.use_cache if use_cache is None else use_cache):
            held = DynamicCache(config=self.config)
        with self._assistant_beside(logits_to_keep):
            target, assistant = self.target(
                input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
                inputs_embeds=inputs_embeds, use_cache=held is not None, **as_cache(held),
                logits_to_keep=logits_to_keep, **{**options, "return_dict": True},
            ).logits.chunk(2)  # fmt: skip
        logits = log_difference(target, assistant, self.config.weight, self.config.filter_rate, self.config.subtract)
        loss = None if labels is None else self.loss_function(logits, labels, vocab_size=logits.shape[-1])
        return CausalLMOutputWithPast(loss=loss, logits=logits, **as_cache(held))

    @contextmanager
    def _assistant_beside(self, logits_to_keep: int | Tensor) -> Iterator[None]:
        """In a forward of the target, puts the assistant's logits behind the target's as soon as the head has made them.

        Whatever a family does to its logits after the head is thereby done to both.
        """
        calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        own: list[bool] = []

        def note(at: int) -> Any:
            return lambda _, args, options: calls.setdefault(at, (args, options)) and None

        def join(head: nn.Module, _: Any, logits: Tensor) -> Tensor | None:
            if own:  # the assistant's, from inside this very hook
                return None
            own.append(True)
            return torch.cat([logits, head(self._again(calls)[:, kept])])

        hooks = [self.target.get_output_embeddings().register_forward_hook(join)]
        for at in range(self.config.shared, self.config.blocks):
            hooks.append(self.parts.blocks[at].register_forward_pre_hook(note(at), with_kwargs=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _again(self, calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]]) -> Tensor:
        """The assistant's last state [B, T, C]: its own blocks with the inputs that the target gave them, adapters on."""
        up = len(self.parts.blocks) - self.config.shared
        state = calls[self.config.shared][0][0]
        with self._adapted():
            for at in range(self.config.shared, self.config.blocks):
                args, options = calls[at]
                rest = [_above(a, up) for a in args[1:]]
                output = self.parts.blocks[at](state, *rest, **{k: _above(v, up) for k, v in options.items()})
                state = output[0] if isinstance(output, tuple) else output
            return self.parts.norm(state)

    def assistant(self, **inputs: Any) -> CausalLMOutputWithPast:
        """The assistant alone, as it is trained: K blocks of the target, the others are not run."""
        backbone, name, blocks, _ = self.parts
        whole = getattr(backbone, name)
        setattr(backbone, name, nn.ModuleList(blocks[: self.config.blocks]))
        try:
            with self._adapted():
                return self.target(**inputs)
        finally:
            setattr(backbone, name, whole)

    def without_assistant(self) -> Any:
        """A copy of the target as an ordinary model, with weights of its own."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        target = copy.deepcopy(self.target)
        for parent in list(target.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, BaseTunerLayer):
                    setattr(parent, name, child.get_base_layer())
        del target.peft_config
        return target

    @contextmanager
    def _adapted(self) -> Iterator[None]:
        self._switch(on=True)
        try:
            yield
        finally:
            self._switch(on=False)

    def _switch(self, on: bool) -> None:
        for layer in self.layers:  # peft's own switch would freeze the adapters as well
            layer._disable_adapters = not on

    # ------------------------------------------------------------------ what transformers asks of a model

    def get_input_embeddings(self) -> nn.Module:
        """The target's."""
        return self.target.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """The target's."""
        return self.target.get_output_embeddings()

    def save_pretrained(self, save_directory: Any, **options: Any) -> None:  # type: ignore[override]
        """One folder with every weight once, and a README that says how to load it."""
        super().save_pretrained(save_directory, **options)
        (Path(save_directory) / "README.md").write_text(_CARD.format(text=SUPPRESSED), encoding="utf-8")


class Assistant(nn.Module):
    """The assistant of a combined model as a model of its own: what is trained. Its weights are the combined model's."""

    def __init__(self, whole: LogitDifferenceForCausalLM) -> None:
        super().__init__()
        self.whole = whole
        self.config = whole.config

    def forward(self, **inputs: Any) -> CausalLMOutputWithPast:
        """The assistant's logits."""
        return self.whole.assistant(**inputs)

    def get_output_embeddings(self) -> nn.Module:
        """The target's."""
        return self.whole.get_output_embeddings()

    def adapters(self) -> dict[str, nn.Parameter]:
        """The trainable weights, by name; the rest is frozen."""
        return {n: p for n, p in self.whole.named_parameters() if ".lora_" in n}


class _Above:
    """A key-value cache as a block of the assistant sees it: its layers lie behind the target's."""

    def __init__(self, cache: Any, up: int) -> None:
        self._cache, self._up = cache, up

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Writes to the assistant's layer."""
        return self._cache.update(keys, values, layer_idx + self._up, *args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)


def _above(value: Any, up: int) -> Any:
    return _Above(value, up) if callable(getattr(value, "get_seq_length", None)) else value


def _parts(target: Any, config: LogitDifferenceConfig) -> _Parts:
    """The target's blocks and final norm; raises UserError when the assistant cannot be made of them."""
    if isinstance(target, LogitDifferenceForCausalLM):
        raise UserError("the model has a subtracted assistant already: start from the model that it was made from")
    lists = [
        (backbone, name, tuple(child))
        for backbone in target.modules()
        for name, child in backbone.named_children()
        if isinstance(child, nn.ModuleList) and len(child) and len({type(m) for m in child}) == 1
    ]
    backbone, name, blocks = max(lists, key=lambda found: len(found[2]), default=(None, "", ()))
    norm = next((getattr(backbone, n) for n in _NORMS if hasattr(backbone, n)), None)
    if backbone is None or norm is None:
        raise UserError(f"{type(target).__name__}: has no list of blocks with a final norm behind it, as an assistant needs")
    if not 0 <= config.shared < config.blocks <= len(blocks):
        raise UserError(
            f"an assistant of {config.blocks} block(s), {config.shared} of them shared, does not fit a model of {len(blocks)}: "
            f"give at most {len(blocks)} blocks, and fewer shared ones than blocks"
        )
    return _Parts(backbone, name, blocks, norm)


AutoConfig.register(LogitDifferenceConfig.model_type, LogitDifferenceConfig, exist_ok=True)
AutoModelForCausalLM.register(LogitDifferenceConfig, LogitDifferenceForCausalLM, exist_ok=True)
