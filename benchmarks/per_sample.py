"""What classifiers' unlearners cost: gradients of single rows, the Fisher information, a step of l1-sparse; in turn.

Three models on random images, all in evaluation mode: TinyClassifier on 8 x 8, a small residual network with batch norms on
32 x 32, and the ResNet-18 of an eighth of the width that `amends bench images` trains (`--width`). Gradients of single rows are
compared with a Python loop over rows, and so is torch.func, which takes any model; beside them stands how much faster the
ordinary gradient of the whole batch is than that loop, which is the most that any way can gain. Fisher is compared with as many
forward and backward passes as there are classes, l1-sparse with fine-tuning, both through fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common import Clock, figure, parser, report

CLASSES = 10


def residual(width: int) -> Any:
    """Three residual blocks, as of a ResNet with the stem for small images."""
    from torch import nn

    class Block(nn.Module):
        """Two convolutions and a way around them."""

        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.main = nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
                nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
            )  # fmt: skip
            self.around = nn.Identity()
            if stride != 1 or inputs != outputs:
                self.around = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

        def forward(self, x: Any) -> Any:
            return (self.main(x) + self.around(x)).relu()

    return nn.Sequential(
        nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), Block(width, width, 1),
        Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4 * width, CLASSES),
    )  # fmt: skip


def world(name: str, rows: int, width: int = 8) -> tuple[Any, Any]:
    """A model and rows for it."""
    import torch

    from amends.core.rng import rng
    from amends.core.types import Sample
    from amends.data.bundle import Bundle
    from amends.subjects.classifier import Classifier
    from amends.subjects.image_classifier import ImageClassifier
    from amends.subjects.tiny import TinyClassifier

    shape = (1, 8, 8) if name == "tiny" else (3, 32, 32)
    images = torch.rand(2 * rows, *shape, generator=rng(0, "benchmark"))
    every = [Sample(f"r{i}", {"image": x, "label": i % CLASSES}) for i, x in enumerate(images)]
    data = Bundle({"forget": tuple(every[:rows]), "retain": tuple(every[rows:])})
    if name == "residual":
        return Classifier(residual(16)), data
    model = TinyClassifier(classes=CLASSES) if name == "tiny" else ImageClassifier(net="resnet18", width=width)
    return model.load(data, 0), data


def ratios(reps: int, above: Callable[[], object], below: Callable[[], object], times: int = 1) -> list[float]:
    """Seconds of one piece of work over those of another, taken in turn, each once before; of the processor with one thread."""
    import torch

    def repeated(work: Callable[[], object]) -> float:
        taken = Clock.timed(lambda: [work() for _ in range(times)])
        return taken.cpu if torch.get_num_threads() == 1 else taken.wall

    above(), below()
    return [repeated(above) / repeated(below) for _ in range(reps)]


def main() -> None:
    """Measures and prints."""
    options = parser(__doc__, model=False)
    options.add_argument("--rows", type=int, default=64, help="rows of a batch")
    options.add_argument("--threads", type=int, default=1, help="threads of torch; with more than one the wall clock is read")
    options.add_argument("--width", type=int, default=8, help="width of the ResNet-18; 64 is the whole one")
    chosen = options.parse_args()
    import torch

    torch.set_num_threads(chosen.threads)
    found = []
    for name in ("tiny", "residual", "ResNet-18"):
        subject, data = world(name, chosen.rows, chosen.width)
        found += [*_rows(name, subject, data, chosen.reps), *_fisher(name, subject, data, chosen)]
    found += _l1(*world("residual", chosen.rows), chosen)
    report(found, {"rows": chosen.rows, "threads": chosen.threads, "torch": torch.__version__}, chosen)


def _rows(name: str, subject: Any, data: Any, reps: int) -> list[Any]:
    """A loop over rows against all at once, and the ceiling."""
    import torch

    from amends.engine.per_sample import of_function, per_sample

    subject.call.eval()
    params = dict(subject.module.named_parameters())
    single = [subject.collate([subject.encode(row)]) for row in data["retain"]]
    batch = subject.collate([subject.encode(row) for row in data["retain"]])

    def loop() -> None:
        for one in single:
            torch.autograd.grad(subject.likelihood(one).nll_B.sum(), list(params.values()))

    def whole() -> None:
        torch.autograd.grad(subject.likelihood(batch).nll_B.sum(), list(params.values()))

    together = ratios(reps, loop, lambda: per_sample(subject, batch, params))
    function = ratios(reps, loop, lambda: of_function(subject, batch, params))
    return [
        figure(f"loop over rows / per_sample, {name}", together, at_least=5),
        figure(f"loop over rows / torch.func, {name}", function),
        figure(f"loop over rows / one batch's gradient, {name}", ratios(reps, loop, whole), note="the most there is to gain"),
    ]


def _fisher(name: str, subject: Any, data: Any, chosen: Any) -> list[Any]:
    """Fisher over all classes against as many forward and backward passes of the same batch."""
    import torch

    from amends.core.context import Memory
    from amends.unlearn.fisher import Fisher
    from amends.unlearn.live import Live

    live = Live.of(subject, data, None, Memory())
    batch = subject.collate([subject.encode(row) for row in data["retain"]])

    def passes() -> None:
        for _ in range(CLASSES):
            torch.autograd.grad(subject.likelihood(batch).nll_B.sum(), list(live.params.values()))

    stage = Fisher(batch=chosen.rows)
    work = ratios(chosen.reps, lambda: stage.diagonal(subject, live, list(data["retain"]), Memory()), passes)
    return [figure(f"Fisher / {CLASSES} forwards and backwards, {name}", work, at_most=1.5)]


def _l1(subject: Any, data: Any, chosen: Any) -> list[Any]:
    """Four steps of fit with and without the edit; several of each in turn."""
    from amends.core.context import Memory
    from amends.core.spec import Weighted
    from amends.edits.prox_l1 import ProxL1
    from amends.engine.fit import fit
    from amends.engine.optim import SGD
    from amends.terms.nll import NLL

    def steps(edits: list[Any]) -> None:
        optim = SGD(lr=1e-4, momentum=0.9)
        fit(subject, [Weighted(term=NLL())], data, steps=8, optim=optim, batch=chosen.rows, edits=edits, run=Memory())

    def ratio(form: Any) -> list[float]:
        return ratios(4 * chosen.reps, lambda: steps([ProxL1(form=form)]), lambda: steps([]))

    forms = ("proximal", "subgradient")
    return [figure(f"l1-sparse / fine-tuning, {form}", ratio(form), at_most=1.05) for form in forms]


if __name__ == "__main__":
    main()
