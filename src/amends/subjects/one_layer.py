"""The one-layer transformer of the low-rank and sparsity analysis (arXiv 2406.17167), as a classifier of two classes.

    F(X) = 1/|S| sum_{l in S} a^T relu( W_O W_V X softmax( X^T W_K^T W_Q x_l ) ),    a_i = +-1/sqrt(m), fixed

with S all tokens. Half of the m neurons have a positive sign. The logits are (-F/2, F/2), so that their difference, the margin
of class 1 over class 0, is F itself, and yF with y = +-1 is the margin of a row's own class: the hinge max(0, 1 - yF) is the
term `margin_hinge`, and cross-entropy is log(1 + exp(-yF)).

First weights: W_V = I and W_Q, W_K near a scaled identity ("pretrained features"), W_O ~ N(0, xi^2). There is no position
anywhere: the order of a row's tokens changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from amends.core.errors import UserError
from amends.core.rng import rng
from amends.core.spec import Count, NonNegative, Positive, spec
from amends.core.types import Batch, Encoded, Hidden, Sample
from amends.data.bundle import Bundle
from amends.subjects.classifier import Classifier
from amends.subjects.images import Augment, flat


class OneLayer(nn.Module):
    """[B, L, d] tokens -> [B, 2] logits. `output` is W_O: a row a neuron."""

    sign: Tensor

    def __init__(self, dim: int, neurons: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.output = nn.Linear(dim, neurons, bias=False)
        sign = 1 - 2 * (torch.arange(neurons) % 2).float()
        self.register_buffer("sign", sign / neurons**0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """The logits (-F/2, F/2)."""
        weight_BLL = torch.softmax(self.query(tokens) @ self.key(tokens).transpose(1, 2), -1)
        hidden_BLm = torch.relu(self.output(self.value(weight_BLL @ tokens)))
        score_B = hidden_BLm.mean(1) @ self.sign
        return torch.stack([-score_B / 2, score_B / 2], -1)


class Vectors:
    """Rows `{tokens: [L, d], label}`; the module gets [B, L, d]."""

    def encode(self, sample: Sample) -> Encoded:
        """The tokens and the label; raises UserError for another row."""
        if "tokens" not in sample.data or "label" not in sample.data:
            raise UserError(f"row {sample.id}: has no token vectors with a label: use the data source `patterns`")
        tokens = torch.as_tensor(sample.data["tokens"], dtype=torch.float32)
        return Encoded(sample.id, {"tokens": tokens, "label": torch.tensor(int(sample.data["label"]))}, len(tokens))

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Stacks rows of one length; raises UserError for rows of two."""
        odd = next((r for r in rows if r.tensors["tokens"].shape != rows[0].tensors["tokens"].shape), None)
        if odd is not None:
            shapes = [tuple(r.tensors["tokens"].shape) for r in (rows[0], odd)]
            raise UserError(f"rows {rows[0].id} and {odd.id}: tokens of {shapes[0]} and {shapes[1]} do not fit into one batch")
        stacked = {name: torch.stack([r.tensors[name] for r in rows]) for name in ("tokens", "label")}
        return Batch(tuple(r.id for r in rows), stacked)

    def inputs(self, batch: Batch, augment: Augment | None) -> tuple[Tensor, ...]:
        """The tokens."""
        return (batch["tokens"],)

    def positions(self, output: Tensor, batch: Batch) -> Hidden:
        """A block's output, one flat row a sequence."""
        return flat(output)

    def save(self, folder: Path) -> None:
        """Nothing belongs to it."""


@spec
class OneLayerTransformer:
    """One attention layer and one hidden layer with a fixed head, as in the analysis of low rank and sparsity."""

    neurons: Count = 400
    """m, rows of W_O."""
    xi: Positive = 0.01
    """Deviation of W_O's first weights; the analysis needs it small."""
    attention: NonNegative = 0.1
    """W_Q and W_K begin as so many times the identity."""
    jitter: NonNegative = 0.01
    """Deviation of what is added to them."""

    def content(self) -> str:
        """Built from its fields and the seed alone."""
        return ""

    def load(self, data: Bundle, seed: int) -> Classifier:
        """Draws weights for the data's tokens; raises UserError for rows without token vectors."""
        first = next((row for rows in data.roles.values() for row in rows), None)
        if first is None or "tokens" not in first.data or len(data.classes) != 2:
            raise UserError("subject: this network tells two classes of token vectors: use the data source `patterns`")
        dim = int(first.data["tokens"].shape[-1])
        module = OneLayer(dim, self.neurons)
        with torch.no_grad():
            module.value.weight.copy_(torch.eye(dim))
            for name in ("query", "key"):
                noise = torch.randn(dim, dim, generator=rng(seed, "init", name))
                getattr(module, name).weight.copy_(self.attention * torch.eye(dim) + self.jitter * noise)
            drawn = torch.randn(self.neurons, dim, generator=rng(seed, "init", "output"))
            module.output.weight.copy_(self.xi * drawn)
        return Classifier(module.eval(), Vectors())
