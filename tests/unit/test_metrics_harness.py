"""lm-evaluation-harness on a tiny multiple-choice task from a folder, without network: its accuracy is the one by hand."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import binomtest

from amends.core import catalog
from amends.core.errors import UserError
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.metrics.evaluation import Evaluation
from amends.metrics.harness import Harness
from amends.runs.recipe import resolve
from amends.runs.stages import load_reading, save_reading
from amends.subjects.tiny import TinyClassifier, TinyLM

PAIRS = [("red", "green"), ("old", "new"), ("left", "right"), ("hot", "cold"), ("up", "down"), ("in", "out"), ("a", "b")]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "Q: {{{{question}}}} A:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
metadata: {{version: 1}}
"""


def docs() -> list[dict[str, Any]]:
    """Questions with two choices each."""
    return [{"question": f"which is {i}?", "choices": list(pair), "answer": i % 2} for i, pair in enumerate(PAIRS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two tasks, one of which fixes its examples at none."""
    root = tmp_path_factory.mktemp("tasks")
    (root / "data.jsonl").write_text("\n".join(map(json.dumps, docs())))
    (root / "tiny.yaml").write_text(TASK.format(name="tiny_choice", data=root / "data.jsonl"))
    (root / "bare.yaml").write_text(TASK.format(name="tiny_bare", data=root / "data.jsonl") + "num_fewshot: 0\n")
    (root / "lost.yaml").write_text(TASK.format(name="tiny_lost", data=root / "gone.jsonl"))
    return root


@pytest.fixture(autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What datasets prepares lies in a folder of the test's."""
    import datasets

    cache = str(tmp_path_factory.getbasetemp() / "datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)


@pytest.fixture(scope="module")
def subject() -> Any:
    """A small model with random weights."""
    rows = tuple(Sample(f"r{i}", {"text": f"Q: {d['question']} A: {' '.join(d['choices'])}"}) for i, d in enumerate(docs()))
    return TinyLM(width=32, depth=1, vocab=300).load(Bundle({"forget": rows}), 0)


def by_hand(subject: Any) -> list[float]:
    """1 where the right choice is likelier than the other, from plain log-probabilities."""
    found = []
    for doc in docs():
        start = subject.tokenizer(f"Q: {doc['question']} A:", add_special_tokens=False)["input_ids"]
        sums = []
        for choice in doc["choices"]:
            ids = subject.tokenizer(f" {choice}", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logp = subject.module(torch.tensor([start + ids])).logits[0, len(start) - 1 : -1].log_softmax(-1)
            sums.append(float(logp[range(len(ids)), ids].sum()))
        found.append(float(sums[doc["answer"]] > sums[1 - doc["answer"]]))
    return found


def evaluation(subject: Any) -> Evaluation:
    """An evaluation with a bundle that the metric does not read."""
    return Evaluation(subject, Bundle({"forget": (Sample("a", {"text": "t"}),)}), batch_size=4)


def test_accuracy_is_that_of_plain_log_probabilities(subject: Any, folder: Path) -> None:
    metric = Harness(tasks=("tiny_choice",), include_path=str(folder))
    before = subject.module.training, torch.get_rng_state()
    found = metric.measure(evaluation(subject), None)
    assert [found.scores[f"tiny_choice/{i}"] for i in range(len(PAIRS))] == by_hand(subject)
    right, n = int(sum(by_hand(subject))), len(PAIRS)
    bounds = binomtest(right, n).proportion_ci(method="wilson")
    assert (found.value, found.low, found.high, found.n) == (right / n, bounds.low, bounds.high, n)
    assert (found.name, found.better) == ("harness.tiny_choice", "higher")
    assert subject.module.training == before[0] and torch.equal(torch.get_rng_state(), before[1])


def test_several_tasks_are_one_mean_over_questions_and_a_limit_is_a_limit(subject: Any, folder: Path) -> None:
    found = Harness(tasks=("tiny_choice", "tiny_bare"), include_path=str(folder), limit=3).measure(evaluation(subject), None)
    assert list(found.scores.values()) == by_hand(subject)[:3] * 2
    assert (found.n, found.name) == (6, "harness.tiny_choice+tiny_bare") and "first 3" in found.note


def test_measuring_again_needs_no_model(subject: Any, folder: Path, tmp_path: Path) -> None:
    metric = Harness(tasks=("tiny_choice",), include_path=str(folder))
    first = evaluation(subject)
    measured = metric.measure(first, None)
    save_reading(first, tmp_path / "reading.json.gz", "key")
    again = evaluation(None)
    assert load_reading(again, tmp_path / "reading.json.gz", "key")
    assert metric.measure(again, None) == measured
    assert "kept" in json.loads(gzip.decompress((tmp_path / "reading.json.gz").read_bytes()))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tasks": ("tiny_chioce",)}, r"no task 'tiny_chioce' \(did you mean 'tiny_choice'\?\)"),
        ({"tasks": ("tiny_lost",)}, "'tiny_lost' cannot be loaded .*go online once"),
        ({"tasks": ("tiny_bare",), "shots": 2}, "'tiny_bare' is asked without examples"),
        ({"include_path": "/nowhere"}, "include_path: /nowhere: no such folder"),
    ],
)
def test_what_cannot_be_had_is_found_before_anything_is_trained(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Harness(**{"include_path": str(folder), **options}).check()


def test_without_the_package_it_says_which_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match=r"pip install 'amends\[harness\]'"):
        Harness(tasks=("tiny_choice",), include_path=str(folder)).check()


def test_a_recipe_checks_it_before_a_model_is_loaded(folder: Path) -> None:
    sets = [
        f"measure=[{{use: harness, tasks: [tiny_lost], include_path: '{folder}'}}]",
        "headline=[]",
        "expect=[]",
        "attack=[]",
    ]
    recipe = resolve("facts", "smoke", sets).recipe
    with pytest.raises(UserError, match=r"measure\.0 \(harness\.tiny_lost\): tasks: 'tiny_lost' cannot be loaded"):
        recipe.check_data(recipe.data.load(0))


def test_a_score_that_a_task_does_not_have_offers_the_nearest(subject: Any, folder: Path) -> None:
    with pytest.raises(UserError, match=r"no number 'acc_nrm' \(did you mean 'acc_norm'\?\)"):
        Harness(tasks=("tiny_choice",), include_path=str(folder), score="acc_nrm").measure(evaluation(subject), None)


def test_a_model_without_words_is_refused(folder: Path) -> None:
    data = Bundle({"forget": ()})
    with pytest.raises(UserError, match="needs a language model"):
        Harness(tasks=("tiny_choice",), include_path=str(folder)).measure(evaluation(TinyClassifier().load(data, 0)), None)


def test_dangerous_knowledge_is_to_go_and_everything_else_to_stay() -> None:
    assert Harness().better == "lower" and Harness(tasks=("wmdp_bio", "wmdp_cyber")).better == "lower"
    assert Harness(tasks=("mmlu",)).better == Harness(tasks=("wmdp", "mmlu")).better == "higher"
    assert Harness(tasks=("mmlu",), forget=True).better == "lower"
    assert Harness(tasks=("mmlu",), shots=5).name == "harness.mmlu.5-shot" and Harness().roles() == frozenset()
    assert "harness" in {entry.name for entry in catalog.list_kind("metrics")}
