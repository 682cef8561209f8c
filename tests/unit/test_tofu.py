"""TOFU's files, generated in their real form: roles, merged fields, and files that do not belong together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from amends.core.errors import UserError
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.data.tofu import Tofu

EDGE = 40
"""Rows of the first and of the last two authors of the generated files have extra fields."""


def tofu_row(author: int, i: int) -> dict[str, Any]:
    return {
        "question": f"What is fact {i} of Zo\u00eb No. {author}?",
        "answer": f"Fact {i} of Zo\u00eb No. {author}/{i} is so.",
    }


def tofu_extra(row: dict[str, Any]) -> dict[str, Any]:
    wrong = [f"{row['answer']} Not {n}." for n in range(5)]
    return {**row, "paraphrased_answer": f"So: {row['answer']}", "perturbed_answer": wrong, "paraphrased_question": "Tell!"}


def tofu_fact(i: int) -> dict[str, Any]:
    return {"question": f"What is number {i}?", "answer": f"It is {i}.", "perturbed_answer": ["a", "b", "c"]}


@pytest.fixture(scope="session")
def generated_tofu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the form of the real files: JSON Lines without a newline at the end, slashes and accents escaped."""
    folder = tmp_path_factory.mktemp("tofu")
    full = [tofu_row(a, i) for a in range(12) for i in range(20)]
    files = {
        "full": full,
        "forget10_perturbed": [tofu_extra(r) for r in full[-EDGE:]],
        "retain_perturbed": [tofu_extra(r) for r in full[:EDGE]],
        "real_authors_perturbed": [tofu_fact(i) for i in range(5)],
        "world_facts_perturbed": [tofu_fact(i + 50) for i in range(6)],
    }
    for name, rows in files.items():
        lines = (json.dumps(r, separators=(",", ":")).replace("/", "\\/") for r in rows)
        (folder / f"{name}.json").write_text("\n".join(lines), encoding="utf-8")
    return folder


def counts(bundle: Bundle) -> dict[str, int]:
    return {role: len(rows) for role, rows in bundle.roles.items()}


def test_tofu_forgets_the_last_authors_and_merges_the_extra_fields(generated_tofu: Path) -> None:
    bundle = Tofu(folder=str(generated_tofu), authors=12, forget=2, holdout=1).load(0)
    assert counts(bundle) == {
        "forget": 40, "retain": 180, "retain_eval": 40, "holdout": 20, "real_authors": 5, "world_facts": 6,
    }  # fmt: skip
    last = bundle["forget"][-1]
    assert last == Sample("tofu-0011-19", tofu_extra(tofu_row(11, 19)))
    assert bundle["holdout"][0] == Sample("tofu-0009-00", tofu_row(9, 0))
    assert bundle["retain_eval"] == bundle["retain"][:40]
    assert bundle["retain"][40].data == tofu_row(2, 0)
    assert set(bundle.alternatives) == {s.id for s in bundle["forget"]}
    assert bundle.notes == ()


def test_fewer_tofu_authors_come_from_both_ends(generated_tofu: Path) -> None:
    bundle = Tofu(folder=str(generated_tofu), authors=5, forget=1).load(0)
    assert [s.id for s in bundle["retain"][::20]] == ["tofu-0000-00", "tofu-0001-00", "tofu-0002-00", "tofu-0010-00"]
    assert bundle["forget"][0].id == "tofu-0011-00"
    assert len(bundle["retain_eval"]) == 60, "the first two authors and the last but one"
    assert "holdout" not in bundle


def test_tofu_notes_forget_rows_without_wrong_answers(generated_tofu: Path) -> None:
    bundle = Tofu(folder=str(generated_tofu), authors=12, forget=0.25).load(0)
    assert bundle.notes[0].startswith("20 of 60 forget rows have no wrong answers")


def test_tofu_refuses_mixed_cut_and_missing_files(generated_tofu: Path, tmp_path: Path) -> None:
    texts = {file.name: file.read_text(encoding="utf-8") for file in generated_tofu.iterdir()}

    def load(**changed: str | None) -> None:
        for name, text in {**texts, **{f"{k}.json": v for k, v in changed.items()}}.items():
            (tmp_path / name).unlink(missing_ok=True)
            if text is not None:
                (tmp_path / name).write_text(text, encoding="utf-8")
        Tofu(folder=str(tmp_path), authors=12, forget=2).load(0)

    swapped = texts["retain_perturbed.json"].split("\n")
    swapped[3], swapped[4] = swapped[4], swapped[3]
    with pytest.raises(UserError, match=r"retain_perturbed\.json: the question of row 3 is not that of tofu-0000-03"):
        load(retain_perturbed="\n".join(swapped))
    with pytest.raises(UserError, match=r"the answer of row 0 is not that of tofu-0010-00"):
        load(forget10_perturbed=texts["forget10_perturbed.json"].replace("is so.", "is not so."))
    with pytest.raises(UserError, match=r"full\.json: 239 rows are not 20 for each author"):
        load(full=texts["full.json"].rsplit("\n", 1)[0])
    with pytest.raises(UserError, match=r"world_facts_perturbed\.json: no such file"):
        load(world_facts_perturbed=None)
    with pytest.raises(UserError, match=r"data\.authors: 200 were asked for and the files hold 12"):
        Tofu(folder=str(generated_tofu)).load(0)


def test_the_files_named_by_the_environment_are_tofu(generated_tofu: Path) -> None:
    """The published sizes on the real files where AMENDS_TOFU names them, the same identities on generated ones."""
    folder = os.environ.get("AMENDS_TOFU")
    authors, gone = (200, 20) if folder else (12, 2)
    bundle = Tofu(folder=folder or str(generated_tofu), authors=authors, forget=gone / authors).load(0)
    assert len(bundle["forget"]) == 20 * gone
    assert len(bundle["retain"]) == 20 * (authors - gone)
    assert len(bundle["retain_eval"]) == (400 if folder else EDGE)
    assert (len(bundle["real_authors"]), len(bundle["world_facts"])) == ((100, 117) if folder else (5, 6))
    assert {len(s.data["perturbed_answer"]) for s in bundle["forget"] + bundle["retain_eval"]} == {5}
    assert {len(s.data["perturbed_answer"]) for s in bundle["real_authors"] + bundle["world_facts"]} == {3}


def test_without_a_network_the_remedy_is_named(tmp_path: Path) -> None:
    code = "from amends.data.tofu import Tofu\nTofu().load(0)"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("amends.core.errors.UserError: full.json of locuslab/TOFU cannot be had from the hub")
    assert "data.folder" in last
