"""What hypergradients cost: memory as the inner steps grow, time in lower gradients, and beside a peer's, in turn.

Memory: one hypergradient of a small net's ridge penalties, whose lower level takes more and more steps, each in a process of
its own; the growth of resident memory. The implicit one has to stay flat, unrolling grows with each step it keeps. `--svg FILE`
draws it.

Time: one hypergradient with K steps of conjugate gradients on a lower level that is solved, over one gradient of the lower loss
in the inner parameters: at most K + 3. An exact product costs what a gradient costs in logistic regression, and in a net up to
twice as much, whose arithmetic it is; there the products by differences of gradients are held to K + 3, the exact ones shown.

A peer: TorchOpt's implicit gradient by as many steps of its conjugate gradients, on the same problem at the same point. The two
must agree, or the script leaves with an error. TorchOpt is no part of the library's environment and should not become one:
`pip install --no-deps --target FOLDER torchopt optree graphviz`, and FOLDER in PYTHONPATH. Without it the rows are left out,
which is said.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bilevel_drawn import picture
from common import Clock, Figure, figure, parser, report
from memory import MIB, _reset_peak, _status

STEPS = (10, 20, 40, 80, 160)
KINDS = ("cg", "unroll", "truncated", "checkpointed")
CLASSES, PIXELS = 10, 64

NETS = {"logistic regression": 0, "net": 1, "deep net": 3}
"""Hidden layers."""


def problem(rows: int, width: int, depth: int = 1) -> tuple[Any, Any, Any]:
    """Cross-entropy of a net with so many hidden layers and learned penalties, on random rows."""
    import torch
    from torch.nn.functional import cross_entropy

    from amends.bilevel.problem import Problem
    from amends.core.rng import rng

    draw = rng(0, "benchmark", "bilevel")
    x, v = torch.randn(rows, PIXELS, generator=draw), torch.randn(rows // 4, PIXELS, generator=draw)
    wanted, asked = (torch.randint(CLASSES, (len(t),), generator=draw) for t in (x, v))
    sizes = [PIXELS, *[width] * depth, CLASSES]
    shapes = {f"w{i}": (sizes[i], sizes[i + 1]) for i in range(depth + 1)}
    inner = {n: torch.randn(*s, generator=draw) / s[0] ** 0.5 for n, s in shapes.items()}

    def logits(rows_: Any, y: Any) -> Any:
        for i in range(depth):
            rows_ = (rows_ @ y[f"w{i}"]).tanh()
        return rows_ @ y[f"w{depth}"]

    def lower(outer: Any, y: Any) -> Any:
        return cross_entropy(logits(x, y), wanted) + sum((outer[n].exp() * w**2).sum() for n, w in y.items())

    # a Hessian that is positive, and whose spectrum is so wide that conjugate gradients do not end early
    outer = {n: torch.linspace(-2, 1, s[0])[:, None] for n, s in shapes.items()}
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


def memory(chosen: Any) -> tuple[list[Figure], dict[str, list[tuple[int, float]]]]:
    """Growth at each number of steps, that of the most over that of the fewest; and (steps, MiB) of each kind."""
    rows, drawn = [], {}
    for kind in KINDS:
        found: dict[int, list[float]] = {steps: [] for steps in STEPS}
        for _ in range(chosen.reps):
            for steps in STEPS:
                command = [sys.executable, __file__, *sys.argv[1:], "--child", kind, "--steps", str(steps)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found[steps].append(json.loads(done.stdout.splitlines()[-1])["growth"])
        each = [figure(f"growth, {kind}, {s} inner steps", [g / MIB for g in found[s]], unit="MiB") for s in STEPS]
        drawn[kind] = [(s, f.value) for s, f in zip(STEPS, each, strict=True)]
        ratios = [(a + MIB) / (b + MIB) for a, b in zip(found[STEPS[-1]], found[STEPS[0]], strict=True)]
        wanted = {"cg": {"at_most": 1.5}, "unroll": {"at_least": 4.0}}.get(kind, {})
        rows += [*each, figure(f"growth, {kind}, {STEPS[-1]} / {STEPS[0]} steps", ratios, **wanted)]
    return rows, drawn


def time_of(chosen: Any) -> list[Figure]:
    """One hypergradient by K conjugate gradients over one lower gradient, in turn."""
    import torch

    from amends.bilevel.problem import hypergradient
    from amends.bilevel.strategies.cg import CG
    from amends.bilevel.trust import Trust

    rows = []
    for name, depth in NETS.items():
        made, outer, inner = problem(4 * chosen.rows, chosen.width, depth)

        def lower(made: Any = made, outer: Any = outer, inner: Any = inner) -> None:
            y = {n: w.clone().requires_grad_() for n, w in inner.items()}
            torch.autograd.grad(made.lower(outer, y), list(y.values()))

        for product in ("exact", "difference"):
            for k in (5, 20):
                strategy, trust = CG(steps=k, tolerance=0, product=product), Trust.blind()

                def whole(at: Any = (made, outer, inner), strategy: Any = strategy, trust: Any = trust) -> None:
                    hypergradient(*at, strategy=strategy, trust=trust)

                _all_steps(hypergradient(made, outer, inner, strategy=strategy, trust=trust), k)
                ratios = [r / (k + 3) for r in _ratios(chosen.reps, whole, lower)]
                wanted = {"at_most": 1.0} if (product == "exact") == (depth == 0) else {}
                rows.append(figure(f"CG, {product}, K {k}, / (K + 3) lower gradients, {name}", ratios, **wanted))
    return rows


def peers(chosen: Any) -> list[Figure]:
    """Our implicit gradient over TorchOpt's, of as many steps: bare, and with the looks that it is trusted by."""
    import torch

    from amends.bilevel.problem import hypergradient
    from amends.bilevel.strategies.cg import CG
    from amends.bilevel.trust import Trust

    rows = []
    for name, depth in list(NETS.items())[:2]:
        made, outer, inner = problem(chosen.rows, chosen.width, depth)
        for k in (5, 20):
            strategy = CG(steps=k, tolerance=0)
            theirs = torchopt_implicit(made, outer, inner, k)
            looks = Trust(residual=None, bias=None, stationarity=None, curvature=False)
            ours = hypergradient(made, outer, inner, strategy=strategy, trust=Trust.blind())
            _all_steps(ours, k)
            for mine, other in zip(ours.gradient.values(), theirs(), strict=True):
                torch.testing.assert_close(mine, other, rtol=1e-2, atol=1e-5)
            for said, trust in (("", Trust.blind()), (", with a probe", looks)):

                def whole(at: Any = (made, outer, inner), strategy: Any = strategy, trust: Any = trust) -> None:
                    hypergradient(*at, strategy=strategy, trust=trust)

                wanted = {} if said else {"at_most": 1.0}
                rows.append(figure(f"CG, K {k}{said} / TorchOpt's, {name}", _ratios(chosen.reps, whole, theirs), **wanted))
    return rows


def _all_steps(answer: Any, k: int) -> None:
    """That conjugate gradients took all their steps, and did not end at a curvature below 0: K products and the last one."""
    if answer.diagnosis.products < k + 1:
        sys.exit(f"error: {answer.diagnosis.products} products where {k + 1} were to be timed")


def torchopt_implicit(made: Any, outer: Any, inner: Any, steps: int) -> Callable[[], Any]:
    """A function that gives TorchOpt's hypergradient by so many steps of its conjugate gradients."""
    import torch
    import torchopt

    def optimality(y: Any, x: Any) -> Any:
        return torch.func.grad(lambda inside: made.lower(dict(zip(outer, x, strict=True)), named(inside)))(y)

    def named(y: Any) -> Any:
        return dict(zip(inner, y, strict=True))

    solve = torchopt.linear_solve.solve_cg(maxiter=steps, rtol=0.0)

    @torchopt.diff.implicit.custom_root(optimality, argnums=1, solve=solve)
    def solved(y: Any, x: Any) -> Any:
        return tuple(inner.values())

    def whole() -> Any:
        x = tuple(v.clone().requires_grad_() for v in outer.values())
        return torch.autograd.grad(made.upper({}, named(solved(tuple(inner.values()), x))), x)

    return whole


def _ratios(reps: int, above: Callable[[], None], below: Callable[[], None], times: int = 3) -> list[float]:
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
    options.add_argument("--of", nargs="+", choices=("time", "peers", "memory"), default=["time", "peers", "memory"])
    options.add_argument("--svg", metavar="FILE", help="draw memory by inner steps")
    options.add_argument("--steps", type=int, default=10, help="inner steps of that child")
    chosen = options.parse_args()
    if chosen.child:
        sys.stdout.write(json.dumps(child(chosen.child, chosen.steps, chosen)) + "\n")
        return
    import torch

    torch.set_num_threads(1)
    setting = {"rows": chosen.rows, "width": chosen.width, "threads": 1, "torch": torch.__version__}
    figures = []
    if "time" in chosen.of:
        figures += time_of(chosen)
    if "peers" in chosen.of:
        there = importlib.util.find_spec("torchopt") is not None
        figures += peers(chosen) if there else []
        setting["TorchOpt"] = importlib.metadata.version("torchopt") if there else "not installed, its rows are left out"
    if "memory" in chosen.of:
        rows, drawn = memory(chosen)
        figures += rows
        if chosen.svg:
            Path(chosen.svg).write_text(picture(drawn), encoding="utf-8")
    report(figures, setting, chosen)


if __name__ == "__main__":
    main()
