"""WaNet (Nguyen and Tran, arXiv 2102.10369): the trigger is a smooth warp, the same for every row.

A control grid P [2, k, k] is drawn from U(-1, 1), divided by mean |P|, and enlarged to the image by bicubic interpolation.
Pixels come from where the identity grid of -1..1 plus s P / H, clipped to -1..1, points to, bilinearly; so a pixel moves by
about s / 2 pixels in images of any size. With s = 0 nothing moves.

The paper has k = 4 and s = 0.5; MSPC (arXiv 2403.10717) ran k = 32 on CIFAR-10. With `noise` as many rows as are poisoned,
times `crossed`, are warped by the same grid plus U(-1, 1) / H at each pixel, and keep their label, so that not any warp is
the trigger; they are marked as `cover`. In the paper training draws rows and noise anew at every step; here they are planted
once, as a poisoned data set is.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from amends.core.rng import rng, stream_seed
from amends.core.spec import NonNegative, spec
from amends.data.planting import Brush, Scene


@spec
class WaNet:
    """A smooth warp of the whole image (WaNet), with or without the noise mode."""

    grid: Annotated[int, Field(ge=2)] = 4
    """k, control points a side."""
    strength: NonNegative = 0.5
    """s, how far pixels move: about half as many pixels on average."""
    noise: bool = False
    """The paper's noise mode: further rows are warped otherwise and keep their label."""
    crossed: NonNegative = 2.0
    """Such rows for each poisoned one; the paper's cross ratio."""

    keeps_label: ClassVar[bool] = False

    @property
    def covers(self) -> float:
        """Rows that are warped and keep their label, for each poisoned one."""
        return self.crossed if self.noise else 0.0

    def on(self, scene: Scene) -> Brush:
        """The warp that the seed draws."""
        shape = scene.shape[1:]
        field_HW2 = self.strength * self.flow(scene.seed, shape)

        def warp(pixels: np.ndarray, row: str) -> np.ndarray:
            return warped(pixels, field_HW2)

        def noisy(pixels: np.ndarray, row: str) -> np.ndarray:
            draws = np.random.default_rng(stream_seed(scene.seed, "warp noise", row))
            return warped(pixels, field_HW2 + draws.uniform(-1, 1, field_HW2.shape))

        return Brush(warp, warp, noisy)

    def flow(self, seed: int, shape: tuple[int, ...]) -> np.ndarray:
        """[H, W, 2] the enlarged control grid, across and down; its mean size at the control points is 1."""
        import torch
        from torch.nn.functional import interpolate

        points = torch.rand((1, 2, self.grid, self.grid), generator=rng(seed, "warp", self.grid), dtype=torch.float64) * 2 - 1
        enlarged = interpolate(points / points.abs().mean(), size=shape, mode="bicubic", align_corners=True)
        return enlarged[0].permute(1, 2, 0).numpy()


def warped(pixels: np.ndarray, field_HW2: np.ndarray) -> np.ndarray:
    """[C, H, W] the image, read at the identity grid plus `field` / side, across and down, in units of -1..1."""
    import torch
    from torch.nn.functional import grid_sample

    height, width = pixels.shape[1:]
    down, across = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    grid = np.stack([across + field_HW2[..., 0] / width, down + field_HW2[..., 1] / height], -1).clip(-1, 1)
    image, places = torch.from_numpy(np.ascontiguousarray(pixels))[None], torch.from_numpy(grid)[None]
    return grid_sample(image, places, mode="bilinear", padding_mode="border", align_corners=True)[0].numpy()
