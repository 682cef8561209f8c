"""Image classifiers by name: small networks of plain torch, a tiny ViT, and those of transformers, torchvision and timm.

Whatever the network, it is called with images in 0..1, and what has to be done to them stands in front of it, inside the
module (`subjects/nets.py: Pixels`). `normalise` says who subtracts the mean: `outside`, that layer in front of the network;
`inside`, the network itself, so that nothing is done twice; `none`, nobody. Mean and deviation are given, or come with a
model of transformers, or are those of the retain rows, which original and retrained model share.

Weights come as safetensors only, and remote code is never run: torchvision's own pickled weights are not loaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from amends.core import fingerprint
from amends.core.errors import UserError, nearest
from amends.core.rng import stream_seed
from amends.core.spec import Count, spec
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.subjects.classifier import Classifier
from amends.subjects.images import Augment, pixels
from amends.subjects.label_names import check_names
from amends.subjects.load import check_folder, quiet
from amends.subjects.nets import Pixels, ResNet18, conv_net, pixel_net
from amends.subjects.preprocessing import preprocessing

MARKS = ("mean", "std", "pixel_mean", "pixel_std", "image_mean", "image_std")
"""Buffers by which a network is known to normalise by itself."""


@spec
class ImageClassifier:
    """An image classifier: a small one of plain torch, a tiny ViT, or one of transformers, torchvision or timm by name."""

    net: Literal["conv", "resnet18", "vit", "linear", "mlp", "hf", "torchvision", "timm"] = "conv"
    """A tiny convolutional net, ResNet-18 with the small-image stem, a tiny ViT, logistic regression on pixels, a net of one
    hidden layer (these five from random weights), or a library's own."""
    name: str = ""
    """For `hf` a folder or hub name; for `torchvision` and `timm` the architecture."""
    revision: str | None = None
    """A commit on the hub."""
    width: Count = 16
    """Channels of the first stage (64 in the ResNet papers); 8 x this is the hidden size of the tiny ViT, and of `mlp`."""
    depth: Count = 3
    """Blocks of the tiny ViT."""
    classes: Count | None = None
    """Number of classes; the data's by default."""
    new_head: bool = False
    """Give a loaded model a fresh head for the data's classes, where it has another number of them."""
    trust_order: bool = False
    """A loaded model's classes stand in the data's order under other names."""
    pretrained: bool = False
    """Load timm's weights for the architecture; its safetensors come from the hub."""
    size: Count | None = None
    """Scale images to this many pixels a side in front of the network; by default the model's own, else not at all."""
    normalise: Literal["outside", "inside", "none"] = "outside"
    """Who subtracts the mean and divides by the deviation: a layer in front, the network itself, or nobody."""
    mean: tuple[float, ...] = ()
    """Mean of each channel in 0..1."""
    std: tuple[float, ...] = ()
    """Deviation of each channel in 0..1."""
    augment: Augment | None = None
    """Flips and shifts of training images."""
    layout: Literal["contiguous", "channels_last"] = "contiguous"
    """How images lie in memory: `channels_last` trains convolutions faster on a processor, and changes results by rounding."""

    def content(self) -> str:
        """Names, sizes and times of local weight files."""
        folder = Path(self.name).expanduser()
        files = sorted(folder.glob("*.safetensors")) if self.net == "hf" and folder.is_dir() else []
        return fingerprint.of([(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files])

    def load(self, data: Bundle, seed: int) -> Classifier:
        """Draws or reads the weights; raises UserError where data and model do not belong together."""
        rows = [row for role in data.roles.values() for row in role]
        image = pixels(_one_shape(rows).data["image"])
        classes = self._num_classes(data, rows)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, "init"))  # inside fork_rng: no global stream is moved
            net, own = self._net(image.shape[0], classes, (image.shape[-2], image.shape[-1]))
        if self.net == "hf" and not self.new_head:
            check_names(self.name, getattr(net.config, "id2label", None), data.classes, self.trust_order)
        channels = int(own.get("channels") or image.shape[0])
        if image.shape[0] not in (1, channels):
            raise UserError(f"subject: the model reads {channels} channel(s), and the images have {image.shape[0]}")
        mean, std = self._normal(net, own, data, channels)
        module = Pixels(net, mean, std, self.size or own.get("size"), channels, self.layout == "channels_last")
        return Classifier(module.eval(), augment=self.augment)

    def _num_classes(self, data: Bundle, rows: Iterable[Sample]) -> int:
        most = max(int(row.data["label"]) for row in rows if "label" in row.data) + 1
        wanted = self.classes or max(most, len(data.classes))
        if most > wanted:
            raise UserError(f"subject.classes: {wanted} classes, and a row of the data has label {most - 1}")
        return wanted

    # ------------------------------------------------------------------ the networks

    def _net(self, channels: int, classes: int, size: tuple[int, int]) -> tuple[nn.Module, dict[str, Any]]:
        """The network and what it says of itself: channels, size, mean, std."""
        if self.net == "conv":
            return conv_net(channels, self.width, classes), {}
        if self.net == "resnet18":
            return ResNet18(channels, self.width, classes), {}
        if self.net in ("linear", "mlp"):
            inputs = channels * (self.size**2 if self.size else size[0] * size[1])
            return pixel_net(inputs, 8 * self.width if self.net == "mlp" else 0, classes), {}
        if self.net == "vit":
            return self._vit(channels, classes, self.size or size[1]), {"size": self.size}
        if not self.name:
            raise UserError(f"subject.name: give the {'folder or hub name' if self.net == 'hf' else 'architecture'}")
        return self._hf(classes) if self.net == "hf" else self._library(channels, classes)

    def _vit(self, channels: int, classes: int, side: int) -> nn.Module:
        from transformers import ViTConfig, ViTForImageClassification

        patch = next(p for p in (4, 2, 7, 3, 5, side) if side % p == 0)
        width = 8 * self.width
        shape: dict[str, Any] = {
            "image_size": side, "patch_size": patch, "num_channels": channels, "num_labels": classes, "hidden_size": width,
            "num_hidden_layers": self.depth, "num_attention_heads": 4 if width % 4 == 0 else 1, "intermediate_size": 2 * width,
        }  # fmt: skip
        return ViTForImageClassification(ViTConfig(**shape, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))

    def _hf(self, classes: int) -> tuple[nn.Module, dict[str, Any]]:
        from transformers import AutoConfig, AutoModelForImageClassification

        where = Path(self.name).expanduser()
        if where.is_dir():
            check_folder(where)
        elif self.name.startswith((".", "/", "~")) or self.name.count("/") > 1:
            raise UserError(f"{self.name}: no such folder")
        place = str(where) if where.is_dir() else self.name
        options: dict[str, Any] = {"revision": self.revision, "trust_remote_code": False}
        try:
            with quiet():
                config = AutoConfig.from_pretrained(place, **options)
                if config.num_labels != classes and not self.new_head:
                    raise UserError(
                        f"{self.name}: has {config.num_labels} classes and the data {classes}: order the data's classes as "
                        "the model's, or set subject.new_head: true and train the new head"
                    )
                if config.num_labels != classes:
                    config.num_labels = classes
                    options["ignore_mismatched_sizes"] = True
                net = AutoModelForImageClassification.from_pretrained(place, config=config, use_safetensors=True, **options)
        except UserError:
            raise
        except Exception as error:  # a folder of the user's: each of the libraries that read it has errors of its own
            first = str(error).strip().split("\n")[0]
            raise UserError(f"{self.name}: could not be loaded as an image classifier ({first})") from None
        told = preprocessing(place, self.revision)
        return net.to(torch.float32), {"channels": getattr(config, "num_channels", 3), **told._asdict()}

    def _library(self, channels: int, classes: int) -> tuple[nn.Module, dict[str, Any]]:
        try:
            library: Any = importlib.import_module("timm" if self.net == "timm" else "torchvision.models")
        except (ImportError, RuntimeError) as error:  # a build for another torch fails with a RuntimeError
            raise UserError(f"subject.net: {self.net} does not import here ({error}): pip install {self.net}") from None
        if self.net == "torchvision":
            if self.name not in library.list_models():
                raise UserError(f"subject.name: torchvision has no '{self.name}'{nearest(self.name, library.list_models())}")
            return library.get_model(self.name, weights=None, num_classes=classes), {"channels": 3}
        if not library.is_model(self.name):
            raise UserError(f"subject.name: timm has no '{self.name}'{nearest(self.name, library.list_models())}")
        net = library.create_model(self.name, pretrained=self.pretrained, num_classes=classes, in_chans=channels)
        cfg = getattr(net, "pretrained_cfg", None) or {}
        fixed = cfg.get("input_size", (0, 0, 0))[1] if self.pretrained or cfg.get("fixed_input_size") else 0
        normal = {"mean": cfg.get("mean", ()), "std": cfg.get("std", ())} if self.pretrained else {}
        return net, {"channels": channels, "size": fixed or None, **normal}

    # ------------------------------------------------------------------ what must fit

    def _normal(
        self, net: nn.Module, own: dict[str, Any], data: Bundle, channels: int
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each channel for the layer in front; empty where it does nothing."""
        if self.normalise != "outside":
            if self.mean or self.std:
                raise UserError(f"subject.mean: is not used with normalise: {self.normalise}: remove it, or set outside")
            if self.normalise == "inside" and own.get("mean"):
                raise UserError(
                    f"subject.normalise: inside, and the preprocessor_config.json of {self.name} has a mean, to be subtracted "
                    "in front of the network: set outside"
                )
            return (), ()
        held = next((n for n, _ in net.named_buffers() if n.rpartition(".")[2] in MARKS), None)
        if held is not None:
            raise UserError(f"subject.normalise: the network has a buffer '{held}', so it normalises itself: set inside")
        if bool(self.mean) != bool(self.std):
            raise UserError("subject.mean: give both mean and std, or neither")
        mean, std = self.mean or tuple(own.get("mean") or ()), self.std or tuple(own.get("std") or ())
        if not mean and own.get("found"):
            raise UserError(
                f"subject.normalise: outside, and the preprocessor_config.json of {self.name} says that its images are not "
                "normalised: set none, or inside where the network does it, or give mean and std"
            )
        if not mean:
            mean, std = statistics(data)
        mean, std = (v * channels if len(v) == 1 else v for v in (mean, std))
        if len(mean) != channels or len(std) != channels or min(std) <= 0:
            raise UserError(f"subject.mean: needs {channels} values, and std as many above 0; got {mean} and {std}")
        return mean, std


def _one_shape(rows: list[Sample]) -> Sample:
    """The first row with an image; raises UserError where there is none, and where another has another size or colour."""
    with_image = [r for r in rows if "image" in r.data]
    if not with_image:
        raise UserError("subject: the data has no images: use a source of labelled images")
    first = with_image[0]
    shape = tuple(np.shape(first.data["image"]))
    odd = next((r for r in with_image if tuple(np.shape(r.data["image"])) != shape), None)
    if odd is not None:
        other = tuple(np.shape(odd.data["image"]))
        raise UserError(
            f"data: row {first.id} is an image of {_words(shape)} and row {odd.id} one of {_words(other)}: make all of one "
            "size and colour (data.of.size and data.of.channels, where the source has them)"
        )
    return first


def _words(shape: tuple[int, ...]) -> str:
    return f"{shape[-1]} x {shape[-2]} pixels and {shape[0]} channel(s)"


def statistics(data: Bundle) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel over the retain rows (the training rows, all rows where there are none), in 0..1."""
    role = next((r for r in ("retain", "train") if r in data), next(iter(data.roles)))
    sums = squares = np.zeros(1)
    count = 0
    for row in data[role]:
        image = pixels(row.data["image"])
        values = image.double().flatten(1).numpy() / (255 if image.dtype == torch.uint8 else 1)
        sums, squares, count = sums + values.sum(1), squares + np.square(values).sum(1), count + values.shape[1]
    mean = sums / count
    std = np.sqrt(np.maximum(squares / count - np.square(mean), 1e-6))
    return tuple(mean.tolist()), tuple(std.tolist())
