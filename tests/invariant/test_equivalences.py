"""What must not matter: how a batch is cut, whether a run was interrupted, where the start model is kept."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.spec import Weighted
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.edits.clip import Clip
from amends.engine.fit import fit, is_lora
from amends.engine.guards import Forgotten, UtilityBudget
from amends.engine.loader import Loader
from amends.engine.optim import SGD, AdamW
from amends.subjects.classifier import Classifier
from amends.subjects.lora import Lora
from amends.subjects.reference import AdapterOff, frozen_copy
from amends.terms.dpo import DPO
from amends.terms.idk import Idk
from amends.terms.kl import KL
from amends.terms.nll import NLL
from amends.terms.npo import NPO
from amends.terms.simnpo import SimNPO

EVERYTHING = [
    Weighted(term=NPO()), Weighted(term=NLL()), Weighted(term=KL(), weight=0.5), Weighted(term=Idk(), weight=0.1),
    Weighted(term=DPO(), weight=0.2), Weighted(term=SimNPO()), Weighted(term=NLL(per="row"), weight=0.3),
]  # fmt: skip
WARM = AdamW(lr=3e-3, weight_decay=0.01, warmup=0.3, schedule="cosine")


def weights(subject: Any) -> dict[str, torch.Tensor]:
    return {n: t.detach().clone() for n, t in subject.module.state_dict().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys() and first
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


# ---------------------------------------------------------------------- accumulation


@pytest.mark.parametrize("micro", [1, 3])
def test_one_batch_of_eight_is_eight_of_one(world: Any, micro: int) -> None:
    """Every term at once, on rows of different lengths: the same values, gradients and weights, whatever the cut."""

    def run(micro: int | None) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
        subject, memory = world.make(), Memory()
        fit(subject, EVERYTHING, world.data, steps=5, optim=SGD(lr=0.02), batch=8, micro=micro, reference="start", run=memory)
        return memory.logged, weights(subject)

    whole, cut = run(None), run(micro)
    for one, other in zip(whole[0], cut[0], strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-5)
    for name, tensor in whole[1].items():
        torch.testing.assert_close(cut[1][name], tensor, rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------------- interrupted and resumed


class Killed(Exception):
    """The machine went away."""


class Doomed(Memory):
    """A run that dies when it logs a step."""

    def __init__(self, folder: Path, at: int) -> None:
        super().__init__(folder=folder)
        self.at = at

    def log(self, **values: Any) -> None:
        super().log(**values)
        if values["step"] == self.at:
            raise Killed


def straight_and_resumed(
    make: Any, folder: Path, kill_at: tuple[int, ...], options: dict[str, Any]
) -> tuple[Any, Any, Any, Any]:
    """The subject and outcome of a straight run, then of one that was killed once or more."""
    straight = make()
    (folder / "straight").mkdir()
    first = fit(straight, checkpoint_every=3, run=Memory(folder=folder / "straight"), **options)
    for at in kill_at:
        victim = make()
        with pytest.raises(Killed):
            fit(victim, checkpoint_every=3, run=Doomed(folder / "resumed", at), **options)
    resumed, memory = make(), Memory(folder=folder / "resumed")
    second = fit(resumed, checkpoint_every=3, run=memory, **options)
    assert any("resumed at step" in text for text in memory.said)
    assert memory.logged[0]["step"] == kill_at[-1] // 3 * 3 + 1 if kill_at[-1] % 3 else True
    return straight, first, resumed, second


@pytest.mark.parametrize("kill_at", [(5,), (4, 8), (6,)])
def test_a_resumed_run_is_the_straight_run_bit_for_bit(world: Any, tmp_path: Path, kill_at: tuple[int, ...]) -> None:
    options = {
        "objective": EVERYTHING, "data": world.data, "steps": 10, "optim": WARM, "batch": 5, "micro": 2, "reference": "start",
        "edits": [Clip(norm=1.0)], "guards": [UtilityBudget(drop=0.99, every=2), Forgotten(probability=0.0, every=3)],
    }  # fmt: skip
    straight, first, resumed, second = straight_and_resumed(world.make, tmp_path, kill_at, options)
    assert (first.steps, first.stopped) == (second.steps, second.stopped) == (10, None)
    assert_same(weights(straight), weights(resumed))


def test_a_resumed_run_is_stopped_where_the_straight_one_is(lm_world: Any, tmp_path: Path) -> None:
    """The guard compares with the start's utility, which only its saved memory knows after a resume."""
    options = {
        "objective": [Weighted(term=NLL(role="retain"), weight=-1.0)], "data": lm_world.data, "steps": 40,
        "optim": AdamW(lr=2e-3), "batch": 6, "guards": [UtilityBudget(drop=0.4, every=1)],
    }  # fmt: skip
    straight, first, resumed, second = straight_and_resumed(lm_world.make, tmp_path, (4,), options)
    assert first.stopped is not None and first.stopped == second.stopped and first.steps == second.steps > 4
    assert_same(weights(straight), weights(resumed))


def test_running_again_after_the_end_changes_nothing(lm_world: Any, tmp_path: Path) -> None:
    options = {
        "objective": [Weighted(term=NLL())],
        "data": lm_world.data,
        "steps": 6,
        "optim": WARM,
        "batch": 6,
        "checkpoint_every": 3,
    }
    first, again, memory = lm_world.make(), lm_world.make(), Memory(folder=tmp_path)
    fit(first, run=Memory(folder=tmp_path), **options)
    outcome = fit(again, run=memory, **options)
    assert outcome.steps == 6 and memory.logged == []
    assert_same(weights(first), weights(again))


def normed(seed: int = 0) -> Classifier:
    """A classifier with the two things that live outside the weights: running statistics and dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(144, 4))
    return Classifier(body.eval())


def test_running_statistics_and_dropout_survive_a_resume(classifier_world: Any, tmp_path: Path) -> None:
    options = {
        "objective": [Weighted(term=NLL()), Weighted(term=NPO())],
        "data": classifier_world.data,
        "steps": 8,
        "optim": WARM,
        "batch": 5,
        "reference": "start",
    }
    straight, _, resumed, _ = straight_and_resumed(normed, tmp_path, (5,), options)
    assert weights(straight)["1.num_batches_tracked"] == 16
    assert_same(weights(straight), weights(resumed))


def test_dropout_depends_on_the_runs_seed_and_not_on_torchs(classifier_world: Any) -> None:
    """The rate is so small and the batch so whole that values differ by the drawn masks alone."""

    def values(seed: int, torchs: int) -> list[float]:
        memory = Memory(seed=seed)
        with torch.random.fork_rng(devices=[]):
            subject = normed()
            torch.manual_seed(torchs)
            fit(subject, [Weighted(term=NLL())], classifier_world.data, steps=3, optim=SGD(lr=1e-9), batch=12, run=memory)
        return [line["loss"] for line in memory.logged]

    assert values(0, 1) == values(0, 2)
    assert len({round(v, 5) for v in values(0, 1)}) == 3, "each step has masks of its own"
    assert values(0, 1) != values(1, 1)


def test_a_fit_moves_no_global_stream(classifier_world: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        fit(normed(), [Weighted(term=NLL())], classifier_world.data, steps=2, optim=SGD(), run=Memory())
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("with_folder", [False, True])
def test_a_broken_budget_gives_back_the_last_weights_that_kept_it(
    classifier_world: Any, tmp_path: Path, with_folder: bool
) -> None:
    """Running statistics included, and whether or not there is a folder to keep them in."""

    def run(steps: int, guards: list[Any], memory: Memory) -> tuple[Any, Any]:
        subject = normed()
        objective = [Weighted(term=NLL(role="retain"), weight=-1.0)]
        optim = SGD(lr=0.05)
        return subject, fit(
            subject, objective, classifier_world.data, steps=steps, optim=optim, batch=12, guards=guards, run=memory
        )

    memory = Memory(folder=tmp_path if with_folder else None)
    subject, outcome = run(80, [UtilityBudget(drop=0.3, every=2)], memory)
    assert outcome.stopped is not None and outcome.stopped in memory.said
    kept = outcome.steps - 2
    assert kept > 0 and f"kept the weights of step {kept}" in memory.said
    assert_same(weights(subject), weights(run(kept, [], Memory())[0]))


# ---------------------------------------------------------------------- where the start model is kept


@pytest.fixture
def adapted(lm_world: Any) -> Any:
    """The tiny model with an adapter, and a copy of it before."""
    return Lora(rank=4, alpha=8).attach(lm_world.make(), seed=0)


def test_the_adapter_switched_off_is_the_frozen_copy(lm_world: Any, adapted: Any) -> None:
    base = lm_world.make()
    assert is_lora(adapted) and not is_lora(base)
    batch = base.collate([base.encode(s) for s in lm_world.data["forget"]])
    fit(adapted, [Weighted(term=NLL(role="forget"))], lm_world.data, steps=5, optim=AdamW(lr=1e-2), run=Memory())
    off, copied, on = AdapterOff(adapted).likelihood(batch), frozen_copy(base).likelihood(batch), adapted.likelihood(batch)
    assert torch.equal(off.nll_B, copied.nll_B)
    assert not off.nll_B.requires_grad
    assert (on.nll_B < off.nll_B - 1).all(), "the adapter has learned something, and it is on again"


def test_training_against_the_adapter_switched_off_is_training_against_a_copy(lm_world: Any) -> None:
    objective = [Weighted(term=KL()), Weighted(term=NPO()), Weighted(term=KL(role="forget"), weight=0.1)]
    copied = frozen_copy(lm_world.make())
    runs = []
    for reference in ("start", copied):
        subject, memory = Lora(rank=4, alpha=8).attach(lm_world.make(), seed=0), Memory()
        fit(subject, objective, lm_world.data, steps=6, optim=AdamW(lr=1e-2), batch=4, reference=reference, run=memory)
        runs.append((memory.logged, weights(subject)))
    assert runs[0][0][-1]["0.kl.retain"] > 1e-3, "a divergence that stays 0 would prove nothing"
    assert runs[0][0] == runs[1][0]
    assert_same(runs[0][1], runs[1][1])


def test_cached_numbers_serve_as_well_as_a_copy(lm_world: Any) -> None:
    runs = []
    for reference in ("start", frozen_copy(lm_world.make())):
        memory = Memory()
        objective = [Weighted(term=NPO()), Weighted(term=DPO())]
        fit(lm_world.make(), objective, lm_world.data, steps=6, optim=AdamW(lr=1e-3), batch=4, reference=reference, run=memory)
        runs.append(memory.logged)
    for cached, copied in zip(*runs, strict=True):
        assert cached == pytest.approx(copied, rel=1e-3)


def test_an_adapter_starts_as_the_model_it_adapts_and_merges_into_what_it_became(lm_world: Any, tmp_path: Path) -> None:
    base, adapted = lm_world.make(), Lora(rank=4, alpha=8).attach(lm_world.make(), seed=0)
    batch = base.collate([base.encode(s) for s in lm_world.data["forget"]])
    torch.testing.assert_close(adapted.likelihood(batch).nll_B, base.likelihood(batch).nll_B)
    trainable = {n for n, p in adapted.module.named_parameters() if p.requires_grad}
    assert trainable and all("lora_" in n for n in trainable)
    fit(adapted, [Weighted(term=NLL(role="forget"))], lm_world.data, steps=5, optim=AdamW(lr=1e-2), run=Memory())
    before = adapted.likelihood(batch).nll_B.detach()
    merged = Lora(rank=4, alpha=8).merge(adapted)
    torch.testing.assert_close(merged.likelihood(batch).nll_B.detach(), before, rtol=1e-4, atol=1e-3)
    assert not is_lora(merged) and all(p.requires_grad for p in merged.module.parameters())
    assert weights(merged).keys() == weights(base).keys()
    merged.save(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()


def test_equal_seeds_give_equal_adapters_and_move_no_global_stream(lm_world: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        first = weights(Lora(rank=4).attach(lm_world.make(), seed=1))
        assert torch.equal(torch.get_rng_state(), before)
    assert_same(first, weights(Lora(rank=4).attach(lm_world.make(), seed=1)))
    other = weights(Lora(rank=4).attach(lm_world.make(), seed=2))
    assert any(not torch.equal(first[n], other[n]) for n in first if "lora_A" in n)


def test_lora_says_what_it_cannot_adapt(classifier_world: Any, lm_world: Any) -> None:
    with pytest.raises(UserError, match="causal language models, not a Classifier"):
        Lora().attach(classifier_world.make(), seed=0)
    with pytest.raises(UserError, match="lora.targets: .*nothing_like_it"):
        Lora(targets=("nothing_like_it",)).attach(lm_world.make(), seed=0)


def test_a_lora_run_with_dropout_resumes_bit_for_bit(lm_world: Any, tmp_path: Path) -> None:
    def make() -> Any:
        return Lora(rank=4, dropout=0.2).attach(lm_world.make(), seed=0)

    options = {
        "objective": [Weighted(term=NLL()), Weighted(term=KL(role="forget"))],
        "data": lm_world.data,
        "steps": 7,
        "optim": WARM,
        "batch": 4,
        "reference": "start",
    }
    straight, _, resumed, _ = straight_and_resumed(make, tmp_path, (5,), options)
    assert_same(weights(straight), weights(resumed))


def test_a_base_models_own_dropout_does_not_reach_the_reference(lm_world: Any, adapted: Any) -> None:
    batch = adapted.collate([adapted.encode(s) for s in lm_world.data["forget"]])
    expected = AdapterOff(adapted).likelihood(batch).nll_B
    adapted.call.train()
    adapted.module.get_input_embeddings().register_forward_hook(lambda m, _, out: nn.functional.dropout(out, 0.5, m.training))
    assert torch.equal(AdapterOff(adapted).likelihood(batch).nll_B, expected)
    assert adapted.call.training


# ---------------------------------------------------------------------- the loader


def loader_of(subject: Any, rows: list[Sample], batch: int, **options: Any) -> Loader:
    return Loader(subject, "forget", rows, None, rows=batch, seed=3, **options)


@pytest.mark.parametrize(("num", "batch"), [(12, 5), (7, 7), (7, 8), (136, 8), (131, 4), (200, 3), (5, 1)])
def test_an_epoch_has_every_row_once_in_batches_of_nearly_equal_size(classifier_world: Any, num: int, batch: int) -> None:
    image = classifier_world.data["forget"][0].data["image"]
    rows = [Sample(f"r{i}", {"image": image, "label": 0}) for i in range(num)]
    loader = loader_of(classifier_world.make(), rows, batch)
    for epoch in range(2):
        batches = [loader.rows_at(epoch * loader.num_batches + i) for i in range(loader.num_batches)]
        assert sorted(r.id for b in batches for r in b) == sorted(s.id for s in rows)
        sizes = {len(b) for b in batches}
        assert max(sizes) - min(sizes) <= 1 and max(sizes) <= batch
    assert [r.id for r in loader.rows_at(0)] != [r.id for r in loader.rows_at(loader.num_batches)] or num <= 5


@pytest.mark.parametrize("micro", [None, 1, 2])
def test_processes_share_one_batch_in_equally_many_pieces(world: Any, micro: int | None) -> None:
    rows = list(world.data["forget"]) * 1
    one = loader_of(world.make(), rows, 5)
    for size in (2, 3):
        ranks = [loader_of(world.make(), rows, 5, micro=micro, rank=r, world=size) for r in range(size)]
        for step in range(2 * one.num_batches):
            pieces = [loader.at(step) for loader in ranks]
            assert len({len(p) for p in pieces}) == 1, "a process with fewer pieces would leave the others waiting"
            dealt = sorted(i for p in pieces for m in p for i in m.batch.ids)
            assert dealt == sorted(r.id for r in one.rows_at(step))
            assert {loader.count_at(step, NLL()) for loader in ranks} == {one.count_at(step, NLL())}


def test_the_noise_of_a_row_is_the_same_for_any_cut_and_with_or_without_alternatives() -> None:
    from amends.subjects.tiny import TinyDenoiser

    rows = [Sample(f"r{i}", {"image": torch.zeros(1, 4, 4), "label": 0}) for i in range(6)]
    alternatives = {s.id: s.with_("other", label=1) for s in rows}
    subject = TinyDenoiser().load(Bundle({}), 0)

    def drawn(alternatives: Any, step: int = 4, micro: int | None = None, world: int = 1) -> dict[str, tuple[float, float]]:
        values = {}
        for rank in range(world):
            loader = Loader(subject, "forget", rows, alternatives, rows=6, seed=0, micro=micro, rank=rank, world=world)
            for batch in (piece.batch for piece in loader.at(step)):
                values |= {i: (float(batch["level"][k]), float(batch["noise"][k].sum())) for k, i in enumerate(batch.ids)}
        return values

    whole = drawn(alternatives=None)
    assert drawn(alternatives=None, micro=1) == whole
    assert drawn(alternatives=None, world=2) == whole
    paired = drawn(alternatives=alternatives, micro=2)
    assert {i: v for i, v in paired.items() if i in whole} == whole
    assert all(paired[f"{i}/other"] == value for i, value in whole.items())
    assert len({*whole.values(), *drawn(alternatives=None, step=5).values()}) == 12, "noise is fresh for each row and step"


def test_batches_of_similar_length_need_less_padding(lm_world: Any) -> None:
    subject = lm_world.make()
    rows = [Sample(f"r{i}", {"question": "Q?", "answer": "word " * (1 + (7 * i) % 40)}) for i in range(64)]
    loader = loader_of(subject, rows, 4)

    def padded(batches: list[list[Any]]) -> int:
        return sum(max(r.size for r in b) * len(b) - sum(r.size for r in b) for b in batches)

    bucketed = padded([loader.rows_at(i) for i in range(loader.num_batches)])
    in_order = padded(
        [list(b) for b in itertools.batched(loader.encoded, 4)]
        if hasattr(itertools, "batched")
        else [loader.encoded[i : i + 4] for i in range(0, 64, 4)]
    )
    assert 0 < bucketed < in_order / 4


def test_the_order_depends_on_seed_role_and_epoch_only(classifier_world: Any) -> None:
    subject, rows = classifier_world.make(), list(classifier_world.data["forget"])

    def order(seed: int = 3, role: str = "forget", step: int = 0) -> list[str]:
        return [r.id for r in Loader(subject, role, rows, None, rows=12, seed=seed).rows_at(step)]

    assert order() == order() and len({tuple(order()), tuple(order(seed=4)), tuple(order(role="x")), tuple(order(step=1))}) == 4


def test_shared_ids_of_alternatives_are_refused(lm_world: Any) -> None:
    """Cached reference numbers are kept by id: two rows under one id would silently share a number."""
    rows = lm_world.data["forget"]
    shared = {s.id: Sample("idk", {**s.data, "answer": "No idea."}) for s in rows}
    own = {s.id: Sample(s.id, {**s.data, "answer": "No idea."}) for s in rows}
    for alternatives in (shared, own):
        with pytest.raises(UserError, match="ids of their own"):
            Loader(lm_world.make(), "forget", rows, alternatives, rows=4, seed=0)


def test_a_copy_is_a_copy(world: Any) -> None:
    subject = world.make()
    start = frozen_copy(subject)
    before = copy.deepcopy(weights(start.subject))
    with torch.no_grad():
        for p in subject.module.parameters():
            p.add_(1.0)
    assert_same(weights(start.subject), before)
    assert start.subject.call is not subject.call and not any(p.requires_grad for p in start.subject.module.parameters())
