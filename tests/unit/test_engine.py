"""The engine's parts: learning rates, guards, checkpoints, and what it says before and when it stops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.rng import rng
from amends.core.spec import Weighted
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.engine import checkpoint
from amends.engine.fit import fit
from amends.engine.guards import Forgotten, Repetition, UtilityBudget, Verdict, bf16_share_moving, every_kth, repeated
from amends.engine.loader import Loader
from amends.engine.optim import SGD, AdamW, scheduled
from amends.engine.parallel import Parallel
from amends.engine.score import nll_by_id
from amends.subjects.classifier import Classifier
from amends.subjects.tiny import TinyLM
from amends.terms.ascent import Ascent
from amends.terms.idk import Idk
from amends.terms.kl import KL
from amends.terms.nll import NLL
from amends.terms.npo import NPO

KEEP = Weighted(term=NLL())
PUSH = Weighted(term=Ascent())


# ---------------------------------------------------------------------- learning rates


def test_warm_up_starts_above_zero_and_reaches_the_peak() -> None:
    assert [scheduled(s, 10, 0.4, "constant") for s in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_linear_and_cosine_by_hand() -> None:
    assert [scheduled(s, 4, 0, "linear") for s in range(4)] == [1, 0.75, 0.5, 0.25]
    expected = [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    assert [scheduled(s, 4, 0, "cosine") for s in range(4)] == pytest.approx(expected)
    assert [scheduled(s, 6, 1 / 3, "linear") for s in range(6)] == pytest.approx([0.5, 1, 1, 0.75, 0.5, 0.25])


def test_a_warm_up_of_seven_hundredths_of_a_hundred_steps_is_seven_steps() -> None:
    assert scheduled(6, 100, 0.07, "constant") == 1 and scheduled(5, 100, 0.07, "constant") == 6 / 7


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_no_step_is_wasted_on_a_rate_of_zero(schedule: Any) -> None:
    for steps in (1, 2, 7):
        for warmup in (0.0, 0.5, 1.0):
            assert all(0 < scheduled(s, steps, warmup, schedule) <= 1 for s in range(steps))


def test_the_rate_in_the_log_is_the_schedules(classifier_world: Any) -> None:
    run, optim = Memory(), AdamW(lr=1e-3, warmup=0.5, schedule="linear")
    fit(classifier_world.make(), [KEEP], classifier_world.data, steps=4, optim=optim, run=run)
    assert [line["lr"] for line in run.logged] == pytest.approx([5e-4, 1e-3, 1e-3, 5e-4])


def test_adamw_takes_the_step_of_its_paper(classifier_world: Any) -> None:
    """The first step of Adam is lr * sign(gradient), after a decay of lr * weight_decay."""
    subject, optim = classifier_world.make(), AdamW(lr=1e-2, weight_decay=0.5, eps=1e-12)
    before = {n: p.detach().clone() for n, p in subject.module.named_parameters()}
    batch = subject.collate([subject.encode(s) for s in classifier_world.data["retain"]])
    grads = torch.autograd.grad(subject.likelihood(batch).nll_B.mean(), list(subject.module.parameters()))
    fit(subject, [KEEP], classifier_world.data, steps=1, optim=optim, batch=12, run=Memory())
    for (name, p), g in zip(subject.module.named_parameters(), grads, strict=True):
        clear = g.abs() > 1e-5
        expected = before[name] * (1 - 1e-2 * 0.5) - 1e-2 * g.sign()
        torch.testing.assert_close(p[clear], expected[clear], rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------- guards on a given probe


class Given:
    """A model whose probabilities and answers are simply given."""

    def __init__(self, probability: float = 0.0, answers: Sequence[str] = ()) -> None:
        self.p, self.texts = probability, list(answers)

    def probability(self, role: str, rows: int) -> float:
        return self.p

    def answers(self, role: str, rows: int) -> list[str]:
        return self.texts


def test_the_budget_is_a_share_of_the_start() -> None:
    guard, memory = UtilityBudget(drop=0.25), {}
    assert guard.look(0, Given(0.8), memory) == Verdict(None, keep=True)
    assert guard.look(5, Given(0.61), memory) == Verdict(None, keep=True)
    verdict = guard.look(10, Given(0.59), memory)
    assert not verdict.keep
    assert verdict.stop == "utility budget spent: retain probability 0.590 at step 10, 0.800 at the start, budget 25%"


def test_forgotten_stops_at_the_goal_and_keeps_it() -> None:
    guard = Forgotten(probability=0.1)
    assert guard.look(5, Given(0.11), {}) == Verdict()
    assert guard.look(10, Given(0.1), {}) == Verdict("goal reached: forget probability 0.100 at step 10", keep=True)


LOOP = "the cat sat on the cat sat on the cat sat on the cat sat on"
PROSE = "one two three four five six seven eight nine ten"


def test_repetition_by_hand() -> None:
    assert repeated(PROSE) == 0
    assert repeated("yes yes yes") == 0, "too short to tell"
    assert repeated(" ".join("ab" * 6)) == pytest.approx(1 - 2 / 10)
    assert repeated(LOOP) == pytest.approx(1 - 4 / 14)


def test_repetition_stops_for_a_loop_that_was_not_there_at_the_start() -> None:
    guard, memory = Repetition(share=0.5), {}
    assert guard.look(0, Given(answers=[PROSE]), memory).stop is None
    verdict = guard.look(10, Given(answers=[PROSE, LOOP]), memory)
    assert verdict.stop == "collapse: 71% of the 3-grams of an answer to 'retain' repeat at step 10"
    looped_from_the_start: dict[str, Any] = {}
    assert guard.look(0, Given(answers=[LOOP]), looped_from_the_start).stop is None
    assert guard.look(10, Given(answers=[LOOP]), looped_from_the_start).stop is None
    assert guard.look(10, Given(answers=[]), {}).stop is None


def test_probes_are_spread_over_the_whole_role() -> None:
    rows = [Sample(str(i), {}) for i in range(63)]
    chosen = [int(s.id) for s in every_kth(rows, 32)]
    assert len(chosen) == 32 and chosen[0] == 0 and chosen[-1] >= 60
    assert {b - a for a, b in pairwise(chosen)} == {1, 2}
    assert every_kth(rows[:5], 32) == rows[:5]


# ---------------------------------------------------------------------- guards in a fit


def test_a_spent_budget_stops_the_fit_and_names_step_and_cause(lm_world: Any) -> None:
    subject, run = lm_world.make(), Memory()
    start = probability(subject, lm_world.data["retain"])
    guards = [UtilityBudget(drop=0.2, every=1)]
    outcome = fit(
        subject, [Weighted(term=Ascent(role="retain"))], lm_world.data, steps=50, optim=AdamW(lr=3e-3), guards=guards, run=run
    )
    assert outcome.stopped is not None and 1 < outcome.steps < 50
    assert f"at step {outcome.steps}" in outcome.stopped and run.said[-2] == outcome.stopped
    assert run.said[-1] == f"kept the weights of step {outcome.steps - 1}"
    assert probability(subject, lm_world.data["retain"]) >= 0.8 * start


def probability(subject: Any, rows: Sequence[Sample]) -> float:
    scored = nll_by_id(subject, rows).values()
    return sum(math.exp(-nll / n) for nll, n in scored) / len(scored)


def test_a_goal_stops_the_fit_and_keeps_the_weights_that_reached_it(lm_world: Any) -> None:
    subject = lm_world.make()
    goal = 0.5 * probability(subject, lm_world.data["forget"])
    guards = [Forgotten(probability=goal, every=1)]
    outcome = fit(subject, [PUSH], lm_world.data, steps=80, optim=AdamW(lr=3e-3), guards=guards, run=Memory())
    assert outcome.stopped is not None and "goal reached" in outcome.stopped and outcome.steps < 80
    assert probability(subject, lm_world.data["forget"]) <= goal


@pytest.mark.parametrize("budget_first", [True, False])
def test_a_goal_reached_by_breaking_the_budget_is_not_kept(lm_world: Any, budget_first: bool) -> None:
    subject, run = lm_world.make(), Memory()
    before = [p.detach().clone() for p in subject.module.parameters()]
    goal = 0.8 * probability(subject, lm_world.data["forget"])
    guards = [UtilityBudget(drop=0.2, every=30), Forgotten(probability=goal, every=30)]  # both look at the start and the end
    outcome = fit(
        subject, [PUSH, Weighted(term=Ascent(role="retain"))], lm_world.data, steps=30, optim=AdamW(lr=3e-3),
        guards=guards if budget_first else guards[::-1], run=run,
    )  # fmt: skip
    assert probability(subject, lm_world.data["forget"]) > goal, "the start again"
    assert outcome.stopped is not None and "budget spent" in outcome.stopped and outcome.steps == 30
    assert run.said[-1] == "kept the weights of step 0"
    assert all(torch.equal(p, q) for p, q in zip(subject.module.parameters(), before, strict=True))


def test_best_weights_of_an_earlier_run_are_not_taken_for_this_ones(classifier_world: Any, tmp_path: Path) -> None:
    stale = {f"w|{n}": torch.zeros_like(p) for n, p in classifier_world.make().module.named_parameters()}
    checkpoint.save(tmp_path / "best.safetensors", stale, step=77)
    run = Memory(folder=tmp_path)
    fit(broken(), [KEEP], classifier_world.data, steps=3, optim=SGD(lr=1.0), guards=[Forgotten(probability=0.0)], run=run)
    assert not any("step 77" in text for text in run.said)


def test_looping_answers_stop_a_fit(lm_world: Any) -> None:
    """A model taught nothing but one word answers with nothing but that word."""
    rows = [
        Sample(f"r{i}", {"question": s.data["question"], "answer": "red " * 30})
        for i, s in enumerate(lm_world.data["retain"][:4])
    ]
    subject, run = lm_world.make(), Memory()
    data = Bundle({"retain": tuple(rows)})
    outcome = fit(subject, [KEEP], data, steps=60, optim=AdamW(lr=1e-2), guards=[Repetition(every=20, share=0.6)], run=run)
    assert outcome.stopped is not None and outcome.stopped.startswith("collapse:") and outcome.steps in (20, 40, 60)


# ---------------------------------------------------------------------- not a number


def broken(at: float = math.nan) -> Classifier:
    """A classifier whose output becomes `at` after the third forward pass."""

    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.calls = nn.Parameter(torch.ones(1, 4)), 0

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            self.calls += self.training
            value = image.flatten(1)[:, :4] * self.scale
            return value * at if self.calls > 2 else value

    return Classifier(Breaks().eval())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_update_that_is_not_finite_is_never_applied(classifier_world: Any, value: float) -> None:
    subject, run = broken(value), Memory()
    outcome = fit(subject, [KEEP], classifier_world.data, steps=10, optim=AdamW(lr=1e-2, weight_decay=0.1), batch=12, run=run)
    assert outcome.steps == 2 and len(run.logged) == 2
    assert (
        outcome.stopped is not None and outcome.stopped.startswith("diverged: ") and "not finite at step 2" in outcome.stopped
    )
    assert "0.nll.retain" in outcome.stopped and "lr" in outcome.stopped
    reference = broken(1.0)
    fit(reference, [KEEP], classifier_world.data, steps=2, optim=AdamW(lr=1e-2, weight_decay=0.1), batch=12, run=Memory())
    assert torch.equal(subject.module.scale, reference.module.scale)


# ---------------------------------------------------------------------- bf16


@pytest.mark.parametrize(("lr", "share"), [(1e-6, 0.02), (5e-6, 0.08), (1e-5, 0.16), (5e-5, 0.57), (1e-4, 0.88)])
def test_the_share_of_bf16_weights_that_a_step_changes(lr: float, share: float) -> None:
    weights = (0.02 * torch.randn(1_000_000, generator=rng(0, "weights"))).to(torch.bfloat16)
    assert bf16_share_moving(weights, lr) == pytest.approx(share, abs=0.02)


def test_bf16_weights_with_a_small_step_are_warned_about(lm_world: Any) -> None:
    def said(lr: float) -> list[str]:
        subject, run = lm_world.make(), Memory()
        subject.module.to(torch.bfloat16)
        fit(subject, [KEEP], lm_world.data, steps=1, optim=AdamW(lr=lr), run=run)
        return [text for text in run.said if text.startswith("warning")]

    (warning,) = said(1e-5)
    share = int(warning.split(" changes only ")[1].split("%")[0])
    assert abs(share - 16) <= 2 and "1e-05" in warning and "float32" in warning
    assert said(1e-3) == []


def test_a_cached_reference_has_the_precision_of_the_policy(lm_world: Any) -> None:
    """Under autocast the ratio still starts at 1: NPO at 13.8629, as far as the order of sums allows."""
    run = Memory()
    fit(
        lm_world.make(), [Weighted(term=NPO(beta=0.1))], lm_world.data, steps=1, optim=SGD(lr=1e-6), batch=12,
        reference="start", parallel=Parallel(precision="bf16"), run=run,
    )  # fmt: skip
    assert run.logged[0]["0.npo.forget"] == pytest.approx(20 * math.log(2), abs=1e-4)


# ---------------------------------------------------------------------- what is said and divided


def test_the_gradient_ratio_is_said_before_the_first_step(lm_world: Any) -> None:
    subject, run = lm_world.make(), Memory()
    norms = {}
    for role, sign in (("forget", -1), ("retain", 1)):
        batch = subject.collate([subject.encode(s) for s in lm_world.data[role]])
        like = subject.likelihood(batch)
        grads = torch.autograd.grad(sign * like.nll_B.sum() / like.n_B.sum(), list(subject.module.parameters()))
        norms[role] = float(torch.stack([g.norm() for g in grads]).norm())
    fit(subject, [Weighted(term=Ascent(), weight=3.0), KEEP], lm_world.data, steps=1, optim=SGD(), batch=12, run=run)
    assert run.said[0].startswith("gradient norms at the start: forget : retain = ")
    shown = float(run.said[0].split("forget : retain = ")[1].split(" ")[0])
    assert shown == pytest.approx(3 * norms["forget"] / norms["retain"], rel=1e-2)
    assert run.logged[0]["grad_norm.forget"] == pytest.approx(3 * norms["forget"], rel=1e-3)
    assert run.logged[0]["step"] == 0 and [line["step"] for line in run.logged] == [0, 1]


def test_a_term_that_starts_at_zero_has_no_absurd_ratio(lm_world: Any) -> None:
    run = Memory()
    fit(lm_world.make(), [PUSH, Weighted(term=KL())], lm_world.data, steps=1, optim=SGD(), reference="start", run=run)
    assert run.said[0].startswith("gradient norms at the start: retain = 0 (forget ")


def test_saying_the_ratio_changes_nothing(classifier_world: Any) -> None:
    """Two roles of which one weighs nothing train as one role does: the look before the first step leaves no trace."""

    def trained(objective: list[Weighted]) -> list[torch.Tensor]:
        subject = classifier_world.make()
        fit(subject, objective, classifier_world.data, steps=3, optim=AdamW(lr=1e-2), batch=5, run=Memory())
        return list(subject.module.parameters())

    alone, watched = trained([KEEP]), trained([KEEP, Weighted(term=Ascent(), weight=0.0)])
    assert all(torch.equal(a, b) for a, b in zip(alone, watched, strict=True))


def test_a_micro_batch_is_divided_by_the_counts_of_the_whole(lm_world: Any) -> None:
    """Rows, tokens, and the alternatives' tokens of the global batch, whatever `micro` is."""
    subject, rows = lm_world.make(), lm_world.data["forget"]
    for micro in (None, 1, 2, 5):
        loader = Loader(subject, "forget", rows, lm_world.data.alternatives, rows=5, seed=0, micro=micro)
        ids = {r.id for r in loader.rows_at(0)}
        own = sum(len(subject.answer_ids(s)) for s in rows if s.id in ids)
        refusals = sum(len(subject.answer_ids(lm_world.data.alternatives[i])) for i in ids)
        assert loader.count_at(0, NLL(per="row")) == loader.count_at(0, NPO()) == len(ids) == 4
        assert loader.count_at(0, NLL()) == own != refusals
        assert loader.count_at(0, Idk()) == refusals
        sizes = [m.num_rows for m in loader.at(0)]
        assert sum(sizes) == 4 and max(sizes) <= (micro or 4)


def test_losses_of_roles_add_up_with_their_weights(lm_world: Any) -> None:
    run = Memory()
    fit(
        lm_world.make(),
        [Weighted(term=Ascent(), weight=0.5), Weighted(term=NLL(), weight=2.0)],
        lm_world.data,
        steps=2,
        optim=SGD(),
        run=run,
    )
    for line in run.logged[1:]:
        assert line["loss"] == pytest.approx(line["0.ascent.forget"] + line["1.nll.retain"])
        assert line["0.ascent.forget"] < 0 < line["1.nll.retain"]


# ---------------------------------------------------------------------- what users get wrong


def test_an_unknown_role_names_the_nearest(classifier_world: Any) -> None:
    with pytest.raises(UserError, match=r"data has no role 'retian' \(did you mean 'retain'\?\)"):
        fit(
            classifier_world.make(),
            [Weighted(term=NLL(role="retian"))],
            classifier_world.data,
            steps=1,
            optim=SGD(),
            run=Memory(),
        )


def test_an_empty_role_is_named(classifier_world: Any) -> None:
    data = classifier_world.data.with_role("retain", [])
    with pytest.raises(UserError, match="role 'retain' is empty"):
        fit(classifier_world.make(), [KEEP], data, steps=1, optim=SGD(), run=Memory())


def test_a_batch_that_cannot_be_split_over_the_processes_is_named(classifier_world: Any) -> None:
    with pytest.raises(UserError, match="a batch of 3 row.s. cannot be split over 4 processes"):
        Loader(classifier_world.make(), "forget", classifier_world.data["forget"], None, rows=3, seed=0, world=4)


def test_a_row_that_does_not_fit_is_named(lm_world: Any) -> None:
    long = Sample("long-7", {"question": "Why?", "answer": "because " * 600})
    with pytest.raises(UserError, match="row long-7: .* exceed the context of 512"):
        lm_world.make().encode(long)


def test_a_row_without_text_is_named(lm_world: Any) -> None:
    with pytest.raises(UserError, match="row nothing-1: its text is empty"):
        lm_world.make().encode(Sample("nothing-1", {"text": ""}))


def test_answers_end_at_the_chat_templates_end_of_turn(lm_world: Any) -> None:
    """A model whose answers close with a token of their own must stop at it, not at EOS alone."""
    subject = TinyLM(width=32, depth=1, heads=2, vocab=300).load(lm_world.data, 0)
    subject.tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    subject.module.resize_token_embeddings(len(subject.tokenizer))
    turns = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|turn|>{% endfor %}"
    subject.tokenizer.chat_template = turns + "{% if add_generation_prompt %}assistant: {% endif %}"
    rows = tuple(Sample(f"r{i}", {"question": q, "answer": "Red."}) for i, q in enumerate(("Which colour?", "What?")))
    assert subject.closing_id == subject.answer_ids(rows[0])[-1] != subject.tokenizer.eos_token_id
    fit(subject, [KEEP], Bundle({"retain": rows}), steps=60, optim=AdamW(lr=1e-2), run=Memory())
    assert next(iter(subject.generate(rows))) == ["Red.", "Red."]


# ---------------------------------------------------------------------- checkpoints


def test_a_checkpoint_gives_back_what_it_was_given(tmp_path: Path) -> None:
    tensors = {
        "w|a": torch.randn(3, 4, generator=rng(0, "t")),
        "o|a|step": torch.tensor(7.0),
        "b": torch.tensor([1], dtype=torch.int64),
    }
    checkpoint.save(tmp_path / "deep" / "c.safetensors", tensors, step=3, memory=[{"start": 0.1}], stopped=None)
    loaded, state = checkpoint.load(tmp_path / "deep" / "c.safetensors")
    assert loaded.keys() == tensors.keys() and all(
        torch.equal(loaded[k], v) and loaded[k].dtype == v.dtype for k, v in tensors.items()
    )
    assert state == {"step": 3, "memory": [{"start": 0.1}], "stopped": None}
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["c.safetensors"]


def test_a_checkpoint_below_a_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="could not be written .*; what was saved before is untouched"):
        checkpoint.save(tmp_path / "taken" / "c.safetensors", {"w": torch.ones(1)}, step=1)


def test_a_checkpoint_that_cannot_take_its_place_leaves_the_earlier_one(tmp_path: Path, classifier_world: Any) -> None:
    """The temporary file cannot be written: the run fails, what was saved before can be resumed from."""
    options = {"objective": [KEEP], "data": classifier_world.data, "optim": SGD(), "checkpoint_every": 2}
    fit(classifier_world.make(), steps=4, run=Memory(folder=tmp_path), **options)
    saved = (tmp_path / "checkpoint.safetensors").read_bytes()
    (tmp_path / "checkpoint.tmp").mkdir()
    with pytest.raises(UserError, match="checkpoint.safetensors: could not be written"):
        fit(classifier_world.make(), steps=8, run=Memory(folder=tmp_path), **options)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == saved
    (tmp_path / "checkpoint.tmp").rmdir()
    run = Memory(folder=tmp_path)
    assert fit(classifier_world.make(), steps=8, run=run, **options).steps == 8
    assert run.said[0] == "resumed at step 4"


def test_a_checkpoint_where_a_folder_stands_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "c.safetensors").mkdir()
    with pytest.raises(UserError, match="could not be written"):
        checkpoint.save(tmp_path / "c.safetensors", {"w": torch.ones(1)}, step=1)
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"], "no temporary file is left behind"


def test_without_a_folder_nothing_is_written(classifier_world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    guards = [UtilityBudget(every=1)]
    fit(
        classifier_world.make(),
        [KEEP],
        classifier_world.data,
        steps=3,
        optim=SGD(),
        guards=guards,
        checkpoint_every=1,
        run=Memory(),
    )
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- scoring


def test_scores_do_not_depend_on_the_company(lm_world: Any) -> None:
    subject, rows = lm_world.make(), lm_world.data["forget"]
    together = nll_by_id(subject, rows)
    for row in rows:
        ((nll, n),) = nll_by_id(subject, [row]).values()
        assert together[row.id] == (pytest.approx(nll, rel=1e-4), n)


def test_scoring_leaves_the_mode_and_the_gradients_alone(world: Any) -> None:
    subject = world.make()
    subject.call.train()
    first, second = nll_by_id(subject, world.data["forget"]), nll_by_id(subject, world.data["forget"])
    assert first == second and subject.call.training
    assert all(p.grad is None for p in subject.module.parameters())
