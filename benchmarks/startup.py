"""How long `amends --help` takes, and that `import amends` brings neither torch nor anything else that is heavy.

Each repetition is a fresh process, interleaved with a bare `python -c pass`, which nothing can be faster than.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Sequence

from common import Clock, Figure, figure, parser, report

HELP = [sys.executable, "-c", "from amends.cli.app import main; main()", "--help"]
BARE = [sys.executable, "-c", "pass"]
HEAVY = ("torch", "transformers", "accelerate", "numpy", "scipy", "sklearn")
LOADED = f"import sys, amends; print(*[name for name in {HEAVY} if name in sys.modules])"


def timed(command: Sequence[str]) -> Clock:
    """Wall and processor seconds of one child process."""
    start = Clock(time.perf_counter(), _children())
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return Clock(time.perf_counter(), _children()).since(start)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def figures(reps: int) -> list[Figure]:
    """Medians over `reps` pairs of processes, after one pair that warms the disk's cache, and what an import loads."""
    pairs = [(timed(HELP), timed(BARE)) for _ in range(reps + 1)][1:]
    told = subprocess.run([sys.executable, "-c", LOADED], check=True, capture_output=True, text=True).stdout.split()
    return [
        figure("wall: amends --help", [h.wall for h, _ in pairs], unit="s", at_most=0.5),
        figure("cpu: amends --help", [h.cpu for h, _ in pairs], unit="s", at_most=0.5),
        figure("cpu: python -c pass", [b.cpu for _, b in pairs], unit="s"),
        figure("heavy modules after import amends", [len(told)], unit="", at_most=0, note=", ".join(told) or "none of them"),
    ]


def main() -> None:
    """Measures and prints."""
    options = parser(__doc__, model=False)
    options.set_defaults(reps=7)
    chosen = options.parse_args()
    report(figures(chosen.reps), {"python": sys.version.split()[0]}, chosen)


if __name__ == "__main__":
    main()
