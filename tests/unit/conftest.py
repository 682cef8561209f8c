"""What tests of ULD share: its small world (`uld_world`, beside this file) and a model that has learnt it; and a command."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from bench_world import Amends
from uld_world import DATA, MODEL

from amends.cli.app import main
from amends.core.context import Memory
from amends.engine.optim import AdamW
from amends.train.plain import Train


@pytest.fixture(scope="session")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model that knows its rows."""
    subject = MODEL.load(DATA, 0)
    Train(on=("forget", "retain"), steps=300, batch=12, optim=AdamW(lr=5e-3, warmup=0.1, schedule="cosine"))(
        subject, DATA, Memory()
    )
    folder = tmp_path_factory.mktemp("learnt") / "model"
    subject.save(folder)
    return folder


@pytest.fixture
def amends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Amends:
    """Runs a command in this process."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["amends", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        said = capsys.readouterr()
        return int(caught.value.code or 0), said.out, said.err

    return call
