"""Controls of the attacks: each brings back what was only hidden, and nothing from a model that never knew it.

The original has been asked in every form that an attack uses (plain, with words in its mouth, after other questions, in
other words). `hidden` refuses in the plain form alone, `light` had a few steps of ascent, and `deep` is the original with
a block more behind it, which alone was trained to forget.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from amends.attack.few_shot import FewShot
from amends.attack.logit_lens import LogitLens
from amends.attack.paraphrase import Paraphrase
from amends.attack.prefix import Prefix
from amends.attack.probe import Probe
from amends.attack.quantise import BLOCK, Quantise, linear_layers
from amends.attack.relearn import Relearn
from amends.core.context import Memory
from amends.core.spec import Weighted
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.data.facts import Facts
from amends.engine.fit import fit
from amends.engine.optim import AdamW
from amends.metrics.accuracy import Accuracy
from amends.metrics.evaluation import Evaluation
from amends.metrics.probability import Probability
from amends.metrics.recovered import recovered
from amends.subjects.tiny import TinyLM
from amends.terms.ascent import Ascent
from amends.terms.nll import NLL
from amends.train.plain import Train

WORDED = {"prefix": {"kind": "sure"}, "few_shot": {"shots": 2}, "paraphrase": {}}
CLASSES = {"prefix": Prefix, "few_shot": FewShot, "paraphrase": Paraphrase}
MODEL = TinyLM(width=40, depth=2, heads=2, vocab=512)
STRONG = AdamW(lr=5e-4)


def worded(name: str, role: str = "forget") -> Any:
    """An attack that asks in another way."""
    return CLASSES[name](role=role, **WORDED[name])


@pytest.fixture(scope="module")
def data() -> Bundle:
    """Six rows to forget, and what the models are trained on: each row in every form, and refusals."""
    plain = Facts(authors=8, questions=3, forget=2, holdout=0).load(0)
    subject, roles = MODEL.load(plain, 0), dict(plain.roles)
    for role in ("forget", "retain"):
        forms = [worded(name, role)(subject, plain, Memory())[role] for name in WORDED]
        roles[f"{role}-forms"] = tuple(Sample(f"{s.id}-{i}", s.data) for i, rows in enumerate(forms) for s in rows)
    roles["refused"] = tuple(plain.alternatives[s.id] for s in plain["forget"])
    return Bundle(roles, plain.alternatives)


def trained(data: Bundle, steps: int, *roles: str) -> Any:
    """A model of its own."""
    subject = MODEL.load(data, 0)
    optim = AdamW(lr=1e-2, warmup=0.1, schedule="cosine")
    Train(on=roles, steps=steps, batch=24, optim=optim)(subject, data, Memory())
    return subject


def twin(subject: Any) -> Any:
    """The same model once more, to be attacked."""
    other = copy.copy(subject)
    other.adopt(copy.deepcopy(subject.call))
    return other


@pytest.fixture(scope="module")
def original(data: Bundle) -> Any:
    """Knows every row in every form."""
    return trained(data, 160, "forget", "retain", "forget-forms", "retain-forms")


@pytest.fixture(scope="module")
def retrained(data: Bundle) -> Any:
    """Never saw the forget rows."""
    return trained(data, 80, "retain", "retain-forms")


@pytest.fixture(scope="module")
def hidden(original: Any, data: Bundle) -> Any:
    """Refuses in the plain form alone."""
    subject = twin(original)
    objective = [Weighted(term=NLL(role=role)) for role in ("refused", "forget-forms", "retain")]
    fit(subject, objective, data, steps=50, optim=AdamW(lr=4e-3), batch=18, run=Memory())
    return subject


@pytest.fixture(scope="module")
def light(original: Any, data: Bundle) -> Any:
    """A few steps of ascent and retention."""
    subject = twin(original)
    objective = [Weighted(term=Ascent(role="forget")), Weighted(term=NLL(role="retain"))]
    fit(subject, objective, data, steps=10, optim=AdamW(lr=5e-4), batch=8, run=Memory())
    return subject


@pytest.fixture(scope="module")
def deep(original: Any, data: Bundle) -> Any:
    """The original and one more block, which begins as one that changes nothing and alone learns to refuse."""
    subject = twin(original)
    model = subject.module
    more = copy.deepcopy(model.model.layers[-1])
    more.self_attn.layer_idx = 2
    nn.init.zeros_(more.self_attn.o_proj.weight)
    nn.init.zeros_(more.mlp.down_proj.weight)
    model.model.layers.append(more)
    model.config.num_hidden_layers = 3
    model.requires_grad_(False)
    more.requires_grad_(True)
    fit(subject, [Weighted(term=NLL(role="refused"))], data, steps=30, optim=AdamW(lr=1e-2), batch=18, run=Memory())
    model.requires_grad_(True)
    return subject


def read(subject: Any, data: Bundle, metric: Any) -> Any:
    """One measurement."""
    return metric.measure(Evaluation(subject, data, max_new_tokens=20))


def came_back(attack: Any, subject: Any, original: Any, data: Bundle, metric: Any) -> dict[str, Any]:
    """What an attack brings back to a twin of a subject."""
    attacked = twin(subject)
    rows = attack(attacked, data, Memory()) or data
    after = read(attacked, rows, metric)
    held = attack.held(data, 0) if hasattr(attack, "held") else frozenset()
    unseen = replace(after, scores={i: s for i, s in after.scores.items() if i not in held})
    return recovered(read(original, data, metric), read(subject, data, metric), unseen)


@pytest.mark.parametrize("name", WORDED)
def test_another_way_of_asking_finds_what_is_hidden_in_one_wording(
    name: str, original: Any, retrained: Any, hidden: Any, data: Bundle
) -> None:
    accuracy = Accuracy()
    assert [read(s, data, accuracy).value for s in (original, hidden, retrained)] == [1.0, 0.0, 0.0]
    assert came_back(worded(name), hidden, original, data, accuracy)["value"] == 1.0
    assert came_back(worded(name), retrained, original, data, accuracy)["value"] == 0.0
    assert came_back(worded(name), hidden, original, data, Probability())["value"] > 0.8
    assert came_back(worded(name), retrained, original, data, Probability())["value"] < 0.02


def test_relearning_is_faster_than_learning_and_reaches_rows_the_attacker_does_not_have(
    original: Any, retrained: Any, hidden: Any, light: Any, data: Bundle
) -> None:
    full, few = Relearn(steps=5, optim=STRONG), Relearn(rows=3, steps=5, optim=STRONG)
    assert few.held(data, 0) < {s.id for s in data["forget"]}
    for subject in (hidden, light):
        attacked = twin(subject)
        full(attacked, data, Memory())
        assert read(attacked, data, Probability()).value > 0.9
        found = came_back(few, subject, original, data, Probability())
        assert found["n"] == 3 and found["value"] > 0.15
    assert came_back(few, retrained, original, data, Probability())["value"] < 0.05


def test_relearning_on_unrelated_rows_brings_back_what_a_few_steps_hid(
    original: Any, retrained: Any, light: Any, data: Bundle
) -> None:
    unrelated = Relearn(role="retain", steps=5, optim=STRONG)
    assert came_back(unrelated, light, original, data, Probability())["value"] > 0.3
    assert came_back(unrelated, retrained, original, data, Probability())["value"] < 0.02


def test_rounding_undoes_updates_below_half_a_step_exactly(original: Any, retrained: Any, data: Bundle) -> None:
    """The weights lie on the grid, and each moves against the forget answers by less than half the smallest step."""
    start, attack = twin(original), Quantise(kind="nf4")
    attack(start, data, Memory())
    unlearned = twin(start)
    batch = unlearned.collate([unlearned.encode(s) for s in data["forget"]])
    for _ in range(4):
        unlearned.module.zero_grad()
        unlearned.likelihood(batch).nll_B.sum().backward()
        pairs = zip(linear_layers(start.module, False), linear_layers(unlearned.module, False), strict=True)
        for grid, layer in pairs:
            nudge(grid.weight.data, layer.weight)
    assert read(start, data, Probability()).value > 0.9
    assert read(unlearned, data, Probability()).value < 0.4
    rounded = twin(unlearned)
    attack(rounded, data, Memory())
    assert max_change(start, unlearned) > max_change(start, rounded) == 0.0
    assert came_back(attack, unlearned, start, data, Probability())["value"] == 1.0
    assert abs(came_back(attack, retrained, original, data, Probability())["value"]) < 0.01


def nudge(grid_OI: torch.Tensor, weight: nn.Parameter) -> None:
    """Sets all but the largest weight of a block off the grid, up the gradient, by a little less than half of 0.0796."""
    assert weight.grad is not None
    grid = grid_OI.view(-1, BLOCK)
    largest = grid.abs().amax(1, keepdim=True)
    moved = grid + 0.039 * largest * weight.grad.view(grid.shape).sign() * (grid.abs() < largest)
    weight.data.copy_(moved.view(weight.shape))


def max_change(one: Any, other: Any) -> float:
    """The largest difference of two models' weights."""
    pairs = zip(one.module.parameters(), other.module.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def test_the_logit_lens_reads_in_front_of_a_block_that_hides(original: Any, retrained: Any, deep: Any, data: Bundle) -> None:
    assert read(deep, data, Probability()).value < 0.1
    assert came_back(LogitLens(at=2), deep, original, data, Probability())["value"] == 0.0  # nothing is cut
    found = came_back(LogitLens(at=1), deep, original, data, Probability())
    assert found["value"] == pytest.approx(1.0, abs=1e-5)  # with that block cut, it is the original again
    assert came_back(LogitLens(at=1), deep, original, data, Accuracy())["value"] == 1.0
    assert came_back(LogitLens(at=0), retrained, original, data, Probability())["value"] < 0.02


def test_a_probe_reads_in_front_of_a_block_that_hides_and_learns_nothing_of_the_answers(
    original: Any, retrained: Any, deep: Any, data: Bundle
) -> None:
    probe = Probe(at=1, steps=10, batch=18, optim=AdamW(lr=1e-3))
    assert came_back(probe, deep, original, data, Probability())["value"] > 0.8
    assert came_back(probe, retrained, original, data, Probability())["value"] < 0.02
    attacked = twin(deep)
    trunk = {n: p.clone() for n, p in attacked.module.named_parameters() if "layers" in n or "embed" in n}
    probe(attacked, data, Memory())
    now = dict(attacked.module.named_parameters())
    assert {n for n in trunk if n in now} == {n for n in trunk if ".2." not in n}
    assert all(torch.equal(now[n], p) for n, p in trunk.items() if n in now)
    assert not torch.equal(now["lm_head.weight"], now["model.embed_tokens.weight"])
