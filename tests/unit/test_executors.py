"""Every executor runs the same subprocess: equal results bit for bit, one failure that stops nothing, and a second go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from amends.core.errors import UserError
from amends.runs.executors.base import Job, jobs_of
from amends.runs.executors.choose import choose
from amends.runs.executors.local import Local
from amends.runs.executors.ray import Ray
from amends.runs.executors.slurm import Slurm, _Requeued
from amends.runs.recipe import resolve

TINY = [
    "stages.ascent=", "stages.graddiff=", "stages.simnpo=", "stages.original.steps=3", "stages.retrain.steps=3",
    "stages.npo.steps=2", "subject.width=16", "attack=[]", "measure=[{use: probability, role: forget}]", "headline=[]",
    "expect=[]", "reading.max_new_tokens=2",
]  # fmt: skip
WORDS = ("--no-report",)


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A recipe that lasts a second, and one that is refused."""
    root = tmp_path_factory.mktemp("recipes")
    text = resolve("facts", "smoke", TINY).as_yaml()
    for name, content in (("good", text), ("bad", text.replace("tiny_lm", "tiny_ml"))):
        (root / f"{name}.yaml").write_text(content)
    return [root / "bad.yaml", root / "good.yaml"]


@pytest.fixture(scope="module")
def local(recipes: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both, by the local executor with one thread each."""
    root = tmp_path_factory.mktemp("local")
    assert list(Local(os.cpu_count() or 1, WORDS).map(recipes, folders(root))) == [2, 0]
    return root


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe that lasts long enough to be interrupted, and where it was run in one go."""
    root = tmp_path_factory.mktemp("long")
    steps = ["stages.original.steps=30", "stages.original.checkpoint_every=3"]
    (root / "long.yaml").write_text(resolve("facts", "smoke", [*TINY, *steps]).as_yaml())
    assert list(Local(1, WORDS).map([root / "long.yaml"], [root / "good"])) == [0]
    return root / "long.yaml", root


def folders(root: Path) -> list[Path]:
    """Where the two runs go."""
    return [root / "bad", root / "good"]


def same(one: Path, other: Path) -> None:
    """Results and answers are equal to the last bit, and both runs ended well."""
    for name in ("results.json", "samples/answers.jsonl"):
        assert (one / "good" / name).read_bytes() == (other / "good" / name).read_bytes()
    prints = [[s["weights"] for s in json.loads((r / "good" / "manifest.json").read_text())["stages"]] for r in (one, other)]
    assert prints[0] == prints[1] and len(prints[0]) == 3


def refused(root: Path) -> str:
    """What the run that was refused wrote."""
    assert not (root / "bad" / "results.json").exists()
    return (root / "bad" / "console.txt").read_text()


def test_the_local_executor_keeps_what_each_run_said(local: Path) -> None:
    assert "subject.use: no model is called 'tiny_ml' (did you mean 'tiny_lm'?)" in refused(local)
    assert "data: " in (local / "good" / "console.txt").read_text()


def test_ray_gives_the_same_results_and_goes_on_after_a_failure(recipes: list[Path], local: Path, tmp_path: Path) -> None:
    """In a process of its own: Ray's processes talk over local sockets, which tests may not open."""
    code = (
        "import sys; from pathlib import Path; from amends.runs.executors.choose import choose\n"
        "recipes, folders = ([Path(p) for p in words.split(',')] for words in sys.argv[1:3])\n"
        "print(list(choose('ray', 2, ['num_cpus=1'], ('--no-report',)).map(recipes, folders)))"
    )
    lists = [",".join(map(str, paths)) for paths in (recipes, folders(tmp_path))]
    done = subprocess.run([sys.executable, "-c", code, *lists], capture_output=True, text=True, check=False)
    assert done.stdout.strip().splitlines()[-1:] == ["[2, 0]"], done.stderr
    assert "FAILED (exit 2" in done.stderr and "finished" in done.stderr
    same(local, tmp_path)
    assert refused(tmp_path) == refused(local)


def test_submitit_gives_the_same_results_and_does_nothing_twice(recipes: list[Path], local: Path, tmp_path: Path) -> None:
    executor = choose("slurm", 2, ["cluster=local", "timeout_min=5", f"logs={tmp_path / 'logs'}"], WORDS)
    assert list(executor.map(recipes, folders(tmp_path))) == [2, 0]
    same(local, tmp_path)
    assert refused(tmp_path) == refused(local)
    assert list((tmp_path / "logs").glob("*_result.pkl"))
    marks = {f: f.stat().st_mtime_ns for f in tmp_path.glob("good/stages/*/DONE")}
    assert len(marks) == 3
    assert list(executor.map(recipes[1:], folders(tmp_path)[1:])) == [0]
    assert {f: f.stat().st_mtime_ns for f in marks} == marks


@pytest.mark.skipif(sys.platform != "linux", reason="finds the job's process in /proc")
@pytest.mark.parametrize(("minutes", "word"), [(24 * 60, "preempted"), pytest.param(5, "timed-out", marks=pytest.mark.slow)])
def test_a_job_that_is_taken_off_its_machine_is_started_again_and_ends_where_an_undisturbed_one_ends(
    undisturbed: tuple[Path, Path], minutes: int, word: str, tmp_path: Path
) -> None:  # fmt: skip
    """The signal that submitit has Slurm send is sent to submitit's local job; short limits make it one that ran out."""
    from submitit.local.local import LocalJobEnvironment

    recipe, straight = undisturbed
    folder = tmp_path / "again" / "good"
    slurm = Slurm(cluster="local", logs=str(tmp_path / "logs"), parameters={"timeout_min": minutes})
    (job,) = jobs_of([recipe], [folder], WORDS, 1)
    handle = slurm._executor(folder).submit(_Requeued(**asdict(job)))
    deadline = time.monotonic() + 300
    while not any(folder.glob("stages/*/checkpoint.safetensors")):
        assert time.monotonic() < deadline and not handle.done(), handle.stderr()
        time.sleep(0.02)
    controller = handle._process.pid
    (task,) = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()
    os.kill(int(task), LocalJobEnvironment._usr_sig())
    assert handle.result() == 0
    assert f"this job is {word}" in str(handle.stdout()) + str(handle.stderr())
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    of_original = [row["step"] for row in logged if row["stage"] == "original"]
    assert of_original[-1] == 30 and len(of_original) < 2 * 30, "the second start went on from the checkpoint"
    same(straight, tmp_path / "again")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # submitit leaves its log files open
def test_submitits_debug_executor_runs_the_same(recipes: list[Path], local: Path, tmp_path: Path) -> None:
    executor = choose("slurm", 1, ["cluster=debug", f"logs={tmp_path / 'logs'}"], WORDS)
    assert list(executor.map(recipes, folders(tmp_path))) == [2, 0]
    same(local, tmp_path)


def test_a_job_is_a_value_with_whole_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (job,) = jobs_of([Path("r.yaml")], [Path("out")], ["--stages", "s"], 3)
    assert job == Job(str(tmp_path / "r.yaml"), str(tmp_path / "out"), str(tmp_path), ("--stages", "s"), 3)


def test_options_reach_the_executor_they_are_for() -> None:
    assert choose("local", 3, (), ["--no-report"]) == Local(3, ("--no-report",))
    ray = choose("ray", 4, ["num_gpus=0.5", "num_cpus=2", "address=auto"])
    assert ray == Ray(address="auto", num_cpus=2, num_gpus=0.5, jobs=4)
    slurm = choose("slurm", 2, ["slurm_partition=gpu", "gpus_per_node=1", "cluster=debug"])
    assert slurm == Slurm(cluster="debug", parameters={"slurm_partition": "gpu", "gpus_per_node": 1}, jobs=2)


@pytest.mark.parametrize(
    ("name", "sets", "message"),
    [
        ("rya", [], r"--executor rya: no such executor \(did you mean 'ray'\?\)"),
        ("local", ["num_cpus=1"], "--executor-set num_cpus: the local executor has no options but --jobs"),
        ("ray", ["num_cpu=1"], r"--executor-set.num_cpu: Ray has no such key \(did you mean 'num_cpus'\?\)"),
        ("ray", ["num_cpus=none"], "--executor-set.num_cpus: "),
        ("ray", ["num_cpus"], "--executor-set num_cpus: expected KEY=VALUE"),
        ("ray", ["words=[a]"], "--executor-set words=.a.: expected KEY=VALUE"),
        ("ray", ["address=[1"], "is not a YAML value"),
        ("slurm", ["cluster=cloud"], "--executor-set.cluster: "),
    ],
)
def test_a_mistake_in_options_is_named(name: str, sets: Sequence[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose(name, 1, sets)


@pytest.mark.parametrize(("name", "module"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_library_is_one_sentence(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """None in sys.modules is how Python itself marks a module that cannot be imported."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r'is not installed: pip install "amends\[cluster\]"'):
        list(choose(name, 1).map([tmp_path / "r.yaml"], [tmp_path / "out"]))


def test_slurm_is_not_replaced_by_something_else_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"--executor slurm: .*srun.*cluster=local tries it here"):
        list(choose("slurm", 1).map([tmp_path / "r.yaml"], [tmp_path / "run" / "out"]))


def test_what_submitit_does_not_take_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--executor-set: .*memory_gb"):
        list(choose("slurm", 1, ["cluster=local", "memory_gb=3"]).map([tmp_path / "r.yaml"], [tmp_path / "out"]))
