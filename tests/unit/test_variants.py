"""A bench's methods once more from a pruned model: names, stages, settings, trials, and what runs at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from amends.core.errors import UserError
from amends.report import side_by_side
from amends.report.leaderboard import Board
from amends.report.leaderboard_page import write
from amends.runs.bench import load, plan
from amends.runs.bench_run import carry_out, gather, look
from amends.runs.recipe import resolve
from amends.runs.run import execute

BENCH = """\
title: "Dense and sparse"
for: classifier
data: {use: labelled, of: {use: digits}, by: class, classes: [3], limit: {train: 200, test: 100}}
subject: {use: image_classifier, net: conv, width: 4}
stages:
  original: {use: train, on: [forget, retain], steps: 30, batch: 32, optim: {use: sgd, lr: 0.1}}
  retrain: {use: train, on: [retain], steps: 30, batch: 32, optim: {use: sgd, lr: 0.1}}
  sparse:
    use: pruned
    from: original
    when: given
    rewind: null
    kind: original
    against: thin
    sparsity: 0.8
    train: {use: train, on: [forget, retain], steps: 10, batch: 32, optim: {use: sgd, lr: 0.1}}
  thin:
    use: prune_first
    from: sparse
    against: thin
    kind: retrain
    fresh: true
    then: {use: train, on: [retain], steps: 30, batch: 32, optim: {use: sgd, lr: 0.1}}
variants:
  sparse: {from: sparse, against: thin, inside: {use: prune_first}}
stage: {batch: 32, optim: {use: sgd}}
settings:
  fine-tune: {lr: 1e-2, epochs: 1}
  fine-tune-sparse: {lr: 2e-2}
rank: {forgetting: disparity, keeping: accuracy.test, at_least: 0.5}
reading: {show: []}
measure: [{use: disparity}, {use: accuracy, role: test}, {use: ua}]
headline: [disparity, ua.forget]
expect:
  - {that: influence-sparse.disparity, at_most: 1.0, because: "a claim may name a variant"}
search:
  seed: 1000
  budget: 2
  at_least: 0.1
  over: {ascent: {lr: [1e-3, 1e-2]}, ascent-sparse: {lr: [1e-1]}, fine-tune: {lr: [1e-2]}}
"""


class Here:
    """Runs every recipe in this process; the originals are shared."""

    def __init__(self, stages: Path) -> None:
        self.stages = stages

    def map(self, recipes: Sequence[Path], folders: Sequence[Path]) -> Iterator[int]:
        """0 for each run, as none fails."""
        for recipe, folder in zip(recipes, folders, strict=True):
            execute(resolve(str(recipe)), folder, stages=self.stages)
            yield 0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The bench as a file."""
    path = tmp_path / "thin.yaml"
    path.write_text(BENCH)
    return path


def test_each_method_stands_beside_its_variant(file: Path) -> None:
    bench = load(str(file))
    names = [m.name for m in bench.methods(["influence", "ascent-sparse", "fine-tune"])]
    assert names == ["influence", "influence-sparse", "ascent-sparse", "fine-tune", "fine-tune-sparse"]
    assert len(bench.methods(["all"])) == 2 * len(
        load(str(file), sets=["variants={}", "settings={}", "expect=[]", "search="]).methods(["all"])
    )
    dense, thin = (bench.stage_of(m) for m in bench.methods(["fine-tune"]))
    assert (dense["use"], dense["from"], dense["optim"]["lr"]) == ("gradient", "original", 1e-2)
    assert (thin["use"], thin["from"], thin["against"]) == ("prune_first", "sparse", "thin")
    assert "from" not in thin["then"]
    assert (thin["then"]["optim"]["lr"], thin["then"]["epochs"]) == (2e-2, 1), "its own rate, and the method's length"
    assert {m.preset for m in bench.methods(["fine-tune"])} == {"fine-tune"}


def test_a_variant_without_a_stage_around_it_only_starts_elsewhere(file: Path) -> None:
    bench = load(str(file), sets=["variants.sparse={from: sparse}"])
    _, other = (bench.stage_of(m) for m in bench.methods(["fine-tune"]))
    assert (other["use"], other["from"]) == ("gradient", "sparse") and "against" not in other


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ("variants=[sparse]", "variants: expected a mapping"),
        ("variants.sparse={inside: {use: prune_first}}", "variants.sparse: expected a mapping with `from`"),
        ("variants.sparse.from=spars", r"variants.sparse.from: no stage is called 'spars' \(did you mean 'sparse'\?\)"),
        ("variants.sparse.against=thick", "variants.sparse.against: no stage is called 'thick'"),
        ("variants.sparse.inside={then: 1}", "variants.sparse.inside: expected a stage around the method"),
        ("settings.fine-tune-spars={lr: 1}", r"settings.fine-tune-spars: no such method \(did you mean 'fine-tune-sparse'\?\)"),
    ],
)
def test_a_mistake_is_named(file: Path, sets: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(str(file), sets=[sets])


def test_a_variant_tries_what_its_method_tries_or_its_own(file: Path) -> None:
    bench = load(str(file))
    dense, thin = bench.methods(["ascent"])
    assert bench.search is not None
    assert (bench.search.trials(dense), bench.search.trials(thin)) == ([{"lr": 1e-3}, {"lr": 1e-2}], [{"lr": 1e-1}])
    _, tuned = bench.methods(["fine-tune"])
    assert bench.search.trials(tuned) == [{"lr": 1e-2}]
    resolved, _ = bench.trials(thin)
    assert resolved.tree["stages"]["t01"]["then"]["optim"]["lr"] == 1e-1
    assert bench.start(thin) == "sparse" and bench.start(dense) == "original"


def test_dense_and_sparse_stand_side_by_side(file: Path, tmp_path: Path) -> None:
    executor = Here(tmp_path / "stages")
    bench, tried = look(load(str(file)), ["fine-tune"], (0, 1), tmp_path, executor)
    assert len(tried["methods"]["fine-tune-sparse"]["trials"]) == 1
    work = plan(bench, ["fine-tune", "influence"], 2, tmp_path)
    carry_out(work, executor)
    board = Board(gather(work))
    assert set(board.references) == {"original", "retrain", "sparse", "thin"}
    assert {s.name for s in board.standings if s.place} == {"fine-tune", "fine-tune-sparse", "influence", "influence-sparse"}
    (thin,) = (m for m in board.values["measurements"] if (m["subject"], m["seed"], m["name"]) == ("thin", 0, "disparity"))
    assert thin["value"] == 0, "the sparse retrained model is compared with itself"
    assert set(board.references) == {"original", "retrain", "sparse", "thin"}
    assert side_by_side.heading(board) == "as it is / sparse"
    lines = {line.name: line for line in side_by_side.lines(board)}
    own = board.table.cell("influence-sparse", "disparity")
    assert own is not None and lines["influence"].each["sparse"]["disparity"] == own
    assert lines["fine-tune"].change in ("0 of 2", "1 of 2", "2 of 2")
    assert "second lower" in board.as_text()
    assert "Side by side: as it is / sparse" in write(board, tmp_path / "page.html").read_text()
    kept = next(s for s in board.standings if s.name == "influence-sparse")
    start, now = board.table.cell("sparse", "accuracy.test"), board.table.cell("influence-sparse", "accuracy.test")
    assert start is not None and now is not None and kept.kept == pytest.approx(now.value / start.value), "of its own start"
    assert [c["verdict"] for c in board.values["claims"]] == ["met"]
