"""What a step of random labels costs on ResNet-18: alternatives alone against both halves, and each layout of the images.

Ways are interleaved, so that drift of the machine cancels; each fit runs `--steps` steps on made images of CIFAR's size.
`both` is the same objective with a term of weight 0 that asks for the forget rows' own answers; `last` is `alone` with
`layout: channels_last`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import torch
from common import Clock, figure, parser, report

from amends.core.context import Memory
from amends.core.rng import rng
from amends.core.spec import Weighted
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.engine.fit import fit
from amends.engine.optim import SGD
from amends.subjects.image_classifier import ImageClassifier
from amends.terms.ascent import Ascent
from amends.terms.idk import Idk
from amends.terms.nll import NLL

ALONE = [Weighted(term=Idk()), Weighted(term=NLL())]
BOTH = [*ALONE, Weighted(term=Ascent(), weight=0.0)]

COMPARED = (("both halves / alternatives alone", "both", "alone", 1.3), ("contiguous / channels last", "alone", "last", 1.0))


def images(rows: int) -> Bundle:
    """Noise of CIFAR's size with labels of ten classes, and another label for each row to forget."""

    def row(role: str, i: int) -> Sample:
        return Sample(f"{role}-{i}", {"image": torch.rand(3, 32, 32, generator=rng(0, role, i)), "label": i % 10})

    made = {role: tuple(row(role, i) for i in range(rows)) for role in ("forget", "retain")}
    return Bundle(made, {s.id: s.with_("other", label=(s.data["label"] + 1) % 10) for s in made["forget"]})


def seconds(subject: Any, objective: list[Weighted], data: Bundle, options: argparse.Namespace) -> Clock:
    """A step's share of one fit, which looks at the gradients once before its first step."""

    def run() -> None:
        fit(subject, objective, data, steps=options.steps, optim=SGD(lr=1e-3), batch=options.rows, run=Memory())

    clock = Clock.timed(run)
    return Clock(*(value / (options.steps + 1) for value in clock))


def main() -> None:
    """Measures and prints."""
    options = parser(__doc__, model=False)
    options.add_argument("--rows", type=int, default=32, help="rows of each role in a step")
    options.add_argument("--width", type=int, default=16, help="channels of ResNet-18's first stage (64 in the paper)")
    options.add_argument("--steps", type=int, default=3, help="steps of one fit")
    options.add_argument("--threads", type=int, default=1, help="threads of torch")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    data = images(2 * chosen.rows)
    net = ImageClassifier(net="resnet18", width=chosen.width)
    plain, last = net.load(data, 0), replace(net, layout="channels_last").load(data, 0)
    ways = {"alone": (plain, ALONE), "both": (plain, BOTH), "last": (last, ALONE)}
    times: dict[str, list[Clock]] = {way: [] for way in ways}
    for repetition in range(chosen.reps + 1):
        for way in list(ways) if repetition % 2 else reversed(list(ways)):
            clock = seconds(*ways[way], data, chosen)
            if repetition:  # the first one warms up
                times[way].append(clock)
    figures = [figure(f"cpu: one step, {way}", [c.cpu for c in clocks], unit="s") for way, clocks in times.items()]
    for clock in ("cpu", "wall"):
        for name, above, below, least in COMPARED:
            ratios = [getattr(a, clock) / getattr(b, clock) for a, b in zip(times[above], times[below], strict=True)]
            figures.append(figure(f"{clock}: {name}", ratios, **({"at_least": least} if clock == "cpu" else {})))
    report(figures, {"net": f"resnet18 width {chosen.width}", "rows": chosen.rows, "threads": chosen.threads}, chosen)


if __name__ == "__main__":
    main()
