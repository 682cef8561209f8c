"""What the style guide promises, held against every file of the package."""

from __future__ import annotations

import ast
import dataclasses
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import amends
from amends.core import catalog
from amends.core.protocols import Need
from amends.core.spec import build_use
from amends.runs.methods import KINDS, packaged_methods

PACKAGE = Path(str(amends.__file__)).parent
ROOT = PACKAGE.parents[1]
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {file.relative_to(PACKAGE).as_posix(): ast.parse(file.read_text(encoding="utf-8")) for file in FILES}
LONGEST_FILE = 450

EVERYWHERE: tuple[str, ...] = ()
BANNED = {
    "accelerate": ("engine/parallel.py", "runs/track.py"),
    "torch.distributed": ("engine/parallel.py",),
    "datasets": ("data/hub.py",),
    "torch.load": EVERYWHERE, "torch.save": EVERYWHERE, "pickle": EVERYWHERE, "joblib": EVERYWHERE, "dill": EVERYWHERE,
    "marshal": EVERYWHERE, "shelve": EVERYWHERE, "yaml.load": EVERYWHERE, "yaml.unsafe_load": EVERYWHERE,
    "torch.seed": EVERYWHERE, "torch.cuda.manual_seed": EVERYWHERE, "torch.cuda.manual_seed_all": EVERYWHERE,
    "random.seed": EVERYWHERE, "numpy.random.seed": EVERYWHERE, "transformers.set_seed": EVERYWHERE,
    "accelerate.utils.set_seed": EVERYWHERE, "os.system": EVERYWHERE, "eval": EVERYWHERE, "exec": EVERYWHERE,
}  # fmt: skip
"""What may be named nowhere, or only in some files."""


def names_in(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every imported or dotted name with its line, aliases of imports resolved."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for a in node.names:
                aliases[a.asname or a.name.split(".")[0]] = a.name if a.asname else a.name.split(".")[0]
                yield a.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for a in node.names:
                aliases[a.asname or a.name] = f"{node.module}.{a.name}"
                yield f"{node.module}.{a.name}", node.lineno
    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Name)):
            first, *rest = ast.unparse(node).split(".")
            yield ".".join([aliases.get(first, first), *rest]), node.lineno


def offences(tree: ast.AST, banned: str) -> list[int]:
    """The lines that name something banned, or something in it."""
    return [line for name, line in names_in(tree) if name == banned or name.startswith(f"{banned}.")]


def test_the_scan_sees_what_it_looks_for() -> None:
    tree = ast.parse(
        "import numpy as np\nfrom torch import load as l\nnp.random.seed(0)\nl('x')\nimport torch.distributed.fsdp"
    )
    assert offences(tree, "numpy.random.seed") == [3]
    assert offences(tree, "torch.load") == [2, 4]
    assert offences(tree, "torch.distributed") == [5]
    assert offences(tree, "pickle") == []
    assert len(FILES) > 90


@pytest.mark.parametrize("banned", BANNED)
def test_banned_names_stand_nowhere_but_where_they_may(banned: str) -> None:
    found = {file: lines for file, tree in TREES.items() if file not in BANNED[banned] and (lines := offences(tree, banned))}
    assert not found


def test_torchs_own_stream_is_set_only_where_it_is_put_back() -> None:
    """`torch.manual_seed` is global; dropout and initialisation draw from it, so it is forked around each use."""
    found = {file for file, tree in TREES.items() if offences(tree, "torch.manual_seed")}
    drawing = {"image_classifier", "text_classifier", "fresh", "lora", "tiny"}
    assert found == {"engine/fit.py", "unlearn/logit_difference.py", *(f"subjects/{name}.py" for name in drawing)}
    for file in found:
        for node in ast.walk(TREES[file]):
            if isinstance(node, ast.FunctionDef) and offences(node, "torch.manual_seed"):
                assert "torch.random.fork_rng" in ast.unparse(node), f"{file}: {node.name}"


def test_layers_import_downwards_only() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "Contracts: 1 kept, 0 broken" in done.stdout


@pytest.mark.parametrize("module", ["amends", "amends.cli.app", "amends.core.catalog", "amends.report.build"])
def test_light_modules_import_no_heavy_library(module: str) -> None:
    heavy = ("torch", "transformers", "accelerate", "peft", "scipy", "sklearn")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_has_a_docstring() -> None:
    missing = []
    for file, tree in TREES.items():
        if not ast.get_docstring(tree):
            missing.append(file)
        missing += [f"{file}: {name}" for name, node in public(tree) if not ast.get_docstring(node)]
    assert not missing


def public(tree: ast.Module) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef]]:
    """Public functions and classes of a module, and the public methods of its public classes; a protocol's one-line
    members are told by its own docstring."""
    for node in tree.body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or node.name.startswith("_"):
            continue
        yield node.name, node
        if isinstance(node, ast.ClassDef) and "Protocol" not in ast.unparse(ast.Tuple(node.bases)):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner


def test_no_file_is_too_long() -> None:
    lengths = {file: (PACKAGE / file).read_text(encoding="utf-8").count("\n") for file in TREES}
    assert {file: n for file, n in lengths.items() if n > LONGEST_FILE} == {}


def test_nothing_is_left_undone() -> None:
    marks = ("TODO", "FIXME", "XXX", "NotImplementedError", "pragma: no cover")
    found = {f"{f.relative_to(PACKAGE)}: {m}" for f in FILES for m in marks if m in f.read_text(encoding="utf-8")}
    assert not found


def test_recipes_hold_no_python() -> None:
    assert not list((PACKAGE / "recipes").rglob("*.py"))


def test_every_packaged_method_builds_and_its_terms_exist() -> None:
    files = sorted((PACKAGE / "recipes" / "methods").glob("*.yaml"))
    methods = packaged_methods(None)
    assert len(methods) == len(files) >= 8
    assert {"npo", "simnpo", "graddiff", "ascent", "dpo", "idk"} <= set(methods)
    terms = {entry.name for entry in catalog.list_kind("terms")}
    for name, method in methods.items():
        built = [build_use("terms", term, f"{name}.{i}") for i, term in enumerate(method.objective)]
        assert {term["use"] for term in method.objective} <= terms
        assert not built or built[0].term.role == "forget" or "language" not in method.kinds
        assert method.kinds and set(method.kinds) <= set(KINDS)
        assert method.needs == sorted({str(need) for w in built for need in w.term.needs})
        assert set(method.needs) <= {str(need) for need in Need}
        stage = catalog.find("stages", method.stage["use"], name).load()
        takes = {field.name for field in dataclasses.fields(stage)}
        of_language = {"full", "lora"} if "lora" in takes else {"full"}
        several = {"classifier"} if len(method.kinds) > 1 else set()
        assert set(method.lr) == (of_language if "language" in method.kinds else {"full"}) | several
        assert 0 < method.lr["full"] < method.lr.get("lora", math.inf)
        assert method.epochs >= 1
        assert method.summary
        assert method.arxiv.replace(".", "").isdigit()
