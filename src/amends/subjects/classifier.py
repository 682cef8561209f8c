"""Classifiers of images and of texts (any module that maps inputs to class logits): one categorical term a row.

What a row is made of is a reader's business (`Images`, `Texts`); all else is one adapter. Augmentation is drawn in training
mode only, so that whatever measures a model, in evaluation mode, sees the rows as they are and leaves batch statistics alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from amends.core.errors import UserError
from amends.core.types import Batch, Encoded, Hidden, Likelihood, Sample
from amends.subjects.blocks import Shell
from amends.subjects.distributions import Categorical
from amends.subjects.images import Augment, augmented, encode_image, flat, one_each, save_module, stack
from amends.subjects.load import quiet


class Reader(Protocol):
    """How rows become what a module is called with."""

    def encode(self, sample: Sample) -> Encoded: ...
    def collate(self, rows: Sequence[Encoded]) -> Batch: ...
    def inputs(self, batch: Batch, augment: Augment | None) -> tuple[Tensor, ...]: ...
    def positions(self, output: Tensor, batch: Batch) -> Hidden: ...
    def save(self, folder: Path) -> None: ...


class Images:
    """Rows `{image, label}`; the module gets [B, C, H, W] in 0..1."""

    def encode(self, sample: Sample) -> Encoded:
        """The image and its label as tensors."""
        return encode_image(sample)

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Stacks the rows; images have one size."""
        return stack(rows)

    def inputs(self, batch: Batch, augment: Augment | None) -> tuple[Tensor, ...]:
        """The images, augmented as was drawn."""
        return (augmented(batch, augment),)

    def positions(self, output: Tensor, batch: Batch) -> Hidden:
        """A block's output, one flat row an image."""
        return flat(output)

    def save(self, folder: Path) -> None:
        """Nothing belongs to it."""


class Texts:
    """Rows `{text, label}`; the module gets token ids and the mask of what is no padding, [B, T] each."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length

    def encode(self, sample: Sample) -> Encoded:
        """Token ids, cut at the longest row the model reads, and the label; raises UserError for another row."""
        if not str(sample.data.get("text", "")).strip() or "label" not in sample.data:
            raise UserError(f"row {sample.id}: has no text with a label, and this model reads nothing else")
        found = self.tokenizer(sample.data["text"], truncation=True, max_length=self.max_length)["input_ids"]
        ids = torch.tensor(found or [self.tokenizer.pad_token_id])
        return Encoded(sample.id, {"input_ids": ids, "label": torch.tensor(int(sample.data["label"]))}, len(ids))

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Pads on the right."""
        ids = [r.tensors["input_ids"] for r in rows]
        padded = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        mask = torch.arange(padded.shape[1])[None] < torch.tensor([[len(i)] for i in ids])
        label = torch.stack([r.tensors["label"] for r in rows])
        return Batch(tuple(r.id for r in rows), {"input_ids": padded, "mask": mask.long(), "label": label})

    def inputs(self, batch: Batch, augment: Augment | None) -> tuple[Tensor, ...]:
        """Token ids and mask."""
        return batch["input_ids"], batch["mask"]

    def positions(self, output: Tensor, batch: Batch) -> Hidden:
        """A block's output at each token that is no padding; of a block behind the pooling, one row a text."""
        if output.ndim != 3:
            return flat(output)
        row, place = batch["mask"].nonzero(as_tuple=True)
        return Hidden(output[row, place], row)

    def save(self, folder: Path) -> None:
        """The tokenizer, in its own library's files."""
        self.tokenizer.save_pretrained(folder)


class Classifier:
    """A module `inputs -> logits [B, K]` with a reader of rows; a row's data is `{image or text, label: int}`."""

    predicts_one_class: ClassVar[bool] = True
    """A row has one term, and its whole prediction is small enough to be kept by those who measure."""

    def __init__(self, module: nn.Module, reader: Reader | None = None, augment: Augment | None = None) -> None:
        self.module, self.reader, self.augment = module, reader or Images(), augment
        self.call: nn.Module = Shell(module)
        self.stochastic = augment is not None
        """Whether a training batch carries random choices: then a reference must see the same ones."""

    def adopt(self, call: Any) -> None:
        """Takes over a replaced `call`, with the module inside it."""
        self.call, self.module = call, call.model

    def encode(self, sample: Sample) -> Encoded:
        """A row as tensors."""
        return self.reader.encode(sample)

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Rows as one batch."""
        return self.reader.collate(rows)

    def count(self, batch: Batch) -> Tensor:
        """One term a row."""
        return one_each(batch)

    def draw(self, batch: Batch, rng: torch.Generator) -> Batch:
        """The flips and shifts of a training step; nothing in evaluation mode."""
        return batch if self.augment is None or not self.call.training else self.augment.draw(batch, rng)

    def likelihood(self, batch: Batch) -> Likelihood:
        """-log p(label | image or text)."""
        logits = self.call(*self.reader.inputs(batch, self.augment))
        dist = Categorical(logits, batch["label"], torch.arange(len(batch), device=batch["label"].device))
        return Likelihood(dist.nll(), self.count(batch), dist)

    def hidden(self, batch: Batch, at: float) -> Hidden:
        """What block `at` puts out: one flat row an image, or one a token."""
        return self.reader.positions(self.call(*self.reader.inputs(batch, self.augment), until=at), batch)

    @property
    def by_library(self) -> bool:
        """Whether the network is one of transformers, whose library saves and loads it under names of its own."""
        return hasattr(getattr(self.module, "net", None), "save_pretrained")

    def save(self, folder: Path) -> None:
        """The weights and buffers as safetensors; a model of transformers in its own files, so that it loads them again."""
        if not self.by_library:
            save_module(self.module, folder)
            return
        net: Any = self.module.net
        with quiet():
            net.save_pretrained(folder, safe_serialization=True)
        self.reader.save(folder)
        describe = getattr(self.module, "describe", dict)()
        if describe:
            (folder / "preprocessor_config.json").write_text(json.dumps(describe, indent=1), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """The inverse of `save` for a model of transformers; raises UserError where the weights are another model's."""
        net: Any = self.module.net
        try:
            with quiet():  # through its own library, which saves weights under other names than the module's
                state = type(net).from_pretrained(folder, use_safetensors=True).state_dict()
            net.load_state_dict(state)
        except (OSError, RuntimeError) as error:
            first = str(error).strip().splitlines()[0]
            raise UserError(f"{folder}: its weights do not fit the model ({first}): it is another one") from None
