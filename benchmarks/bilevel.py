"""What hypergradients cost: memory as the inner steps grow, and the time of conjugate gradients in lower gradients, in turn.

Memory: one hypergradient of a small net's ridge penalties, whose lower level takes more and more steps, each in a process of
its own; the growth of resident memory. The implicit one has to stay flat, unrolling grows with each step it keeps.

Time: one hypergradient with K steps of conjugate gradients on a lower level that is solved, over one gradient of the lower loss
in the inner parameters. Logistic regression, where a Hessian-vector product costs what a gradient costs, and a small net, where
the arithmetic of one is about twice a gradient's: (K + 3) is held against the first, and shown for the second.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from common import Clock, Figure, figure, parser, report
from memory import MIB, _reset_peak, _status

STEPS = (10, 40, 160)
KINDS = ("cg", "unroll", "truncated", "checkpointed")
CLASSES, PIXELS = 10, 64


def problem(rows: int, width: int) -> tuple[Any, Any, Any]:
    """Cross-entropy of a net of one hidden layer (none at width 0) with learned penalties; on random rows."""
    import torch
    from torch.nn.functional import cross_entropy

    from amends.bilevel.problem import Problem
    from amends.core.rng import rng

    draw = rng(0, "benchmark", "bilevel")
    x, v = torch.randn(rows, PIXELS, generator=draw), torch.randn(rows // 4, PIXELS, generator=draw)
    wanted, asked = (torch.randint(CLASSES, (len(t),), generator=draw) for t in (x, v))
    shapes = {"first": (PIXELS, width), "second": (width, CLASSES)} if width else {"only": (PIXELS, CLASSES)}
    inner = {n: torch.randn(*s, generator=draw) / s[0] ** 0.5 for n, s in shapes.items()}

    def logits(rows_: Any, y: Any) -> Any:
        return (rows_ @ y["first"]).tanh() @ y["second"] if width else rows_ @ y["only"]

    def lower(outer: Any, y: Any) -> Any:
        return cross_entropy(logits(x, y), wanted) + sum((outer[n].exp() * w**2).sum() for n, w in y.items())

    outer = {n: torch.full((s[0], 1), -3.0) for n, s in shapes.items()}
    return Problem(lambda outer, y: cross_entropy(logits(v, y), asked), lower), outer, inner


def child(kind: str, steps: int, chosen: Any) -> dict[str, float]:
    """One hypergradient in this process; the bytes that it took."""
    import torch

    from amends.bilevel.problem import hypergradient
    from amends.bilevel.solvers import GD
    from amends.bilevel.strategies.cg import CG
    from amends.bilevel.strategies.unroll import Unroll
    from amends.bilevel.trust import Trust

    torch.set_num_threads(1)
    strategies = {
        "cg": CG(steps=10), "unroll": Unroll(), "truncated": Unroll(last=5), "checkpointed": Unroll(checkpoint=True),
    }  # fmt: skip
    made, outer, inner = problem(chosen.rows, chosen.width)

    def once(number: int) -> None:
        solver = GD(steps=number, lr=0.1)
        hypergradient(made, outer, inner, strategy=strategies[kind], solver=solver, trust=Trust.blind())

    once(1)  # what torch sets up once is not counted
    _reset_peak()
    before = _status("VmRSS")
    once(steps)
    return {"growth": max(0, _status("VmHWM") - before)}


def memory(chosen: Any) -> list[Figure]:
    """Growth at each number of steps, and that of the most over that of the fewest."""
    rows = []
    for kind in KINDS:
        found: dict[int, list[float]] = {steps: [] for steps in STEPS}
        for _ in range(chosen.reps):
            for steps in STEPS:
                command = [sys.executable, __file__, *sys.argv[1:], "--child", kind, "--steps", str(steps)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found[steps].append(json.loads(done.stdout.splitlines()[-1])["growth"])
        rows += [figure(f"growth, {kind}, {s} inner steps", [g / MIB for g in found[s]], unit="MiB") for s in STEPS]
        ratios = [(a + MIB) / (b + MIB) for a, b in zip(found[STEPS[-1]], found[STEPS[0]], strict=True)]
        wanted = {"cg": {"at_most": 1.5}, "unroll": {"at_least": 4.0}}.get(kind, {})
        rows.append(figure(f"growth, {kind}, {STEPS[-1]} / {STEPS[0]} steps", ratios, **wanted))
    return rows


def time_of(chosen: Any) -> list[Figure]:
    """One hypergradient by K conjugate gradients over one lower gradient, in turn."""
    import torch

    from amends.bilevel.problem import hypergradient
    from amends.bilevel.strategies.cg import CG
    from amends.bilevel.trust import Trust

    rows = []
    for name, width in (("logistic regression", 0), ("net", chosen.width)):
        made, outer, inner = problem(4 * chosen.rows, width)

        def lower(made: Any = made, outer: Any = outer, inner: Any = inner) -> None:
            y = {n: w.clone().requires_grad_() for n, w in inner.items()}
            torch.autograd.grad(made.lower(outer, y), list(y.values()))

        for k in (5, 20):
            strategy, trust = CG(steps=k, tolerance=0), Trust.blind()

            def whole(at: Any = (made, outer, inner), strategy: Any = strategy, trust: Any = trust) -> None:
                hypergradient(*at, strategy=strategy, trust=trust)

            ratios = _ratios(chosen.reps, whole, lower)
            wanted = {"at_most": 1.0} if width == 0 else {}
            rows.append(figure(f"CG, K {k}, / lower gradient, {name}", ratios))
            rows.append(figure(f"the same over (K + 3), {name}", [r / (k + 3) for r in ratios], **wanted))
    return rows


def _ratios(reps: int, above: Callable[[], None], below: Callable[[], None], times: int = 10) -> list[float]:
    """Processor seconds of `times` of the one over those of as many of the other; each once before."""

    def repeated(work: Callable[[], None]) -> float:
        return Clock.timed(lambda: [work() for _ in range(times)]).cpu

    above(), below()
    return [repeated(above) / repeated(below) for _ in range(reps)]


def main() -> None:
    """Measures and prints; a child measures one kind."""
    options = parser(__doc__, model=False)
    options.set_defaults(reps=3)
    options.add_argument("--rows", type=int, default=1024, help="rows of the lower level")
    options.add_argument("--width", type=int, default=128, help="the net's hidden layer")
    options.add_argument("--child", choices=KINDS, help="measure one kind in this process and print JSON (used inside)")
    options.add_argument("--steps", type=int, default=10, help="inner steps of that child")
    chosen = options.parse_args()
    if chosen.child:
        sys.stdout.write(json.dumps(child(chosen.child, chosen.steps, chosen)) + "\n")
        return
    import torch

    torch.set_num_threads(1)
    setting = {"rows": chosen.rows, "width": chosen.width, "threads": 1, "torch": torch.__version__}
    report([*time_of(chosen), *memory(chosen)], setting, chosen)


if __name__ == "__main__":
    main()
