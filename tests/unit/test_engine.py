"""The engine's parts: learning rates, bf16, what is said and divided, what users get wrong, scoring."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.rng import rng
from amends.core.spec import Weighted
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.engine.fit import fit
from amends.engine.guards import bf16_share_moving
from amends.engine.loader import Loader
from amends.engine.optim import SGD, AdamW, scheduled
from amends.engine.parallel import Parallel
from amends.engine.score import nll_by_id
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
