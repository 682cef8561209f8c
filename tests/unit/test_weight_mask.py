"""Masks: what is frozen stays to the bit, what is saved is read, and what does not fit is refused before any work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from amends.attribution.magnitude import Magnitude
from amends.attribution.random import Random
from amends.attribution.saliency import Saliency
from amends.attribution.wagle import Wagle
from amends.attribution.wanda import Wanda
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.protocols import Start
from amends.core.spec import Weighted, build_use
from amends.data.bundle import Bundle
from amends.edits.clip import Clip
from amends.edits.freeze import Freeze
from amends.edits.mask_file import Mask, packed, unpacked
from amends.edits.weight_mask import WeightMask
from amends.engine.fit import fit
from amends.engine.optim import SGD, AdamW
from amends.subjects.classifier import Classifier
from amends.subjects.lora import Lora
from amends.subjects.tiny import TinyLM
from amends.terms.ascent import Ascent
from amends.terms.nll import NLL

OBJECTIVE = [Weighted(term=Ascent()), Weighted(term=NLL())]
DECAYING = AdamW(lr=3e-3, weight_decay=0.3)


def params_of(subject: Any) -> dict[str, Tensor]:
    return dict(subject.module.named_parameters())


def copy_of(subject: Any) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in params_of(subject).items()}


def masked(
    subject: Any, data: Any, edit: Any, *, run: Any = None, optim: Any = DECAYING, steps: int = 4, **more: Any
) -> Memory:
    run = run or Memory()
    fit(subject, OBJECTIVE, data, steps=steps, optim=optim, batch=4, edits=[edit], run=run, **more)
    return run


def table(folder: Path) -> Any:
    return json.loads((folder / "mask.json").read_text())


@dataclass(frozen=True)
class Given:
    """Scores that a test chose."""

    by_name: dict[str, Tensor]

    def scores(self, params: Any, start: Any) -> Iterator[tuple[str, Tensor]]:
        yield from ((n, self.by_name[n]) for n in params if n in self.by_name)


class Small(nn.Module):
    """Four weights and a bias of two, of a two-class problem."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]])), nn.Parameter(torch.tensor([0.5, -0.5]))

    def forward(self, image: Tensor) -> Tensor:
        x = image.flatten(1)
        return torch.stack([x.mean(1), x.amax(1)], 1) @ self.w.T + self.b


def small() -> Classifier:
    return Classifier(Small())


def of_two_classes(world: Any) -> Bundle:
    return Bundle({role: tuple(s for s in rows if s.data["label"] < 2) for role, rows in world.data.roles.items()})


# ---------------------------------------------------------------------- what is frozen


@pytest.mark.parametrize("optim", [DECAYING, SGD(lr=0.05, momentum=0.9, weight_decay=0.1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frozen_weights_stay_to_the_bit_and_the_others_move(
    lm_world: Any, tmp_path: Path, optim: Any, dtype: torch.dtype
) -> None:
    """With weight decay and momentum, which move weights that have no gradient."""
    subject = lm_world.make()
    subject.module.to(dtype)
    before = copy_of(subject)
    masked(subject, lm_world.data, WeightMask(by=Random(), keep=0.6), optim=optim, run=Memory(folder=tmp_path))
    mask, _ = Mask.load(tmp_path / "mask.safetensors")
    moved = total = 0
    for name, p in params_of(subject).items():
        frozen = mask.frozen(name, p.device)
        assert p.dtype is dtype and frozen.any()
        assert torch.equal(p[frozen], before[name][frozen]), name
        moved += int((p != before[name])[~frozen].sum())
        total += int((~frozen).sum())
    assert moved > 0.9 * total if dtype is torch.float32 else moved > 0.3 * total


def test_the_trained_weights_take_the_steps_that_masked_gradients_give(classifier_world: Any, tmp_path: Path) -> None:
    """Plain gradient descent: one step of the masked fit is that of the dense one where the mask is open."""
    dense, sparse = classifier_world.make(), classifier_world.make()
    options = {"steps": 1, "optim": SGD(lr=0.1), "batch": 12}
    fit(dense, OBJECTIVE, classifier_world.data, run=Memory(), **options)
    fit(
        sparse,
        OBJECTIVE,
        classifier_world.data,
        edits=[WeightMask(by=Random(), keep=0.5)],
        run=Memory(folder=tmp_path),
        **options,
    )
    mask, _ = Mask.load(tmp_path / "mask.safetensors")
    start = copy_of(classifier_world.make())
    for name, p in params_of(sparse).items():
        expected = torch.where(mask.frozen(name, p.device), start[name], params_of(dense)[name])
        torch.testing.assert_close(p.detach(), expected)


def test_the_norm_that_a_later_clip_sees_is_that_of_the_trained_weights(lm_world: Any) -> None:
    def norm(edits: list[Any]) -> float:
        run = Memory()
        fit(lm_world.make(), OBJECTIVE, lm_world.data, steps=1, optim=SGD(lr=0.1), batch=4, edits=edits, run=run)
        return run.logged[-1]["grad_norm"]

    mask, whole = WeightMask(by=Random(), keep=0.5), norm([])
    assert norm([mask]) == pytest.approx(whole * 0.5**0.5, rel=0.1)
    assert norm([mask, Clip(norm=0.6 * whole)]) == pytest.approx(0.6 * whole, rel=1e-3)
    assert norm([Clip(norm=0.6 * whole), mask]) < 0.5 * whole


def test_the_largest_scores_are_trained(classifier_world: Any) -> None:
    subject = small()
    scores = {"w": torch.tensor([[4.0, 1.0], [-3.0, 0.0]]), "b": torch.tensor([2.0, 0.0])}
    state = WeightMask(by=Given(scores), keep=0.5).init(params_of(subject), Start(subject, classifier_world.data, Memory()))
    assert state["w"].tolist() == [[False, True], [False, True]]
    assert state["b"].tolist() == [False, True]
    by_tensor = WeightMask(by=Given(scores), keep=0.5, rank="tensor")
    assert by_tensor.init(params_of(subject), Start(subject, classifier_world.data, Memory()))["b"].tolist() == [False, True]


def test_a_tensor_that_is_frozen_as_a_whole_asks_for_no_gradient_until_the_fit_is_over(classifier_world: Any) -> None:
    subject = small()
    scores = {"w": torch.ones(2, 2), "b": torch.zeros(2)}
    start = Start(subject, classifier_world.data, Memory())
    assert WeightMask(by=Given(scores), keep=4 / 6).init(params_of(subject), start) == {}
    assert [p.requires_grad for p in params_of(subject).values()] == [True, False]
    subject = small()
    before = copy_of(subject)
    masked(subject, of_two_classes(classifier_world), WeightMask(by=Given(scores), keep=4 / 6))
    assert torch.equal(params_of(subject)["b"], before["b"])
    assert not torch.equal(params_of(subject)["w"], before["w"])
    assert all(p.requires_grad for p in params_of(subject).values())


def test_keeping_all_is_the_dense_fit(world: Any) -> None:
    dense, kept = world.make(), world.make()
    fit(dense, OBJECTIVE, world.data, steps=3, optim=DECAYING, batch=4, run=Memory())
    run = masked(kept, world.data, WeightMask(keep=1.0), steps=3)
    assert all(torch.equal(p, params_of(dense)[n]) for n, p in params_of(kept).items())
    assert "freezes 0 of" in run.said[0]


# ---------------------------------------------------------------------- what is skipped, and what is said


@pytest.mark.parametrize("skipped", ["trained", "frozen"])
def test_skipped_weights_are_not_scored_and_are_trained_or_frozen_as_asked(lm_world: Any, tmp_path: Path, skipped: Any) -> None:
    subject = lm_world.make()
    before = copy_of(subject)
    edit = WeightMask(by=Random(), keep=0.5, skip=("*embed*", "*norm*"), skipped=skipped)
    masked(subject, lm_world.data, edit, run=Memory(folder=tmp_path))
    rows = {row["name"]: row for row in table(tmp_path)["parameters"]}
    assert list(rows) == list(before)
    left_out = [n for n in rows if "embed" in n or "norm" in n]
    assert len(left_out) == 6
    for name in left_out:
        assert rows[name]["kept"] == (rows[name]["size"] if skipped == "trained" else 0)
        assert torch.equal(params_of(subject)[name], before[name]) == (skipped == "frozen")
    scored = [row for name, row in rows.items() if name not in left_out]
    assert sum(r["kept"] for r in scored) == round(0.5 * sum(r["size"] for r in scored))


def test_what_an_attribution_does_not_score_counts_as_skipped(lm_world: Any, tmp_path: Path) -> None:
    masked(lm_world.make(), lm_world.data, WeightMask(by=Wanda(), keep=0.5), run=Memory(folder=tmp_path), steps=1)
    whole = {row["name"] for row in table(tmp_path)["parameters"] if row["kept"] == row["size"]}
    assert whole == {n for n in params_of(lm_world.make()) if fnmatchcase(n, "*embed*") or fnmatchcase(n, "*norm*")}


def test_the_table_counts_live_weights(classifier_world: Any, tmp_path: Path) -> None:
    """Of six weights three have a score of 0; half are trained, so one of the zeros is and two are not."""
    scores = {"w": torch.tensor([[4.0, 0.0], [3.0, 0.0]]), "b": torch.tensor([0.0, 1.0])}
    run = masked(
        small(),
        of_two_classes(classifier_world),
        WeightMask(by=Given(scores), keep=2 / 6),
        run=Memory(folder=tmp_path),
        steps=1,
    )
    assert table(tmp_path) == {
        "schema": 1, "keep": 2 / 6, "rank": "global", "by": "given",
        "total": {"size": 6, "kept": 2, "live": 3, "live_frozen": 1},
        "parameters": [
            {"name": "w", "size": 4, "kept": 2, "live": 2, "live_frozen": 0},
            {"name": "b", "size": 2, "kept": 0, "live": 1, "live_frozen": 1},
        ],
    }  # fmt: skip
    assert run.said[0] == (
        "weight mask by given: freezes 4 of 6 weights; 1 of them are live (their score is not 0), 33.33% of all live weights"
    )


def test_weights_that_are_frozen_already_are_neither_scored_nor_counted(lm_world: Any, tmp_path: Path) -> None:
    subject, run = lm_world.make(), Memory(folder=tmp_path)
    before = copy_of(subject)
    edits = [Freeze(but=("*embed*",)), WeightMask(by=Saliency(), keep=0.5)]
    fit(subject, OBJECTIVE, lm_world.data, steps=2, optim=DECAYING, batch=4, edits=edits, run=run)
    names = [row["name"] for row in table(tmp_path)["parameters"]]
    assert names == [n for n in before if "embed" not in n]
    assert all(torch.equal(p, before[n]) for n, p in params_of(subject).items() if "embed" in n)


# ---------------------------------------------------------------------- saved, read, resumed


class Killed(Exception):
    """The machine went away."""


class Doomed(Memory):
    """A run that dies when it logs a step."""

    at = 0

    def log(self, **values: Any) -> None:
        super().log(**values)
        if values["step"] == self.at:
            raise Killed


@pytest.mark.parametrize("at", [1, 5])
def test_a_masked_fit_resumes_as_if_it_had_not_been_interrupted(world: Any, tmp_path: Path, at: int) -> None:
    edit = WeightMask(keep=0.6)
    straight, resumed = world.make(), world.make()
    masked(straight, world.data, edit, steps=8, checkpoint_every=3, run=Memory(folder=tmp_path / "straight"))
    doomed = Doomed(folder=tmp_path / "resumed")
    doomed.at = at
    with pytest.raises(Killed):
        masked(world.make(), world.data, edit, steps=8, checkpoint_every=3, run=doomed)
    run = masked(resumed, world.data, edit, steps=8, checkpoint_every=3, run=Memory(folder=tmp_path / "resumed"))
    assert any("resumed at step 3" in text for text in run.said) == (at == 5)
    assert run.said[0] == doomed.said[0]
    for name, p in params_of(resumed).items():
        assert torch.equal(p, params_of(straight)[name]), name


def test_a_resume_reads_the_mask_and_does_not_score_again(lm_world: Any, tmp_path: Path) -> None:
    """Another seed, other rows or another setting is another mask."""
    calls: list[int] = []

    @dataclass(frozen=True)
    class Counted:
        gamma: float = 1.0

        def scores(self, params: Any, start: Any) -> Iterator[tuple[str, Tensor]]:
            calls.append(1)
            yield from Magnitude().scores(params, start)

    run, other, data = Memory(folder=tmp_path), Memory(seed=1, folder=tmp_path), lm_world.data
    first, second, third = WeightMask(by=Counted()), WeightMask(by=Counted(gamma=2.0)), WeightMask(by=Counted(), keep=0.5)
    fewer = data.with_role("forget", data["forget"][:3])
    tried = [(first, run, data), (first, run, data), (second, run, data), (third, run, data), (third, other, data)]
    for edit, memory, rows in [*tried, (third, other, data), (third, other, fewer)]:
        subject = lm_world.make()
        edit.init(params_of(subject), Start(subject, rows, memory))
    assert len(calls) == 5


def test_a_mask_file_takes_the_place_of_scoring(lm_world: Any, tmp_path: Path) -> None:
    first, second = lm_world.make(), lm_world.make()
    made = masked(first, lm_world.data, WeightMask(by=Wagle(), keep=0.7), run=Memory(folder=tmp_path / "first"))
    taken = WeightMask(file=str(tmp_path / "first" / "mask.safetensors"))
    read = masked(second, lm_world.data, taken, run=Memory(folder=tmp_path / "second"))
    assert read.said[0] == made.said[0]
    assert table(tmp_path / "second") == table(tmp_path / "first")
    assert all(torch.equal(p, params_of(second)[n]) for n, p in params_of(first).items())


def test_another_models_mask_is_refused_before_any_work(lm_world: Any, classifier_world: Any, tmp_path: Path) -> None:
    masked(lm_world.make(), lm_world.data, WeightMask(by=Magnitude()), run=Memory(folder=tmp_path), steps=1)
    edit = WeightMask(file=str(tmp_path / "mask.safetensors"))

    def refused(subject: Any, data: Any, why: str) -> None:
        before, run = copy_of(subject), Memory()
        with pytest.raises(UserError, match=why):
            masked(subject, data, edit, run=run)
        assert run.logged == [] and all(torch.equal(p, before[n]) for n, p in params_of(subject).items())

    deeper = TinyLM(width=32, depth=3, heads=2, vocab=300).load(lm_world.data, 0)
    shallower = TinyLM(width=32, depth=1, heads=2, vocab=300).load(lm_world.data, 0)
    wider = TinyLM(width=64, depth=2, heads=2, vocab=300).load(lm_world.data, 0)
    refused(
        classifier_world.make(),
        classifier_world.data,
        r"mask.safetensors: the mask is for another model: it has no weight '0.w",
    )
    refused(deeper, lm_world.data, "it has no weight 'model.layers.2.self_attn.q_proj.weight'")
    refused(shallower, lm_world.data, "another model, which has a weight 'model.layers.1.self_attn.q_proj.weight'")
    refused(wider, lm_world.data, r"its model.embed_tokens.weight has the shape \(\d+, 32\), this model's \(\d+, 64\)")


def test_a_file_that_is_no_mask_is_named(lm_world: Any, tmp_path: Path) -> None:
    subject = lm_world.make()
    subject.save(tmp_path / "model")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    for name, why in [
        ("gone.safetensors", "gone.safetensors: no such mask file"),
        ("broken.safetensors", "broken.safetensors: not the mask.safetensors that a weight_mask wrote"),
        ("model/model.safetensors", "model.safetensors: not the mask.safetensors that a weight_mask wrote"),
    ]:
        with pytest.raises(UserError, match=why):
            masked(subject, lm_world.data, WeightMask(file=str(tmp_path / name)))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(0, 2**20))
def test_bits_are_unpacked_as_they_were_packed(shape: list[int], seed: int) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    bits = packed(mask)
    assert bits.dtype is torch.uint8 and len(bits) == -(-mask.numel() // 8)
    assert torch.equal(unpacked(bits, tuple(shape)), mask)


# ---------------------------------------------------------------------- what is refused


def test_a_mask_on_an_adapter_is_refused_with_the_way_out(lm_world: Any) -> None:
    subject = Lora(rank=2).attach(lm_world.make(), seed=0)
    with pytest.raises(UserError, match="does not act on the factors of an adapter: leave `lora` out, or .* `lora.targets`"):
        masked(subject, lm_world.data, WeightMask())


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (WeightMask(by=Magnitude(), file="m.safetensors"), "give `by` or `file`, not both"),
        (WeightMask(by=Magnitude(), skip=("*nothing*",)), "weight_mask.skip: no weight is called '.nothing.'"),
        (WeightMask(by=Magnitude(), skip=("*",)), "no weight is left to score"),
        (WeightMask(by=Given({"w": torch.tensor([[1.0, float("nan")], [1.0, 1.0]])})), "scores of w are not finite: .*float32"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_sentence(classifier_world: Any, edit: Any, why: str) -> None:
    with pytest.raises(UserError, match=why):
        masked(small(), of_two_classes(classifier_world), edit)


def test_yaml_names_the_attribution_with_its_settings() -> None:
    values = {"use": "weight_mask", "keep": 0.8, "by": {"use": "wagle", "gamma": "fisher", "rows": 20}}
    edit = build_use("edits", values, "stages.wagle.edits.0")
    assert edit == WeightMask(by=Wagle(gamma="fisher", rows=20), keep=0.8)
    for wrong, why in [
        ({"by": {"use": "wagel"}}, "edits.0.by.use: no attribution is called 'wagel' .did you mean 'wagle'"),
        ({"by": {"use": "wagle", "gamma": 0}}, "edits.0.by.gamma"),
        ({"keep": 0}, "edits.0.keep: Input should be greater than 0"),
        ({"keep": 95}, "edits.0.keep: Input should be less than or equal to 1"),
    ]:
        with pytest.raises(UserError, match=why):
            build_use("edits", {"use": "weight_mask", **wrong}, "edits.0")
