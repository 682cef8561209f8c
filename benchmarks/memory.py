"""Peak memory of unlearning by NPO + NLL against plain fine-tuning on the same rows, as many of them in each forward.

Each is a process of its own, in turn. What counts is the growth of resident memory: the peak (VmHWM, reset
after loading) minus what was resident once model and rows were loaded. Plain fine-tuning takes forget and retain rows
together, twice as many a step in two forwards, so both hold one gradient, one optimiser state and one forward's
activations; but its longest forward is that of both roles' longest rows. So cross-entropy on the two roles in the very
same batches is measured as well. A second whole model, which the usual way keeps, is shown as the size of the weights.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import Figure, figure, parser, prepare, report

MIB = 2**20
KINDS = {"npo": "NPO + NLL", "plain": "plain fine-tuning", "same": "NLL + NLL, same batches"}


def child(kind: str, chosen: Any) -> dict[str, Any]:
    """Trains one epoch in this process; bytes of growth and of weights, and the setting."""
    subject, data, setting = prepare(chosen)
    from amends.core.context import Memory

    stage = _stage(kind, chosen)
    _import_optimiser()
    reset = _reset_peak()
    before = _status("VmRSS")
    stage(subject, data, Memory())
    weights = sum(p.numel() * p.element_size() for p in subject.module.parameters())
    return {"growth": _status("VmHWM") - before, "weights": weights, "setting": {**setting, "peak reset": reset}}


def _stage(kind: str, chosen: Any) -> Any:
    from amends.core.spec import Weighted
    from amends.engine.optim import AdamW
    from amends.terms.nll import NLL
    from amends.terms.npo import NPO
    from amends.train.plain import Train
    from amends.unlearn.gradient import Gradient

    common = {"steps": chosen.batches, "micro": chosen.rows, "optim": AdamW(lr=1e-5)}
    if kind == "plain":
        return Train(on=("forget", "retain"), batch=2 * chosen.rows, **common)
    forget = NPO() if kind == "npo" else NLL(role="forget")
    return Gradient(objective=(Weighted(term=forget), Weighted(term=NLL())), batch=chosen.rows, **common)


def _import_optimiser() -> None:
    """An optimiser's first step imports a good part of torch, which would blur the growth of a small model."""
    import torch

    weight = torch.zeros(1, requires_grad=True)
    weight.sum().backward()
    torch.optim.AdamW([weight], fused=True).step()


def _status(key: str) -> int:
    """Bytes from this process's status; Linux only."""
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, key
    return int(found[1]) * 1024


def _reset_peak() -> bool:
    """Sets VmHWM to the memory in use now; False where the system does not allow it, and the peak of loading counts too."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def measure(reps: int) -> tuple[list[Figure], dict[str, Any]]:
    """The growth of each kind and the ratios, over `reps` rounds of processes."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for _ in range(reps):
        for kind in KINDS:
            command = [sys.executable, __file__, *sys.argv[1:], "--child", kind]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[kind].append(json.loads(done.stdout.splitlines()[-1]))
    grown = {kind: [f["growth"] for f in found[kind]] for kind in KINDS}
    weights = found["npo"][0]["weights"] / MIB
    rows = [figure(f"growth, {title}", [g / MIB for g in grown[kind]], unit="MiB") for kind, title in KINDS.items()]
    rows.append(figure("a frozen copy of the weights would add", [weights], unit="MiB"))
    for kind in ("plain", "same"):
        ratios = [a / b for a, b in zip(grown["npo"], grown[kind], strict=True)]
        rows.append(figure(f"NPO + NLL / {KINDS[kind]}", ratios, at_most=1.15))
    return rows, found["npo"][0]["setting"]


def main() -> None:
    """Measures and prints; a child measures one kind."""
    options = parser(__doc__)
    options.set_defaults(reps=3)
    options.add_argument("--child", choices=KINDS, help="measure one kind in this process and print JSON (used inside)")
    chosen = options.parse_args()
    if chosen.child:
        sys.stdout.write(json.dumps(child(chosen.child, chosen)) + "\n")
        return
    report(*measure(chosen.reps), chosen)


if __name__ == "__main__":
    main()
