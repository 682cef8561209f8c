"""A run mirrored into a real tracker: trackio keeps a SQLite file and needs no network."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from amends.core.errors import UserError
from amends.runs.track import Mirror

SMALL = ("stages.original.steps=4", "stages.retrain.steps=4", "subject.width=16", "attack=[]", "measure=[{use: probability}]",
         "headline=[]", "expect=[]", "reading.show=[]")  # fmt: skip


def test_trackio_holds_the_numbers_of_every_stage(tmp_path: Path) -> None:
    sets = [part for change in SMALL for part in ("--set", change)]
    command = [sys.executable, "-m", "amends", "run", "facts", "--profile", "smoke", "--out", str(tmp_path / "run"), *sets]
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "track"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--track", "trackio", "--no-report"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    with sqlite3.connect(tmp_path / "track" / "facts.db") as database:
        logged = "\n".join(str(row) for row in database.execute("select metrics from metrics"))
    assert "npo/loss" in logged and "original/lr" in logged


def test_an_unknown_tracker_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'trackio'"):
        Mirror("trackoi", "p", tmp_path, {})
