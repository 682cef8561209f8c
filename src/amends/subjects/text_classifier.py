"""Text classifiers: one of transformers by folder or hub name, or a small encoder from random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from amends.core import fingerprint
from amends.core.errors import UserError
from amends.core.rng import stream_seed
from amends.core.spec import Count, spec
from amends.data.bundle import Bundle
from amends.subjects.causal_lm import silenced
from amends.subjects.classifier import Classifier, Texts
from amends.subjects.label_names import check_names
from amends.subjects.load import check_folder, quiet
from amends.subjects.nets import TextLogits
from amends.subjects.tiny import texts, train_tokenizer


@spec
class TextClassifier:
    """A classifier of texts: transformers' sequence classification by name, or a small BERT from random weights."""

    name: str = ""
    """Folder or hub name; empty for a small encoder with a tokenizer trained on the data's own texts."""
    revision: str | None = None
    """A commit on the hub."""
    width: Count = 64
    """Hidden size of the small encoder."""
    depth: Count = 2
    """Its blocks."""
    heads: Count = 4
    """Its attention heads; must divide the width."""
    vocab: Count = 1024
    """Largest vocabulary of its tokenizer."""
    max_length: Count = 128
    """Longest row in tokens; longer ones are cut."""
    new_head: bool = False
    """Give a loaded model a fresh head for the data's classes, where it has another number of them."""
    trust_order: bool = False
    """A loaded model's classes stand in the data's order under other names."""

    def content(self) -> str:
        """Names, sizes and times of local weight files."""
        folder = Path(self.name).expanduser()
        files = sorted(folder.glob("*.safetensors")) if self.name and folder.is_dir() else []
        return fingerprint.of([(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files])

    def load(self, data: Bundle, seed: int) -> Classifier:
        """Draws or reads the weights; raises UserError where data and model do not belong together."""
        labels = [int(row.data["label"]) for rows in data.roles.values() for row in rows if "label" in row.data]
        if not labels:
            raise UserError("subject: the data's rows have no labels: use a source of labelled texts")
        classes = max(max(labels) + 1, len(data.classes))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, "init"))  # inside fork_rng: no global stream is moved
            net, tokenizer = self._opened(classes) if self.name else self._small(data, classes)
        if self.name and not self.new_head:
            check_names(self.name, net.config.id2label, data.classes, self.trust_order)
        most = getattr(net.config, "max_position_embeddings", self.max_length)
        return Classifier(TextLogits(net).eval(), Texts(tokenizer, min(self.max_length, most)))

    def _small(self, data: Bundle, classes: int) -> tuple[Any, Any]:
        from transformers import BertConfig, BertForSequenceClassification

        tokenizer = train_tokenizer(texts(data), self.vocab)
        shape: dict[str, Any] = {
            "vocab_size": len(tokenizer), "hidden_size": self.width, "num_hidden_layers": self.depth, "num_labels": classes,
            "num_attention_heads": self.heads, "intermediate_size": 2 * self.width, "pad_token_id": 1,
            "max_position_embeddings": self.max_length,
        }  # fmt: skip
        config = BertConfig(**shape, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        return BertForSequenceClassification(config), tokenizer

    def _opened(self, classes: int) -> tuple[Any, Any]:
        from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

        folder = Path(self.name).expanduser()
        if folder.is_dir():
            check_folder(folder)
        options: dict[str, Any] = {"revision": self.revision, "trust_remote_code": False}
        place = str(folder) if folder.is_dir() else self.name
        try:
            with quiet():
                config = AutoConfig.from_pretrained(place, **options)
                if config.num_labels != classes and not self.new_head:
                    raise UserError(
                        f"{self.name}: has {config.num_labels} classes and the data {classes}: set subject.new_head: true and "
                        "train the new head"
                    )
                config.num_labels = classes
                silenced(config)
                net = AutoModelForSequenceClassification.from_pretrained(
                    place, config=config, use_safetensors=True, ignore_mismatched_sizes=self.new_head, **options
                )
                return net.to(torch.float32), AutoTokenizer.from_pretrained(place, **options)
        except UserError:
            raise
        except Exception as error:  # a folder of the user's: each of the libraries that read it has errors of its own
            first = str(error).strip().split("\n")[0]
            raise UserError(f"{self.name}: could not be loaded as a text classifier ({first})") from None
