"""What a WAGLE mask costs: its seconds against one epoch on the same rows, and its memory against the model's own.

Seconds: making the whole mask (both roles' gradients in two passes, scores, threshold) over one epoch of forward and
backward on those forget and retain rows, in turn on one model. Memory: a process of its own makes a mask and nothing else;
what counts is the growth of resident memory, the peak (VmHWM, reset after loading) minus what was resident once the model
was loaded, over the bytes of the model's parameters. The activations of a forward are in it; another process, which takes
the gradient of one small weight at the bottom on the same rows, says how much they are. They outweigh a small model, so
the memory is judged with --model alone, and rows should be short and few.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from common import Clock, Figure, figure, parser, prepare, report
from memory import _import_optimiser, _reset_peak, _status


def mask_of(chosen: Any) -> Any:
    """The edit that is measured."""
    from amends.attribution.wagle import Wagle
    from amends.edits.weight_mask import WeightMask

    return WeightMask(by=Wagle(batch=chosen.rows, passes=chosen.passes))


def child(kind: str, chosen: Any) -> dict[str, Any]:
    """Makes one mask, or holds one forward's activations, in this process; bytes of growth and of weights, and the setting."""
    subject, data, setting = prepare(chosen)
    from amends.core.context import Memory
    from amends.core.protocols import Start

    edit, start = mask_of(chosen), Start(subject, data, Memory())
    params = dict(subject.module.named_parameters())
    sum(float(p.detach().sum()) for p in params.values())  # every page of a mapped file is there before anything is counted
    _import_optimiser()
    reset = _reset_peak()
    before = _status("VmRSS")
    if kind == "mask":
        edit.init(params, start)
    else:
        _activations(start, chosen.rows)
    weights = sum(p.numel() * p.element_size() for p in params.values())
    return {"growth": _status("VmHWM") - before, "weights": weights, "setting": {**setting, "peak reset": reset}}


def _activations(start: Any, rows: int) -> None:
    from amends.attribution.gradients import gradients, in_batches
    from amends.subjects.blocks import block

    inside = {id(p) for p in block(start.subject.module, 0).parameters()}
    lowest = {n: p for n, p in start.subject.module.named_parameters() if id(p) in inside}
    name = min(lowest, key=lambda n: lowest[n].numel())
    gradients(start, in_batches(start, start.data["forget"], rows, "forget"), {name: lowest[name]})


def in_turn(chosen: Any) -> tuple[list[Figure], dict[str, Any]]:
    """Processor seconds of the mask over those of an epoch, and the same on the wall."""
    subject, data, setting = prepare(chosen)
    from amends.attribution.gradients import in_batches
    from amends.core.context import Memory
    from amends.core.protocols import Start

    edit, start = mask_of(chosen), Start(subject, data, Memory())
    batches = [b for role in ("forget", "retain") for b in in_batches(start, data[role], chosen.rows, role)]

    def epoch() -> None:
        for batch in batches:
            subject.likelihood(batch).nll_B.sum().backward()
        subject.module.zero_grad()

    epoch()
    pairs = [
        (Clock.timed(epoch), Clock.timed(lambda: edit.init(dict(subject.module.named_parameters()), start)))
        for _ in range(chosen.reps)
    ]
    cpu, wall = ([getattr(mask, clock) / getattr(one, clock) for one, mask in pairs] for clock in ("cpu", "wall"))
    return [figure("WAGLE mask / one epoch, cpu", cpu, at_most=2.2), figure("WAGLE mask / one epoch, wall", wall)], setting


def growth(kind: str, reps: int) -> tuple[list[float], dict[str, Any]]:
    """Growth of memory over the model's parameters in `reps` processes, and the setting."""
    found = []
    for _ in range(reps):
        command = [sys.executable, __file__, *sys.argv[1:], "--child", kind]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return [f["growth"] / f["weights"] for f in found], found[0]["setting"]


def main() -> None:
    """Measures and prints; a child makes one mask."""
    options = parser(__doc__)
    options.set_defaults(reps=3)
    options.add_argument("--passes", type=int, choices=(1, 2), default=2, help="WAGLE's: 1 is faster and takes more memory")
    options.add_argument(
        "--child", choices=("mask", "activations"), help="measure one in this process, print JSON (used inside)"
    )
    chosen = options.parse_args()
    if chosen.child:
        sys.stdout.write(json.dumps(child(chosen.child, chosen)) + "\n")
        return
    masks, setting = growth("mask", chosen.reps)
    held, _ = growth("activations", chosen.reps)
    memory = figure("memory of a WAGLE mask / parameters", masks, at_most=1.3 if chosen.model else None)
    times, _ = in_turn(chosen)
    report([*times, memory, figure("of which a forward's activations", held)], setting, chosen)


if __name__ == "__main__":
    main()
