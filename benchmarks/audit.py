"""What a scan for poisoned rows costs: scaled prediction consistency against plain loops, in turn, and the memory of a scan.

Time: `SPC.scores` puts a batch and all its brighter copies through the model at once, about as many images a forward as suit
the device (on a processor 32 of 32 x 32). Three loops do the same work and must give the same scores. Row by row: one forward
for each row and each scaling. Scaling by scaling: as many passes over all rows as there are scalings, and one for the images
as they are, each with a loader of its own that encodes and stacks its rows, at 100 rows a batch as in SCALE-UP's released code,
and at 10. `bf16` is the same scan with `precision: bf16` against the same loops. The models have random weights: TinyClassifier
on 8 x 8, and a small residual network on 32 x 32.

Memory: a process of its own holds 50,000 random 8-bit images of 32 x 32 in colour and a small convolutional net, and audits
them. What counts is the growth of resident memory during the audit, as in memory.py; the peak of the whole process stands
beside it. ResNet-18 of full width audits a few batches too: activations grow with the model and the batch, not with the rows.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from common import Figure, figure, parser, report
from memory import MIB, _reset_peak, _status
from per_sample import CLASSES, ratios, world

AUDITORS: dict[str, dict[str, Any]] = {
    "spc": {}, "mspc": {"rounds": 1, "passes": 1}, "strip": {"overlays": 5}, "cognitive_distillation": {"steps": 2},
    "frequency": {"epochs": 1},
}  # fmt: skip
"""What may be scanned with, at settings that end soon: the memory of a scan is that of its batches."""


def loop(subject: Any, rows: Any, scales: tuple[float, ...], most: int) -> dict[str, float]:
    """The score of each row by one forward for each batch and scaling, scaling by scaling."""
    import torch

    told = []
    with torch.no_grad():
        for scale in (1.0, *scales):
            own = []
            for start in range(0, len(rows), most):
                batch = subject.collate([subject.encode(row) for row in rows[start : start + most]])
                batch.tensors["image"].mul_(scale).clamp_(0, 1)
                own.append(subject.likelihood(batch).dist.logits_NV.argmax(1))
            told.append(torch.cat(own))
    share = (torch.stack(told[1:]) == told[0]).double().mean(0).tolist()
    return {row.id: s for row, s in zip(rows, share, strict=True)}


def times(name: str, num_rows: int, reps: int) -> list[Figure]:
    """The three loops over the scan."""
    from amends.audit.spc import SPC
    from amends.core.context import Memory
    from amends.data.bundle import Bundle

    subject, data = world(name, num_rows)
    subject.call.eval()
    rows = data["retain"]
    whole = Bundle({"train": rows})
    found = []
    for title, most, precision, wanted in (
        ("row by row", 1, "fp32", None), ("100 rows a batch", 100, "fp32", None), ("100 rows a batch", 100, "bf16", 3.0),
        ("10 rows a batch", 10, "fp32", None),
    ):  # fmt: skip
        auditor = SPC(precision=precision)

        def scan(auditor: SPC = auditor) -> dict[str, float]:
            return dict(auditor.scores(subject, whole, Memory()).score)

        pairs = zip(scan().values(), loop(subject, rows, auditor.scales, most).values(), strict=True)
        apart = sum(a != b for a, b in pairs)
        assert apart <= len(rows) // (50 if precision == "fp32" else 10), f"{apart} scores differ by more than a near tie"
        values = ratios(reps, lambda most=most, scales=auditor.scales: loop(subject, rows, scales, most), scan)
        note = f"{apart} of {len(rows)} scores differ" if apart else ""
        shown = f"SPC in {precision}" if precision != "fp32" else "SPC"
        found.append(
            figure(f"loop, {title} / {shown}, {name}", values, at_least=wanted if name == "residual" else None, note=note)
        )
    return found


def child(net: str, chosen: Any) -> dict[str, Any]:
    """Audits random images in this process; bytes of growth and of the peak."""
    import numpy as np
    import torch

    from amends.core.context import Memory
    from amends.core.rng import stream_seed
    from amends.core.spec import build_use
    from amends.core.types import Sample
    from amends.data.bundle import Bundle
    from amends.subjects.image_classifier import ImageClassifier

    torch.set_num_threads(chosen.threads)
    num, width = (chosen.images, 16) if net == "conv" else (chosen.deep, 64)
    images = np.random.default_rng(stream_seed(0, "audit")).integers(0, 256, (num, 3, 32, 32), dtype=np.uint8)
    data = Bundle({"train": tuple(Sample(f"r{i}", {"image": x, "label": i % CLASSES}) for i, x in enumerate(images))})
    model = ImageClassifier(net="conv" if net == "conv" else "resnet18", width=width)
    subject = model.load(Bundle({"train": data["train"][:CLASSES]}), 0)
    auditor = build_use("auditors", {"use": chosen.auditor, **AUDITORS[chosen.auditor]}, "audit")
    auditor.check(Bundle({"train": data["train"][:CLASSES]}), subject)
    reset = _reset_peak()
    before = _status("VmRSS")
    auditor.scores(subject, data, Memory())
    return {"growth": _status("VmHWM") - before, "peak": _status("VmHWM"), "reset": reset}


def memory(net: str, title: str, chosen: Any) -> list[Figure]:
    """The growth of one scan and the peak of its process."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child", net]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    note = "" if found["reset"] else "the peak could not be reset"
    growth = figure(f"growth, {title}", [found["growth"] / MIB], unit="MiB", at_most=4096, note=note)
    return [growth, figure(f"peak of the process, {title}", [found["peak"] / MIB], unit="MiB")]


def main() -> None:
    """Measures and prints; a child measures the memory of one scan."""
    options = parser(__doc__, model=False)
    options.add_argument("--rows", type=int, default=200, help="rows that are timed")
    options.add_argument("--images", type=int, default=50_000, help="rows of the scan whose memory is measured")
    options.add_argument("--deep", type=int, default=84, help="rows that ResNet-18 audits; 0 leaves it out")
    options.add_argument("--auditor", choices=AUDITORS, default="spc", help="whose memory is measured")
    options.add_argument("--threads", type=int, default=1, help="threads of torch; with more than one the wall clock is read")
    options.add_argument("--child", choices=("conv", "deep"), help="measure one scan and print JSON (used inside)")
    chosen = options.parse_args()
    if chosen.child:
        sys.stdout.write(json.dumps(child(chosen.child, chosen)) + "\n")
        return
    import torch

    torch.set_num_threads(chosen.threads)
    found = [f for name in ("tiny", "residual") if chosen.reps for f in times(name, chosen.rows, chosen.reps)]
    found += memory("conv", f"{chosen.auditor}, {chosen.images} images", chosen) if chosen.images else []
    found += memory("deep", f"{chosen.auditor}, {chosen.deep} images, ResNet-18", chosen) if chosen.deep else []
    report(found, {"rows": chosen.rows, "threads": chosen.threads, "torch": torch.__version__}, chosen)


if __name__ == "__main__":
    main()
