"""Every attack that the catalog lists: its name, its rows, its seed, and what it leaves of the model and of the data."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from amends.core import catalog
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.protocols import Attack
from amends.core.spec import build_use
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.metrics.accuracy import Accuracy
from amends.metrics.evaluation import Evaluation
from amends.metrics.memorisation import ExtractionStrength
from amends.metrics.probability import Probability
from amends.metrics.rouge import Rouge

ATTACKS = [entry.name for entry in catalog.list_kind("attacks")]
QUICK = {"relearn": {"steps": 2}, "probe": {"steps": 2}}
SETTINGS: list[dict[str, Any]] = [
    *({"use": name, **QUICK.get(name, {})} for name in ATTACKS),
    {"use": "relearn", "steps": 2, "rows": 3, "order": "shortest"},
    {"use": "relearn", "steps": 2, "role": "retain"},
    {"use": "relearn", "steps": 2, "share": 0.125},
    {"use": "quantise", "kind": "8bit"},
    {"use": "quantise", "kind": "fp4"},
    {"use": "prefix", "kind": "affirm"},
    {"use": "few_shot", "shots": 2, "shown": "forget", "pick": "similar"},
    {"use": "paraphrase", "by": "rule"},
    {"use": "probe", "at": 0, "steps": 2},
    {"use": "logit_lens", "at": 0},
]
OF_TEXT = {"prefix", "few_shot", "paraphrase", "probe", "logit_lens"}
METRICS = (Probability(), ExtractionStrength(role="forget"), Accuracy(), Rouge())


@pytest.fixture(scope="module")
def data(lm_world: Any) -> Bundle:
    """The language model's world with a second wording for each row."""
    roles = {
        role: tuple(Sample(s.id, {**s.data, "paraphrased_question": f"Say: {s.data['question']}"}) for s in rows)
        for role, rows in lm_world.data.roles.items()
    }
    return Bundle(roles, lm_world.data.alternatives)


def label(values: dict[str, Any]) -> str:
    return "-".join(str(v) for v in values.values())


def test_the_catalog_was_enumerated() -> None:
    assert {"relearn", "quantise", "prefix", "few_shot", "paraphrase", "probe", "logit_lens"} <= set(ATTACKS)
    assert len(ATTACKS) >= 7 and set(ATTACKS) >= OF_TEXT


def test_names_are_valid_begin_with_the_attack_and_differ_between_settings() -> None:
    names = {}
    for values in SETTINGS:
        attack = build_use("attacks", values, "attack")
        assert isinstance(attack, Attack)
        assert re.fullmatch(r"[A-Za-z0-9_-]+", attack.name)
        assert attack.name.partition("-")[0] == values["use"]
        names[attack.name] = values
    assert len(names) == len(SETTINGS)


@pytest.mark.parametrize("values", SETTINGS, ids=label)
def test_an_attack_keeps_ids_and_data_leaves_a_finite_model_and_repeats_itself(
    values: dict[str, Any], data: Bundle, lm_world: Any
) -> None:
    attack, before, print_before = build_use("attacks", values, "attack"), dict(data.roles), data.fingerprint()
    attack.objective_on(data)
    found = []
    for _ in range(2):
        subject = lm_world.make()
        weights = [p.clone() for p in subject.module.parameters()]
        changed = attack(subject, data, Memory(seed=3))
        read = data if changed is None else changed
        assert {r: [s.id for s in rows] for r, rows in read.roles.items()} == {
            r: [s.id for s in rows] for r, rows in data.roles.items()
        }
        assert all(p.isfinite().all() for p in subject.module.parameters())
        now = list(subject.module.parameters())
        same = len(now) == len(weights) and all(map(torch.equal, now, weights))
        assert same or not attack.keeps_weights
        assert not same or changed is not None
        evaluation = Evaluation(subject, read, max_new_tokens=3)
        found.append([m.measure(evaluation).scores for m in METRICS])
    assert found[0] == found[1]
    assert all(0 <= score <= 1 for scores in found[0] for score in scores.values())
    assert data.roles == before and data.fingerprint() == print_before


@pytest.mark.parametrize("values", SETTINGS, ids=label)
def test_what_an_attack_was_given_is_known_without_a_model(values: dict[str, Any], data: Bundle) -> None:
    attack = build_use("attacks", values, "attack")
    if not hasattr(attack, "held"):
        assert values["use"] != "relearn"
        return
    held = attack.held(data, 3)
    assert held and held == attack.held(data, 3)
    assert held <= {s.id for s in data[attack.role]}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_run_on_every_subject_or_say_before_the_run_that_they_need_text(world: Any, name: str) -> None:
    if world.kind == "causal_lm":
        return
    attack = build_use("attacks", {"use": name, **QUICK.get(name, {})}, "attack")
    if name in OF_TEXT:
        with pytest.raises(UserError, match=r"row \w+-000: (has no question|is no text)"):
            attack.objective_on(world.data)
        return
    attack.objective_on(world.data)
    subject = world.make()
    assert attack(subject, world.data, Memory()) is None
    score = Probability().measure(Evaluation(subject, world.data))
    assert torch.tensor(list(score.scores.values())).isfinite().all()


@pytest.mark.parametrize("name", ATTACKS)
def test_a_role_that_the_data_lacks_is_found_before_the_run(name: str) -> None:
    if name == "quantise":
        return
    with pytest.raises(UserError, match="data has no role"):
        build_use("attacks", {"use": name}, "attack").objective_on(Bundle({"other": ()}))
