"""One process, two with DDP and two with FSDP2 take the same steps and end with the same weights (gloo, on CPU)."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

import amends
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.engine.parallel import Parallel

SCRIPT = Path(__file__).with_name("processes_script.py")
SOURCE = str(Path(amends.__file__).resolve().parents[1])


def script() -> ModuleType:
    """The script as a module: one process runs the same cases."""
    found = importlib.util.spec_from_file_location("processes_script", SCRIPT)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def environment(**more: str) -> dict[str, str]:
    """Two processes on one small machine, talking over loopback."""
    outside = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")}
    return {**outside, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "HF_HUB_OFFLINE": "1", **more}


def two_processes(strategy: str, folder: Path) -> None:
    """Every case in one group: starting two processes costs more than all their steps."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    command = [sys.executable, *launch, str(SCRIPT), strategy, str(folder)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]


def without_norms(said: list[str]) -> list[str]:
    """All but the sentence that shows a divergence's gradient at the start, which is rounding."""
    return [text for text in said if "gradient norms" not in text]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_take_the_steps_of_one(tmp_path: Path, strategy: str) -> None:
    two_processes(strategy, tmp_path)
    module = script()
    assert len(module.CASES) == 14
    for case in module.CASES:
        logged, weights, said = module.run(case, None, tmp_path / f"alone-{case}")
        for rank in (0, 1):
            out = tmp_path / f"{case}-{rank}"
            theirs = json.loads(out.with_suffix(".json").read_text())
            assert without_norms(theirs["said"]) == without_norms(said), case
            assert len(theirs["logged"]) == len(logged) > 0
            for step, expected in zip(theirs["logged"], logged, strict=True):
                assert step == pytest.approx(expected, rel=1e-4, abs=1e-5), case
            got = load_file(out.with_suffix(".safetensors"))
            assert got.keys() == weights.keys()
            for name, tensor in weights.items():
                torch.testing.assert_close(
                    got[name], tensor, rtol=1e-5, atol=1e-5, msg=lambda text, c=case, n=name: f"{c} {n}: {text}"
                )
        saved = [load_file(f / "checkpoint.safetensors") for f in (tmp_path / case, tmp_path / f"alone-{case}")]
        assert {k: v.shape for k, v in saved[0].items()} == {k: v.shape for k, v in saved[1].items()}, case
    states = [load_file(tmp_path / f"running-{rank}.safetensors") for rank in (0, 1)]
    start, alone = module.ImageClassifier(width=2, classes=4).load(module.images(), 0).module.state_dict(), module.running(None)
    assert states[0].keys() == states[1].keys() == alone.keys()
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-5, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
        assert not torch.equal(tensor, start[name]) or name in ("mean", "std"), name
    texts = [json.loads((tmp_path / f"written-{rank}.json").read_text()) for rank in (0, 1)]
    assert texts[0] == texts[1], "all processes train on what the main one wrote"
    alone = module.WRITTEN(module.tiny(), module.data(), Memory())
    assert texts[0] == {i: s.data["answer"] for i, s in alone.alternatives.items()}


def test_the_cases_test_what_they_are_there_for(tmp_path: Path) -> None:
    """The budget is broken, the divergence grows, the frozen weights stay: else agreement would say nothing."""
    module = script()
    assert any("utility budget spent" in text for text in module.run("guarded", None, tmp_path / "guarded")[2])
    assert module.run("kl", None)[0][-1]["1.kl.retain"] > 1e-3
    first = module.tiny().module.state_dict()
    for case, part in (("frozen", "mlp"), ("rmu", "layers.0.mlp.down_proj"), ("rmu_everywhere", "")):
        moved = {n for n, p in module.run(case, None)[1].items() if not torch.equal(p, first[n])}
        assert moved and all(part in n for n in moved), case
    assert not any("layers.1" in n or "model.norm" in n for n in moved), "nothing behind the block is trained"
    multipliers = [line["1.constraint.retain.multiplier"] for line in module.run("constraint", None)[0] if line["step"]]
    assert multipliers[-1] > multipliers[0] + 1
    same = {n: int((p == first[n]).sum()) for n, p in module.run("masked", None)[1].items()}
    total = sum(p.numel() for n, p in first.items() if n in same)
    assert round(0.3 * total) <= sum(same.values()) < 0.31 * total, "what the mask freezes, and hardly anything else"
    back = {n: int((p == first[n]).sum()) for n, p in module.run("soft_mask", None)[1].items()}
    assert sum(back.values()) > 0.05 * total, "the last step still puts weights back"


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_strategy_for_several_processes_is_refused_in_one(strategy: str) -> None:
    with pytest.raises(UserError, match=f"parallel: {strategy} needs several processes: start with `accelerate launch`"):
        Parallel(strategy)  # type: ignore[arg-type]


def test_what_was_asked_for_is_what_you_get_or_an_error() -> None:
    """Accelerate was set up for one process before WORLD_SIZE said two: it would train two models that never speak."""
    code = (
        "import os\n"
        "from accelerate import PartialState\n"
        "PartialState(cpu=True)\n"
        "os.environ['WORLD_SIZE'] = '2'\n"
        "from amends.engine.parallel import Parallel\n"
        "try:\n"
        "    Parallel('fsdp2')\n"
        "except ValueError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.stdout.startswith("UserError parallel: asked for fsdp2 on 2 processes, accelerate set up"), done.stderr[-2000:]
