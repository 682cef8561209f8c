"""What a stage's seconds hold, and what they do not."""

from __future__ import annotations

import subprocess
import sys


def test_the_import_of_torchs_compiler_is_no_cost_of_the_first_method() -> None:
    """Seconds of it, which the first optimiser of a process brings, lie before the clock; nobody pays who trains nothing."""
    code = (
        "import sys, torch; from amends.runs.record import Meter; there = lambda: 'torch._dynamo' in sys.modules;"
        "Meter(trains=False); before = there(); Meter(); print(before, there())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
