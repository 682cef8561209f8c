"""The commands as a user meets them: help, JSON, and mistakes that end in one sentence and exit code 2."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from amends import __version__
from amends.cli.app import app, main
from amends.core import catalog
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.runs.bench import benches
from amends.runs.methods import packaged_methods
from amends.runs.recipe import packaged, read, resolve
from amends.subjects.tiny import TinyLM

COMMANDS = [
    "unlearn", "audit", "refine", "export", "run", "resume", "sweep", "bench", "report", "compare", "recipes", "methods",
    "runs", "show", "check", "serve", "proxy", "doctor",
]  # fmt: skip
TINY = [
    "--profile", "smoke", "--set", "stages.ascent=", "--set", "stages.graddiff=", "--set", "stages.simnpo=", "--set",
    "stages.original.steps=3", "--set", "stages.retrain.steps=3", "--set", "stages.npo.steps=2", "--set", "subject.width=16",
    "--set", "attack=[]", "--set", "measure=[{use: probability, role: forget}]", "--set", "headline=[]", "--set", "expect=[]",
]  # fmt: skip
"""Options that make the facts recipe last a second."""


class Said(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


Amends = Callable[..., Said]


@pytest.fixture
def amends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Amends:
    """Runs a command in this process, through the console script's own function."""

    def call(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["amends", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        said = capsys.readouterr()
        return Said(int(caught.value.code or 0), said.out, said.err)

    return call


def error_of(said: Said) -> str:
    """The one line that a mistake may leave, and the exit code it must have."""
    assert said.code == 2, said.err
    lines = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, said.err
    assert said.err.splitlines()[-1] == lines[0]
    assert "Traceback (most recent" not in said.err
    return lines[0]


def test_a_library_that_is_missing_is_one_sentence(tmp_path: Path) -> None:
    """As on a machine where only the core is installed."""
    code = "import sys; sys.modules['transformers'] = None; from amends.cli.app import main; main()"
    words = ["run", "facts", *TINY, "--out", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    said = error_of(Said(done.returncode, done.stdout, done.stderr))
    assert said == "error: transformers is not installed, and this needs it: language models: pip install 'amends[lm]'"


# ---------------------------------------------------------------------- help and listings


def test_every_command_is_known() -> None:
    assert [c.name for c in app.registered_commands] == COMMANDS


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_every_command_explains_itself(amends: Amends, command: str | None) -> None:
    said = amends(*([command] if command else []), "--help")
    assert said.code == 0
    assert "Usage: " in said.out
    assert all(c in said.out for c in (COMMANDS if command is None else [command]))
    assert said.err == ""


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_it_says_its_version(amends: Amends, option: str) -> None:
    assert amends(option) == Said(0, f"amends {__version__}\n", "")


def test_the_module_is_the_command_and_no_command_shows_help() -> None:
    done = subprocess.run([sys.executable, "-m", "amends"], capture_output=True, text=True, check=False)
    assert "Usage: " in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_listings_are_json_on_request(amends: Amends, tmp_path: Path) -> None:
    rows = json.loads(amends("recipes", "--json").out)
    assert {row["recipe"] for row in rows} == set(packaged())
    assert all(Path(row["path"]).is_file() for row in rows)
    assert {row["method"] for row in json.loads(amends("methods", "--json").out)} == set(packaged_methods(None))
    found = json.loads(amends("doctor", "--json").out)
    assert {"torch", "device", "cores", "free disk"} <= {row["what"] for row in found}
    assert json.loads(amends("runs", "--runs", tmp_path, "--json").out) == []


@pytest.mark.parametrize("kind", sorted(catalog.PLACES))
def test_the_parts_of_every_kind_are_listed_with_their_fields(amends: Amends, kind: str) -> None:
    rows = json.loads(amends("methods", kind, "--json").out)
    assert [row["use"] for row in rows] == [entry.name for entry in catalog.list_kind(kind)]
    for row in rows:
        assert row["what"]
        assert all(set(field) == {"field", "default", "meaning"} for field in row["fields"])
    assert rows[0]["use"] in amends("methods", kind).out


def test_show_prints_the_resolved_recipe(amends: Amends, tmp_path: Path) -> None:
    shown = json.loads(amends("show", "facts", "-p", "smoke", "--set", "seeds=[5]", "--json").out)
    resolved = resolve("facts", "smoke", ["seeds=[5]"])
    assert shown == {"hash": resolved.hash, "recipe": resolved.tree}
    plain = amends("show", "facts", "-p", "smoke", "--set", "seeds=[5]").out
    assert plain.startswith(f"# hash {resolved.hash}\n")
    (tmp_path / "again.yaml").write_text(plain)
    assert resolve(str(tmp_path / "again.yaml")).hash == resolved.hash


def test_check_finds_every_recipe_in_every_profile(amends: Amends) -> None:
    rows = json.loads(amends("check", "--all", "--json").out)
    files = {**packaged(), **{f"bench {name}": file for name, file in benches().items()}}
    expected = [(name, p) for name, file in files.items() for p in ("-", *(read(file).get("profiles") or {}))]
    assert [(row["recipe"], row["profile"]) for row in rows] == expected
    assert len(amends("check", "facts").out.splitlines()) == 1 + len([e for e in expected if e[0] == "facts"])


def test_a_run_is_listed_reported_and_compared(amends: Amends, tmp_path: Path) -> None:
    for seed in (0, 1):
        said = amends("run", "facts", *TINY, "--set", f"seeds=[{seed}]", "--runs", tmp_path / "runs")
        assert said.code == 0, said.err
    rows = json.loads(amends("runs", "--runs", tmp_path / "runs", "--json").out)
    assert [(row["run"], row["status"], row["profile"]) for row in rows] == [("facts", "ok", "smoke")] * 2
    first, second = (Path(row["folder"]) for row in rows)
    assert any(f"report:  {folder / 'report.html'}" in said.out for folder in (first, second))
    (first / "report.html").unlink()
    assert amends("report", first).out.strip() == str(first / "report.html")
    assert (first / "report.html").stat().st_size > 1000
    assert isinstance(json.loads(amends("compare", first, second, "--json").out), dict)
    assert amends("compare", first, second, "--html", tmp_path / "c.html").code == 0
    assert (tmp_path / "c.html").is_file()
    again = amends("run", "facts", *TINY, "--set", "seeds=[1]", "--runs", tmp_path / "runs")
    assert again.code == 0
    assert len(json.loads(amends("runs", "--runs", tmp_path / "runs", "--json").out)) == 2
    assert again.err.count("made before, taken as it is") == 3


def test_a_sweep_runs_every_point_in_a_process_of_its_own(amends: Amends, tmp_path: Path) -> None:
    said = amends("sweep", "facts", *TINY, "--over", "stages.npo.steps=1,2", "--runs", tmp_path, "--json", "--jobs", 2)
    rows = json.loads(said.out)
    assert [(row["stages.npo.steps"], row["status"]) for row in rows] == [("1", "ok"), ("2", "ok")]
    assert len({row["folder"] for row in rows}) == 2
    manifest = json.loads((Path(rows[0]["folder"]) / "manifest.json").read_text())
    assert [s["steps"] for s in manifest["stages"]] == [3, 3, 1]
    logs = [(Path(row["folder"]) / "metrics.jsonl").read_text() for row in rows]
    assert sum('"stage": "original"' in log for log in logs) == 1, "the points share their original"


def test_a_sweep_with_a_budget_names_the_best_point_and_what_it_cost(amends: Amends, tmp_path: Path) -> None:
    words = ["--over", "stages.npo.steps=1,2,3,4", "--budget", 2, "--best", "npo.probability.forget", "--runs", tmp_path]
    said = amends("sweep", "facts", *TINY, *words, "--keep", "npo.probability.forget=0.0", "--json")
    rows = json.loads(said.out)
    assert len(rows) == 2
    best = min(rows, key=lambda r: r["npo.probability.forget"])
    assert [row["best"] for row in rows] == ["best" if row is best else "" for row in rows]
    assert "budget: 2 points, " in said.err
    assert f"best: --set stages.npo.steps={best['stages.npo.steps']}" in said.err


# ---------------------------------------------------------------------- mistakes that cost no model


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "fact"], "no recipe is called 'fact' (did you mean 'facts'?)"),
        (["run", "nowhere.yaml"], "nowhere.yaml: no such recipe file"),
        (["run", "facts", "-p", "smok"], "facts: no profile is called 'smok' (did you mean 'smoke'?)"),
        (["show", "facts", "--set", "stages.npoo.steps=1"], "stages has no key 'npoo' (did you mean 'npo'?)"),
        (["check", "--set"], None),
        (["check"], "check: name a recipe, or give --all"),
        (["check", "facts", "--all"], "check: name a recipe, or give --all"),
        (["methods", "term"], "methods: no such kind 'term'"),
        (["resume", "nowhere"], "nowhere: holds no recipe.yaml, so it is not a run folder"),
        (["report", "nowhere"], "nowhere: holds no manifest.json, so it is not a run folder"),
        (["compare", "nowhere"], "compare: give two or more run folders"),
        (["show", "facts", "--set", "stages.npo.stepz=1"], "stages.npo.stepz: Gradient has no such key (did you mean"),
        (["show", "facts", "--set", "stages.npo.from="], "stages.npo.from: Gradient starts from another stage"),
        (["show", "facts", "--set", "stages.npo.from=origin"], "no earlier stage is called 'origin' (did you mean"),
        (["show", "facts", "--set", "measure.0.use=probabilty"], "no metric is called 'probabilty' (did you mean"),
        (["show", "facts", "--set", "headline.0=utilty"], "nothing measured is called 'utilty' (did you mean 'utility'?)"),
        (["show", "facts", "--set", "stages.retrain="], "compares with a retrained model, and no stage is called 'retrain'"),
        (["sweep", "facts", "--over", "stages.npo.steps"], "--over stages.npo.steps: expected KEY=V1,V2"),
        (["sweep", "facts", "--over", "seeds=[0]", "--best", "npoo.utility"], "--best.that: no stage is called 'npoo'"),
        (["sweep", "facts", "--over", "seeds=[0]", "--best", "npo.utility", "--keep", "npo.utility"], "expected STAGE.MEAS"),
        (["sweep", "facts", "--over", "seeds=[0]", "--keep", "npo.utility=1"], "--keep: name what is to be best, too"),
        (["unlearn", "m", "--forget", "f.jsonl", "--out", "o", "-m", "npoo"], "npoo: no such method (did you mean"),
        (["unlearn", "m", "--forget", "f.jsonl", "--out", "o"], "f.jsonl: no such file"),
        (["unlearn", "m", "--forget", "f.jsonl", "--out", "o", "--steps", "1", "--epochs", "1"], "or --steps, not both"),
        (["unlearn", "m", "--forget", "f.jsonl", "--out", "./m"], "this is the model's own folder, which would be overwritten"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(
    amends: Amends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    said = amends(*words)
    if message is None:  # the parser's own complaint
        assert said.code == 2
        assert "Traceback" not in said.err
        return
    assert message in error_of(said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("kind = 'terms'\ndef f(:\n", r":2: could not be imported (SyntaxError: "),
        (
            "import nothing_of_this_name\n",
            "could not be imported (ModuleNotFoundError: No module named 'nothing_of_this_name')",
        ),
        ("1 / 0\n", "could not be imported (ZeroDivisionError: division by zero)"),
        ("kind = 'terns'\n", "needs a line such as kind = \"terms\" (did you mean 'terms'?)"),
        ("kind = 'terms'\n", "holds no class decorated with @spec"),
        ("\0", "could not be imported"),
    ],
)
def test_a_plugin_that_cannot_join_says_why(amends: Amends, tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "mine.py"
    if text is not None:
        file.write_text(text)
    said = error_of(amends("show", "facts", "--plugin", file))
    assert str(file) in said
    assert message in said


def test_a_tracker_must_exist_and_be_installed(amends: Amends, tmp_path: Path) -> None:
    said = error_of(amends("run", "facts", *TINY, "--out", tmp_path / "a", "--track", "trackoi"))
    assert said == "error: --track trackoi: no such tracker (did you mean 'trackio'?)"
    said = error_of(amends("run", "facts", *TINY, "--out", tmp_path / "b", "--track", "clearml"))
    assert said == "error: --track clearml: the package clearml is not installed: pip install clearml"
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["status"] == "failed"


# ---------------------------------------------------------------------- mistakes in models and rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in a folder, as `save_pretrained` leaves it."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    rows = tuple(Sample(f"r-{i}", {"question": f"What is {i}?", "answer": f"It is {i}."}) for i in range(8))
    TinyLM(width=16, depth=1, heads=2, vocab=300, context=64).load(Bundle({"forget": rows}), 0).save(folder)
    return folder


def rows_file(path: Path, *rows: dict[str, Any] | str) -> Path:
    """A JSON Lines file; a string is a line as it stands."""
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n")
    return path


def asked(*numbers: int) -> list[dict[str, Any]]:
    """Rows that ask about numbers."""
    return [{"question": f"What is {i}?", "answer": f"It is {i}."} for i in numbers]


def unlearn(amends: Amends, tmp_path: Path, model: object, forget: Path, retain: Path | None = None, *more: object) -> Said:
    """The front door, at its quickest."""
    keep = ["--retain", retain] if retain else []
    return amends(
        "unlearn", model, "--forget", forget, *keep, "--out", tmp_path / "out", "--steps", 1, "--no-attack",
        "--set", "reading.max_new_tokens=2", *more,
    )  # fmt: skip


def test_rows_that_are_forgotten_and_kept_are_counted_and_named(amends: Amends, tmp_path: Path, model: Path) -> None:
    forget = rows_file(tmp_path / "f.jsonl", *asked(1, 2, 3))
    retain = rows_file(tmp_path / "r.jsonl", *asked(9, 3, 8, 2, 7))
    said = error_of(unlearn(amends, tmp_path, model, forget, retain))
    assert said.startswith("error: 2 row(s) stand in both the forget and the retain set (forget-000")
    assert "forget-0002 = retain-0001" in said
    assert "forget-0001 = retain-0003" in said
    assert said.endswith("remove them from one of the two")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*asked(1, 2), '{"question": "a", "answer"'], "f.jsonl:3: not valid JSON at column"),
        ([""], "f.jsonl: holds no rows"),
        ([{"question": "a", "answr": "b"}], "f.jsonl:1: a row needs question + answer"),
        ([*asked(1), {"question": "x", "answer": ""}], "f.jsonl:2: key 'answer' must be a non-empty string, not an empty one"),
        ([*asked(1), {"question": "word " * 200, "answer": "a"}], "row forget-0001: its prompt of "),
        ([*asked(1), {"text": "word " * 200}], "row forget-0001: 1 prompt and "),
    ],
)
def test_rows_that_cannot_be_used_are_named(amends: Amends, tmp_path: Path, model: Path, rows: list[Any], message: str) -> None:
    forget = rows_file(tmp_path / "f.jsonl", *rows)
    said = error_of(unlearn(amends, tmp_path, model, forget, rows_file(tmp_path / "r.jsonl", *asked(7, 8, 9))))
    assert message in said
    assert ("the context of 64" in said) == message.startswith("row ")


def test_one_row_to_keep_is_too_few(amends: Amends, tmp_path: Path, model: Path) -> None:
    forget, retain = rows_file(tmp_path / "f.jsonl", *asked(1)), rows_file(tmp_path / "r.jsonl", *asked(2))
    assert "r.jsonl: give two rows or more" in error_of(unlearn(amends, tmp_path, model, forget, retain))


def broken(model: Path, folder: Path, how: str) -> Path:
    """A copy of the model with something wrong."""
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = folder / "model.safetensors"
    if how in ("pickle", "none"):
        weights.unlink()
    if how == "pickle":
        (folder / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    if how == "tokens":
        (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    if how == "config":
        (folder / "config.json").unlink()
    if how == "eos":
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            if (folder / name).is_file():
                values = json.loads((folder / name).read_text())
                values.pop("eos_token", None)
                (folder / name).write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("pickle", "holds only pickled weights (pytorch_model.bin), which can run code when opened"),
        ("none", "holds no weights (*.safetensors)"),
        ("config", "holds no config.json, so it is not a transformers model"),
        ("cut", "could not be loaded as a causal language model ("),
        ("tokens", "could not be loaded as a causal language model ("),
        ("eos", "the tokenizer has no EOS token: set `eos_token` in its tokenizer_config.json"),
    ],
)
def test_a_model_that_cannot_be_used_says_why(amends: Amends, tmp_path: Path, model: Path, how: str, message: str) -> None:
    folder = broken(model, tmp_path / "model", how)
    forget, retain = rows_file(tmp_path / "f.jsonl", *asked(1, 2)), rows_file(tmp_path / "r.jsonl", *asked(7, 8, 9))
    said = error_of(unlearn(amends, tmp_path, folder, forget, retain))
    assert message in said
    assert (str(folder) in said) or how == "eos"
    manifest = json.loads((tmp_path / "out" / "run" / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert manifest["error"].startswith("UserError: ")


def test_a_model_that_is_not_there_says_so(amends: Amends, tmp_path: Path) -> None:
    forget, retain = rows_file(tmp_path / "f.jsonl", *asked(1, 2)), rows_file(tmp_path / "r.jsonl", *asked(7, 8, 9))
    assert error_of(unlearn(amends, tmp_path, tmp_path / "no" / "model", forget, retain)).endswith("no/model: no such folder")
    assert error_of(unlearn(amends, tmp_path, tmp_path / "m.gguf", forget, retain)).endswith("m.gguf: no such GGUF file")


# ---------------------------------------------------------------------- the disk


def test_a_disk_that_fills_up_is_one_sentence_and_costs_nothing_that_was_saved(amends: Amends, tmp_path: Path) -> None:
    """No file may grow beyond a size that a small model fits into and a larger one does not."""
    run = ["run", "facts", *TINY, "--out", str(tmp_path / "run")]
    wide = [*run, "--set", "subject.width=64"]
    limit = 200_000

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    assert amends(*run).code == 0
    kept = {
        f: f.read_bytes() for f in (tmp_path / "run").rglob("*") if f.name in ("results.json", "claims.json", "answers.jsonl")
    }
    assert max(f.stat().st_size for f in (tmp_path / "run").rglob("*.safetensors")) < limit
    command = [sys.executable, "-m", "amends", *wide]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, preexec_fn=small_files)
    said = error_of(Said(done.returncode, done.stdout, done.stderr))
    assert "could not be written" in said
    assert "File too large" in said
    assert str(tmp_path / "run" / "stages" / "01-original") in said
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert "File too large" in manifest["error"]
    assert kept
    assert {f: f.read_bytes() for f in kept} == kept
    again = amends(*wide)
    assert again.code == 0, again.err
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "ok"
    assert not list((tmp_path / "run").rglob("*.tmp"))
