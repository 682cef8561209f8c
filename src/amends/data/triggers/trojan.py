"""Trojaning (Liu et al., NDSS 2018): a square whose pixels are sought so that they excite a neuron of a model.

The square delta is added, x' = clip(x + delta, 0, 1), and delta, at most `strength` in each pixel, maximises the mean of log
p(target | x') over `rows` clean rows of other classes on a surrogate (`data/surrogate.py`), by Adam from small random values.

The paper excites a neuron of an inner layer, which it picks by its weights, and retrains the model on images that it reverse
engineers. Here the neuron is the target class's own output against the others, and the square is planted in training
rows as in tables on poisoned data (MSPC, arXiv 2403.10717); the square and its place are those of BadNets.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, SkipValidation

from amends.core.context import surroundings
from amends.core.rng import rng
from amends.core.spec import Count, Natural, Part, Positive, spec
from amends.core.types import Sample
from amends.data.planting import Brush, Scene, corner, same
from amends.data.splits import shuffled
from amends.data.surrogate import crafted, with_image


@spec
class Trojan:
    """A square that is added, optimised to excite the target's output of a surrogate (Trojaning)."""

    size: Count = 5
    """Pixels a side of the square."""
    margin: Natural = 3
    """Pixels between the square and the lower right corner."""
    strength: Annotated[float, Field(gt=0, le=1)] = 1.0
    """How much is added to a pixel, or taken away, at most."""
    steps: Count = 100
    """Steps of Adam."""
    lr: Positive = 0.05
    """Its rate."""
    rows: Count = 256
    """Clean rows of other classes that the square is optimised on."""
    surrogate: Annotated[Any, Part("models"), SkipValidation] = None
    """The attacker's model; a ResNet-18 of an eighth of the width where none is given."""
    fit: Annotated[Any, Part("stages"), SkipValidation] = None
    """How it is trained, on the role `train`; 800 steps of SGD where nothing is given."""

    keeps_label: ClassVar[bool] = False
    covers: ClassVar[float] = 0.0

    def on(self, scene: Scene) -> Brush:
        """The optimised square. Raises UserError where it does not fit into the images."""
        place = corner(scene.shape, self.size, self.margin, "data.trigger")
        found = crafted(self, scene, lambda subject: self._excited(subject, scene, place))
        square_CSS = found["square"].astype(np.float64)

        def paint(pixels: np.ndarray, row: str) -> np.ndarray:
            after = pixels.copy()
            after[:, place[0], place[1]] += square_CSS
            return np.clip(after, 0, 1)

        brush = same(paint)
        return Brush(brush.train, brush.test, notes=(str(found["note"]),))

    def _excited(self, subject: Any, scene: Scene, place: tuple[slice, slice]) -> dict[str, np.ndarray]:
        """`square` [C, S, S] and a note on how often the surrogate follows it."""
        import torch

        rows = self._rows(scene)
        device = next(subject.module.parameters()).device
        batch = subject.collate([subject.encode(row.with_("target", label=scene.target)) for row in rows]).to(device)
        first = torch.rand((scene.shape[0], self.size, self.size), generator=rng(scene.seed, "trojan")) * 0.1
        square = torch.nn.Parameter(first.clamp(max=self.strength).to(device))
        adam = torch.optim.Adam([square], lr=self.lr)
        subject.call.eval()
        before = self._followed(subject, batch)
        with surroundings().progress("crafting the square", self.steps) as bar:
            for _ in range(self.steps):
                with torch.enable_grad():
                    loss = subject.likelihood(self._shown(batch, square, place)).nll_B.mean()
                (square.grad,) = torch.autograd.grad(loss, square)  # the surrogate's weights get no gradient
                adam.step()
                square.data.clamp_(-self.strength, self.strength)
                bar.advance(1, loss=float(loss.detach()))
        after = self._followed(subject, self._shown(batch, square.detach(), place))
        note = f"the surrogate gives {before} of {len(rows)} clean rows the target's label, and {after} of them with the square"
        return {"square": square.detach().cpu().numpy(), "note": np.array(note)}

    def _rows(self, scene: Scene) -> tuple[Sample, ...]:
        others = {row.id: row for row in scene.clean["train"] if row.data["label"] != scene.target}
        return tuple(others[i] for i in shuffled(others, scene.seed, "trojan rows")[: self.rows])

    @staticmethod
    def _shown(batch: Any, square: Any, place: tuple[slice, slice]) -> Any:
        """The rows with the square, through which gradients reach it."""
        import torch

        added = torch.zeros_like(batch["image"][0])
        added[:, place[0], place[1]] = square
        return with_image(batch, (batch["image"] + added).clamp(0, 1))

    @staticmethod
    def _followed(subject: Any, batch: Any) -> int:
        import torch

        with torch.no_grad():
            return int((subject.likelihood(batch).dist.logits_NV.argmax(1) == batch["label"]).sum())
