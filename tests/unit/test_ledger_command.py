"""`amends ledger` from end to end on a tiny model: requests in order, tests of the earlier ones, kills, mistakes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from amends.cli.app import main
from amends.core.context import Memory
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.engine.optim import AdamW
from amends.metrics.evaluation import Evaluation
from amends.metrics.probability import Probability
from amends.runs.ledger import locked
from amends.subjects.load import HF
from amends.subjects.tiny import TinyLM
from amends.train.plain import Train

TOWNS = ("Lisbon", "Quito", "Kyoto", "Oslo", "Accra", "Lima", "Bergen", "Hanoi", "Porto", "Turin", "Sofia", "Cork")
QUICK = ["--no-attack", "--budget", 1, "--until", 0, "--lr", 1e-3, "--set", "reading.max_new_tokens=4"]
RELEARN = "attack=[{use: relearn, steps: 2, optim: {use: adamw, lr: 1.0e-3}}]"
GIVE_UP = 300.0
"""Seconds after which a process that should have come far has failed."""


class Said(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


def rows(start: int, stop: int) -> list[dict[str, str]]:
    """Rows that ask something."""
    return [{"question": f"Where does person {i} live?", "answer": f"In {TOWNS[i * 7 % 12]}."} for i in range(start, stop)]


def samples(role: str, found: list[dict[str, str]]) -> tuple[Sample, ...]:
    """The same rows as the library holds them."""
    return tuple(Sample(f"{role}-{i}", row) for i, row in enumerate(found))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama that knows its rows, in a folder."""
    data = Bundle({"forget": samples("forget", rows(0, 10)), "retain": samples("retain", rows(10, 28))})
    made = TinyLM(width=32, depth=2, heads=2, vocab=320, context=64).load(data, 0)
    Train(on=("forget", "retain"), steps=80, batch=28, optim=AdamW(lr=1e-2))(made, data, Memory())
    folder = tmp_path_factory.mktemp("model") / "tiny"
    made.save(folder)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Rows to forget (a, b overlaps it, c), to keep, and close by."""
    folder = tmp_path_factory.mktemp("rows")
    parts = {
        "a": rows(0, 4),
        "b": rows(3, 7),
        "c": rows(7, 10),
        "retain": rows(10, 24),
        "near": rows(24, 28),
        "new": rows(12, 14),
    }
    for name, found in parts.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, found)))
    (folder / "empty.jsonl").write_text("\n")
    return {name: folder / f"{name}.jsonl" for name in (*parts, "empty")}


Files = dict[str, Path]


def call(*words: object) -> Said:
    """Runs `amends ledger` in this process, through the console script's own function."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["amends", "ledger", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            main()
    return Said(int(caught.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture
def ledger() -> Callable[..., Said]:
    """Runs a command of the group."""
    return call


Command = Callable[..., Said]


def error_of(said: Said) -> str:
    """The one line that a mistake may leave."""
    assert said.code == 2, said.err
    lines = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and said.err.splitlines()[-1] == lines[0], said.err
    return lines[0]


def book(folder: Path) -> Any:
    """The ledger as it lies on the disk."""
    return json.loads((folder / "ledger.json").read_text())


def digest(folder: Path) -> str:
    """The sha256 of a model's weights."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def init(ledger: Command, folder: Path, model: Path, files: Files) -> Path:
    """A ledger with rows to keep and neighbours."""
    said = ledger("init", folder, "--model", model, "--retain", files["retain"], "--neighbour", files["near"])
    assert said.code == 0, said.err
    return folder


@pytest.fixture(scope="module")
def story(model: Path, files: Files, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Said]]:
    """Three requests, the third holding the earlier ones, then a test with an attack."""
    folder = tmp_path_factory.mktemp("story") / "ledger"
    words: list[list[object]] = [
        ["init", folder, "--model", model, "--retain", files["retain"], "--neighbour", files["near"]],
        ["forget", folder, "--forget", files["a"], "--name", "Alice", "--steps", 4, *QUICK],
        ["forget", folder, "--forget", files["b"], "--name", "Bob <b>", "--steps", 4, *QUICK],
        ["forget", folder, "--forget", files["c"], "--hold", "--steps", 3, *QUICK],
        ["test", folder, "--attack", "--set", RELEARN, "--set", "reading.max_new_tokens=4"],
    ]
    said = [call(*line) for line in words]
    assert [s.code for s in said] == [0] * 5, "".join(s.err for s in said)
    return folder, said


def results(run: Path) -> dict[tuple[str, str], float]:
    """Measurements before attacks, by stage and name."""
    found = json.loads((run / "results.json").read_text())["measurements"]
    return {(m["subject"], m["name"]): m["value"] for m in found if m["attack"] is None}


def test_each_request_starts_from_the_model_before_it(story: tuple[Path, list[Said]], model: Path) -> None:
    folder, said = story
    assert "  1 of the 4 rows were forgotten in r001 already" in said[2].err
    requests = book(folder)["requests"]
    assert [(r["id"], r["start"], r["hold"]) for r in requests] == [
        ("r001", "base", False), ("r002", "r001", False), ("r003", "r002", True),
    ]  # fmt: skip
    starts = [model, *(folder / "requests" / r for r in ("r001", "r002"))]
    for request, start in zip(requests, starts, strict=True):
        out = folder / "requests" / request["id"]
        assert yaml.safe_load((out / "run" / "recipe.yaml").read_text())["subject"]["name"] == str(start)
        assert digest(out) != digest(start)
        assert "<html" in (out / "report.html").read_text(encoding="utf-8")
        assert request["settings"]["set"] == ["reading.max_new_tokens=4"]
        stages = json.loads((out / "run" / "manifest.json").read_text())["stages"]
        assert [s["kind"] for s in stages] == ["original", "unlearned"]
    assert requests[2]["weights"] != requests[1]["weights"]


def test_what_a_request_left_is_what_the_next_one_finds(story: tuple[Path, list[Said]]) -> None:
    """The numbers of one model, read in two runs from two folders, are the same numbers."""
    folder, _ = story
    runs = [results(folder / "requests" / f"r00{i}" / "run") for i in (1, 2, 3)]
    assert runs[0]["npo", "probability.forget"] == pytest.approx(runs[1]["original", "probability.forget_r001"], rel=1e-5)
    for metric in ("probability", "extraction_strength"):
        for role in ("forget_r001", "retain_aside", "neighbour"):
            if f"{metric}.{role}" in (name for _, name in runs[2]):
                one, other = runs[1]["npo", f"{metric}.{role}"], runs[2]["original", f"{metric}.{role}"]
                assert one == pytest.approx(other, rel=1e-5)
    assert ("npo", "probability.forget_r002") in runs[2] and ("npo", "probability.forget_r003") not in runs[2]


def test_the_triangle_holds_the_runs_own_numbers(story: tuple[Path, list[Said]], ledger: Command) -> None:
    folder, said = story
    shown = ledger("show", folder, "--json")
    drift = json.loads(shown.out)["drift"]
    assert drift["columns"] == ["base", "r001", "r002", "r003", "test"]
    runs = [results(folder / "requests" / f"r00{i}" / "run") for i in (1, 2, 3)]
    first, second, third = drift["requests"]["probability"]
    assert [c and c["value"] for c in first["cells"]][:4] == [
        runs[0]["original", "probability.forget"], runs[0]["npo", "probability.forget"],
        runs[1]["npo", "probability.forget_r001"], runs[2]["npo", "probability.forget_r001"],
    ]  # fmt: skip
    assert [c and c["value"] for c in second["cells"]][:3] == [
        None, runs[1]["original", "probability.forget"], runs[1]["npo", "probability.forget"],
    ]  # fmt: skip
    assert third["cells"][:2] == [None, None] and third["own"] == 3
    for line in (first, second, third):
        assert line["cells"][4]["value"] == pytest.approx(line["cells"][3]["value"], rel=1e-4), "the same model, tested again"
    assert {k["label"] for k in drift["kept"]} == {"retain_aside", "neighbour"}
    plain = ledger("show", folder).out
    assert plain.splitlines()[0].startswith("base ") and "r001 Alice" in plain and "r002 Bob <b>" in plain
    assert plain.strip() in said[4].out


def test_the_newest_model_is_what_the_book_says(story: tuple[Path, list[Said]]) -> None:
    folder, said = story
    out = folder / "requests" / "r003"
    assert f"model:   {out}  (AutoModelForCausalLM.from_pretrained)" in said[3].out
    data = Bundle({"forget": samples("f", rows(7, 10))})
    subject = HF(name=str(out)).load(data, 0)
    now = Probability().measure(Evaluation(subject, data)).value
    assert now == pytest.approx(book(folder)["requests"][2]["after"]["probability.forget"]["value"], rel=1e-4)


def test_a_test_with_attacks_compares_with_the_base(story: tuple[Path, list[Said]]) -> None:
    folder, _ = story
    (test,) = book(folder)["tests"]
    found = results(folder / test["run"])
    base = results(folder / "requests" / "r001" / "run")
    assert found["original", "probability.forget_r001"] == pytest.approx(base["original", "probability.forget"], rel=1e-5)
    assert found["newest", "probability.forget_r003"] == test["measured"]["probability.forget_r003"]["value"]
    tried = {r["metric"] for r in test["recovered"]}
    assert {f"probability.forget_r00{i}" for i in (1, 2, 3)} <= tried
    assert "relearn" in (folder / "report.html").read_text()


def test_the_same_test_again_is_the_same_entry(story: tuple[Path, list[Said]], ledger: Command) -> None:
    folder, _ = story
    before = book(folder)["tests"][0]
    said = ledger("test", folder, "--attack", "--set", RELEARN, "--set", "reading.max_new_tokens=4")
    assert said.code == 0, said.err
    assert "made before, taken as it is" in said.err
    (after,) = book(folder)["tests"]
    assert {**after, "ended": None} == {**before, "ended": None}


def test_a_ledger_does_not_need_the_files_it_was_given(ledger: Command, model: Path, files: Files, tmp_path: Path) -> None:
    mine = {name: tmp_path / file.name for name, file in files.items()}
    for name, file in files.items():
        mine[name].write_bytes(file.read_bytes())
    folder = init(ledger, tmp_path / "ledger", model, mine)
    assert ledger("forget", folder, "--forget", mine["a"], "--steps", 1, *QUICK).code == 0
    for file in mine.values():
        file.unlink()
    folder = folder.rename(tmp_path / "moved")
    assert ledger("forget", folder, "--forget", files["c"], "--steps", 1, *QUICK).code == 0
    assert ledger("test", folder, "--set", "reading.max_new_tokens=4").code == 0
    assert ledger("report", folder).out.strip() == str(folder / "report.html")
    assert str(tmp_path / "ledger") not in (folder / "requests" / "r002" / "run" / "recipe.yaml").read_text()


def test_what_came_back_is_forgotten_once_more_and_a_bad_request_is_taken_back(
    ledger: Command, model: Path, files: Files, tmp_path: Path
) -> None:
    folder = init(ledger, tmp_path / "ledger", model, files)
    assert ledger("forget", folder, "--forget", files["a"], "--steps", 1, *QUICK).code == 0
    again = ledger("forget", folder, "--again", "r001", "--name", "once more", "--steps", 2, *QUICK)
    assert again.code == 0, again.err
    assert "r002, starting from r001" in again.err
    shown = json.loads(ledger("show", folder, "--json").out)
    (line,) = shown["drift"]["requests"]["probability"]
    assert line["label"] == "r001" and [c is not None for c in line["cells"]] == [True] * 3
    said = ledger("undo", folder, "r002")
    assert said.out.startswith("r002 is withdrawn; the newest model is that of r001: ")
    assert json.loads(ledger("show", folder, "--json").out)["drift"]["columns"] == ["base", "r001"]
    assert "withdrawn" in (lambda: (ledger("report", folder), (folder / "report.html").read_text())[1])()


# ---------------------------------------------------------------------- killed, and run again


@contextlib.contextmanager
def started(words: list[object], log: Path, step: int) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a process of its own, once its stage has come to a step."""
    command = [sys.executable, "-m", "amends", "ledger", *map(str, words)]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE) as process:
        try:
            began = time.monotonic()
            while not log.is_file() or sum('"step"' in line for line in log.read_text().splitlines()) < step:
                assert process.poll() is None, (process.stderr.read().decode() if process.stderr else "")[-2000:]
                assert time.monotonic() - began < GIVE_UP
                time.sleep(0.01)
            yield process
        finally:
            process.kill()


def test_a_killed_request_goes_on_and_ends_where_an_undisturbed_one_ends(
    ledger: Command, model: Path, files: Files, tmp_path: Path
) -> None:
    long = ["--steps", 60, *QUICK, "--set", "stages.npo.checkpoint_every=2"]
    whole, broken = (init(ledger, tmp_path / name, model, files) for name in ("whole", "broken"))
    for folder in (whole, broken):
        assert ledger("forget", folder, "--forget", files["a"], "--steps", 1, *QUICK).code == 0
    assert ledger("forget", whole, "--forget", files["c"], *long).code == 0
    run = broken / "requests" / "r002" / "run"
    words = ["forget", broken, "--forget", files["c"], *long]
    with started(words, run / "metrics.jsonl", 8) as process:
        assert "in use by another command" in error_of(ledger("forget", broken, "--forget", files["c"], *long))
        assert "in use by another command" in error_of(ledger("undo", broken, "r002"))
        process.kill()
    assert [r["status"] for r in book(broken)["requests"]] == ["done", "begun"]
    assert "begun and has not ended" in ledger("show", broken).out
    assert "r002 was begun and has not ended" in error_of(ledger("forget", broken, "--forget", files["b"], *long))
    reading = run / "stages" / "01-original" / "reading.json.gz"
    before = reading.stat().st_mtime_ns
    said = ledger(*words)
    assert said.code == 0, said.err
    assert reading.stat().st_mtime_ns == before, "what was computed is not computed again"
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines() if '"step"' in line]
    assert steps.count(1) == 1, "it went on from a checkpoint"
    assert [r["status"] for r in book(broken)["requests"]] == ["done", "done"]
    assert digest(broken / "requests" / "r002") == digest(whole / "requests" / "r002")
    mine, theirs = (book(f)["requests"][1]["after"] for f in (broken, whole))
    assert mine == theirs


# ---------------------------------------------------------------------- mistakes


def test_mistakes_are_one_sentence_and_change_nothing(ledger: Command, model: Path, files: Files, tmp_path: Path) -> None:
    folder = init(ledger, tmp_path / "ledger", model, files)
    assert ledger("forget", folder, "--forget", files["a"], "--steps", 1, *QUICK).code == 0
    before = {f: f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}
    forget = ["forget", folder, "--forget"]
    cases: list[tuple[list[object], str]] = [
        (["forget", folder], "give either --forget FILE or --again REQUEST"),
        ([*forget, files["b"], "--again", "r001"], "give either --forget FILE or --again REQUEST"),
        ([*forget, files["b"], "--steps", 1, "--epochs", 1], "give --epochs or --steps, not both"),
        ([*forget, files["empty"]], "empty.jsonl: holds no rows"),
        ([*forget, tmp_path / "no.jsonl"], "no.jsonl: no such file"),
        ([*forget, files["a"]], "r001 forgot exactly these rows"),
        ([*forget, files["new"]], "2 row(s) stand in both the forget rows of r002 and the retain set"),
        ([*forget, files["b"], "--retain", files["a"]], "stand in both the forget rows of r001 and the retain set"),
        ([*forget, files["b"], "-m", "npoo"], "npoo: no such method (did you mean"),
        ([*forget, files["b"], "--set", "stages.npo.stepz=1"], "stages.npo.stepz: Gradient has no such key"),
        ([*forget, files["b"], "--set", "stages.npo.objective.1.role=forget_r001"], "stands on 'forget_r001'"),
        (["forget", folder, "--again", "r003"], "no request is called 'r003' (did you mean 'r001'?)"),
        (["undo", folder, "x"], "no request is called 'x'"),
        (["init", folder, "--model", model], "holds a ledger already"),
        (["show", tmp_path / "none"], "none: holds no ledger: start one with `amends ledger init"),
        (["forget", tmp_path / "none", "--forget", files["a"]], "none: holds no ledger"),
        (["test", tmp_path / "none"], "none: holds no ledger"),
        (["report", tmp_path / "none"], "none: holds no ledger"),
    ]
    for words, message in cases:
        assert message in error_of(ledger(*words)), words
    assert {f: f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()} == before
    assert not (tmp_path / "none").exists()


def test_a_model_or_book_that_is_not_what_it_was_stops_the_work(
    ledger: Command, model: Path, files: Files, tmp_path: Path
) -> None:
    assert "no such folder or file" in error_of(ledger("init", tmp_path / "x", "--model", tmp_path / "no" / "model"))
    assert "holds no config.json" in error_of(ledger("init", tmp_path / "x", "--model", tmp_path))
    folder = init(ledger, tmp_path / "ledger", model, files)
    assert "no request has been met yet" in error_of(ledger("test", folder))
    assert ledger("forget", folder, "--forget", files["a"], "--steps", 1, *QUICK).code == 0
    weights = folder / "requests" / "r001" / "model.safetensors"
    kept = weights.read_bytes()
    weights.unlink()  # a link to the run's own file, which must not be touched
    weights.write_bytes(kept[:-4] + b"\0\0\0\1")
    for words in (["forget", folder, "--forget", files["c"]], ["test", folder]):
        assert "the model of r001 is not what it was" in error_of(ledger(*words))
    weights.unlink()
    assert "the model of r001 is gone" in error_of(ledger("forget", folder, "--forget", files["c"]))
    (folder / "requests").rename(folder / "elsewhere")
    for words in (["forget", folder, "--forget", files["c"]], ["test", folder]):
        said = error_of(ledger(*words))
        assert "the model of r001 is gone (" in said and f"`amends ledger undo {folder} r001`" in said
    (folder / "elsewhere").rename(folder / "requests")
    weights.write_bytes(kept)
    with locked(folder):
        assert "in use by another command" in error_of(ledger("test", folder))
    (folder / "ledger.json").write_text(json.dumps({**book(folder), "requests": 3}))
    for words in (["show", folder], ["report", folder], ["test", folder], ["forget", folder, "--forget", files["c"]]):
        assert "this ledger cannot be used (ledger.requests" in error_of(ledger(*words))


@pytest.mark.parametrize("command", ["", "init", "forget", "test", "show", "report", "undo"])
def test_every_command_of_the_group_explains_itself(ledger: Command, command: str) -> None:
    said = ledger(*([command] if command else []), "--help")
    assert said.code == 0 and "Usage: " in said.out
