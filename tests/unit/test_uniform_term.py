"""The uniform target: its value by hand, its optimum, and that nothing but the answer's tokens counts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.spec import Weighted
from amends.core.types import Batch
from amends.engine.fit import fit
from amends.engine.optim import AdamW
from amends.engine.view import RoleView
from amends.subjects.classifier import Classifier
from amends.terms.uniform import Uniform


def table(logits: list[list[float]]) -> tuple[Classifier, Batch]:
    """A classifier that gives these logits, one row each."""
    module = torch.nn.Linear(len(logits), len(logits[0]), bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor(logits).T)
    rows = torch.eye(len(logits))
    batch = Batch(tuple(map(str, range(len(logits)))), {"image": rows, "label": torch.zeros(len(logits), dtype=torch.long)})
    return Classifier(module), batch


def value(logits: list[list[float]]) -> list[float]:
    """The term of each row."""
    subject, batch = table(logits)
    return Uniform()(RoleView(subject, batch, len(batch), None)).total_B.tolist()


def test_by_hand() -> None:
    p = (0.5, 0.25, 0.25)
    want = -sum(math.log(x) for x in p) / 3
    assert value([[math.log(x) for x in p]]) == pytest.approx([want])
    assert value([[math.log(x) + 7.0 for x in p]]) == pytest.approx([want], rel=1e-5)  # logits have no origin


def test_the_least_value_is_the_logarithm_of_the_vocabulary() -> None:
    flat, near, far = value([[0.0] * 5, [0.1, 0.0, 0.0, 0.0, 0.0], [9.0, 0.0, 0.0, 0.0, 0.0]])
    assert flat == pytest.approx(math.log(5))
    assert flat < near < far


def test_prompt_and_padding_do_not_count(lm_world: Any) -> None:
    """The released code's mean over every position fails here: rows of one batch pad each other."""
    subject = lm_world.make()
    rows = [subject.encode(s) for s in sorted(lm_world.data["retain"], key=lambda s: len(s.data["answer"]))]
    short, long = rows[0], rows[-1]
    assert long.size > short.size + 3

    def total(*encoded: object) -> list[float]:
        batch = subject.collate(list(encoded))
        return Uniform()(RoleView(subject, batch, len(batch), None)).total_B.tolist()

    assert total(short, long) == pytest.approx([total(short)[0], total(long)[0]], rel=1e-5)
    batch = subject.collate([short, long])
    logits = subject.module(batch["input_ids"]).logits.detach()
    ce = logits.logsumexp(-1) - logits.mean(-1)
    by_hand = [float(ce[i, :-1][batch["supervised"][i, 1:]].sum()) for i in range(2)]
    assert total(short, long) == pytest.approx(by_hand, rel=1e-5)


def test_the_mean_is_over_tokens_or_over_rows(lm_world: Any) -> None:
    subject = lm_world.make()
    batch = subject.collate([subject.encode(s) for s in lm_world.data["retain"]])
    by_token, by_row = (Uniform(per=per)(RoleView(subject, batch, len(batch), None)) for per in ("token", "row"))
    assert torch.equal(by_token.count_B, subject.count(batch))
    assert torch.allclose(by_row.total_B, by_token.total_B / by_token.count_B)


def test_training_on_it_makes_a_model_indifferent(lm_world: Any) -> None:
    subject, run = lm_world.make(), Memory()
    fit(subject, [Weighted(term=Uniform())], lm_world.data, steps=30, optim=AdamW(lr=1e-2), run=run)
    losses = [line["loss"] for line in run.logged if line["step"] > 0]
    floor = math.log(subject.module.config.vocab_size)
    assert floor <= losses[-1] < floor + 0.05
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("world", ["denoiser"], indirect=True)
def test_a_denoiser_has_nothing_to_be_indifferent_about(world: Any) -> None:
    with pytest.raises(UserError, match="prediction over words or classes"):
        fit(world.make(), [Weighted(term=Uniform())], world.data, steps=1, optim=AdamW(), run=Memory())
