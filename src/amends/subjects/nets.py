"""Networks for images that need nothing but torch: a small convolutional one, and ResNet-18 with the small-image stem.

Both take any image size, and both have batch normalisation: its running statistics are part of the model, change in
training only, and are saved. ResNet-18 (arXiv 1512.03385) begins as everywhere in the unlearning papers on CIFAR: a 3 x 3
convolution without stride and no pooling in front. `width` is the number of channels of its first stage, 64 in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu


class Pixels(nn.Module):
    """Images in 0..1 to logits: grey made colour where the network wants that, scaled, normalised, and through `net`.

    Mean and deviation are buffers, so that they are saved with the weights and a model cannot meet the wrong ones. With
    `channels_last` the images lie in memory with their channels innermost, and so does all that convolutions make of them:
    processors compute it faster. The weights stay as they are, so masks, shards and files of them do.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, net: nn.Module, mean: Sequence[float] = (), std: Sequence[float] = (), size: int | None = None, channels: int = 0,
        channels_last: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.net, self.size, self.channels, self.channels_last = net, size, channels, channels_last
        if mean:
            self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1))
            self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """[B, C, H, W] in 0..1 -> [B, K]."""
        if self.channels and image.shape[1] == 1:
            image = image.expand(-1, self.channels, -1, -1)
        if self.size is not None and image.shape[-2:] != (self.size, self.size):
            image = interpolate(image, (self.size, self.size), mode="bilinear", antialias=image.shape[-1] > self.size)
        if "mean" in self._buffers:
            image = (image - self.mean) / self.std
        if self.channels_last:  # a clone of the permuted image: `contiguous(memory_format=...)` is unknown to torch.func.vmap
            image = image.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)
        found = self.net(image)
        return getattr(found, "logits", found)

    def describe(self) -> dict[str, object]:
        """What stands in front, in the words of transformers' `preprocessor_config.json`."""
        told: dict[str, object] = {"do_rescale": True, "do_normalize": "mean" in self._buffers}
        if "mean" in self._buffers:
            told |= {"image_mean": self.mean.flatten().tolist(), "image_std": self.std.flatten().tolist()}
        return told | ({"size": {"height": self.size, "width": self.size}, "do_resize": True} if self.size else {})


class TextLogits(nn.Module):
    """A sequence classifier of transformers as a module from ids and mask to logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """[B, T] twice -> [B, K]."""
        return self.net(input_ids=input_ids, attention_mask=mask).logits


def conv_net(channels: int, width: int, classes: int) -> nn.Module:
    """Two convolutions with batch normalisation, a hidden layer of 64, and the head: the size of a CPU test."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.AdaptiveAvgPool2d(4)),
        nn.Sequential(nn.Flatten(), nn.Linear(32 * width, 64), nn.ReLU()),
        nn.Linear(64, classes),
    )


def pixel_net(inputs: int, hidden: int, classes: int) -> nn.Module:
    """Pixels to logits, smooth in the weights and without running statistics: logistic regression, or one hidden layer (tanh).

    Logistic regression begins at 0, where its only minimum is as near as from anywhere.
    """
    if hidden:
        first = nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.Tanh())
        return nn.Sequential(first, nn.Linear(hidden, classes))
    head = nn.Linear(inputs, classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return nn.Sequential(nn.Flatten(), head)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and what passes them by."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        same = stride == 1 and inside == outside
        self.past = nn.Identity() if same else nn.Sequential(
            nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H', W']."""
        return relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))) + self.past(x))


class ResNet18(nn.Module):
    """ResNet-18 for small images: four stages of two blocks, the last three of which halve the size."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        widths = [width, width, 2 * width, 2 * width, 4 * width, 4 * width, 8 * width, 8 * width]
        inside = [width, *widths[:-1]]
        self.blocks = nn.ModuleList(BasicBlock(a, b, 1 if a == b else 2) for a, b in zip(inside, widths, strict=True))
        self.head = nn.Linear(8 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, K]."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))
