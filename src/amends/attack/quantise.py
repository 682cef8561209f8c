"""Quantisation: the weights as deployment in 8 or 4 bits leaves them (arXiv 2410.16454, 2506.12618).

Small updates that hide knowledge can fall below the step of the quantised grid: original and unlearned model then become
the same model, and what was forgotten is back (21 % of the knowledge kept in full precision, 83 % in 4 bits, as means over
methods with a utility constraint in 2410.16454). The kernels are bitsandbytes' own:

- `8bit`: one scale a row of the weight, round(127 w / max|w|), of float16 weights, as `Linear8bitLt` does (LLM.int8,
  arXiv 2208.07339);
- `nf4` and `fp4`: blocks of 64 weights, one float32 scale each, 16 levels, as `Linear4bit` does (QLoRA, arXiv 2305.14314).

As `load_in_8bit` and `load_in_4bit` of transformers do, embeddings and the output head stay as they are, and so do
convolutions. What is changed is the weights alone: they are put back in the model's own precision, so any measurement
reads the quantised model. LLM.int8 also rounds activations, all but their outliers, and 4-bit deployments mostly compute
in bfloat16 and may round the scales again; neither is done here.

A block is handed to the library as a row of its own. Its CPU kernel (0.50.2) reads the scales of a matrix row by row
where they were written block by block, and returns wrong weights unless the width is a multiple of 64.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.spec import spec
from amends.data.bundle import Bundle

BLOCK = 64
"""Weights that share a scale in 4 bits: bitsandbytes' own default."""


@spec
class Quantise:
    """Rounds the weights of linear layers as 8-bit or 4-bit deployment does, by bitsandbytes."""

    keeps_weights: ClassVar[bool] = False
    kind: Literal["8bit", "nf4", "fp4"] = "nf4"
    """8 bits with a scale a row (LLM.int8), or 4 bits with a scale a block of 64: normal floats or plain floats."""
    head: bool = False
    """Round the output head, too, and with it the embeddings it is tied to."""

    @property
    def name(self) -> str:
        """`quantise-8bit`, `quantise-nf4`, `quantise-fp4`."""
        return f"quantise-{self.kind}{'-head' if self.head else ''}"

    @property
    def label(self) -> str:
        """`quantising to 4 bits (NF4)`."""
        to = "8 bits" if self.kind == "8bit" else f"4 bits ({self.kind.upper()})"
        return f"quantising to {to}{', the output head too' if self.head else ''}"

    @torch.no_grad()
    def __call__(self, subject: Any, data: Bundle, run: Context) -> None:
        """Rounds in place."""
        layers = list(linear_layers(subject.module, self.head))
        if not layers:
            raise UserError("the model has no linear layer that could be quantised")
        kernels = library()
        for layer in layers:
            weight_OI = layer.weight.T if _transposed(layer) else layer.weight
            rounded_OI = rounded(weight_OI, self.kind, kernels)
            layer.weight.copy_(rounded_OI.T if _transposed(layer) else rounded_OI)
        run.say(f"{len(layers)} linear layers, {sum(m.weight.numel() for m in layers):,} weights")

    def objective_on(self, data: Bundle) -> tuple[()]:
        """Raises UserError when the library is missing."""
        installed()
        return ()


def rounded(weight_OI: Tensor, kind: str, kernels: Any) -> Tensor:
    """A weight after quantising and dequantising, in its own precision."""
    if kind == "8bit":
        code_OI, scale_O, _ = kernels.int8_vectorwise_quant(weight_OI.to(torch.float16).contiguous())
        return kernels.int8_vectorwise_dequant(code_OI, scale_O).to(weight_OI.dtype)
    flat = weight_OI.contiguous().flatten()
    blocks_NB = nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    packed, state = kernels.quantize_4bit(blocks_NB, blocksize=BLOCK, quant_type=kind)
    return kernels.dequantize_4bit(packed, state).flatten()[: len(flat)].view(weight_OI.shape)


def linear_layers(model: nn.Module, head: bool) -> Iterator[Any]:
    """Every linear layer, in order; of a language model without its head unless asked for."""
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    for module in model.modules():
        if (isinstance(module, nn.Linear) or _transposed(module)) and (head or module is not output):
            yield module


def _transposed(module: nn.Module) -> bool:
    """GPT-2's linear layer, whose weight lies the other way round."""
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def installed() -> None:
    """Raises UserError when bitsandbytes is missing."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError('quantise needs the package bitsandbytes: pip install "amends[attack]"')


def library() -> Any:
    """bitsandbytes' kernels; its remark about kernels it would download is kept off the screen."""
    installed()
    log = logging.getLogger("bitsandbytes")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        import bitsandbytes.functional as kernels
    finally:
        log.setLevel(level)
    return kernels
