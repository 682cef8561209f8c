"""Membership by gradient norm and against a reference model: closed forms, autograd by hand, invariances, orientation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from amends.core.errors import UserError
from amends.core.protocols import Metric
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.engine.score import grad_norms
from amends.metrics.evaluation import Evaluation, Tokens
from amends.metrics.mia import Mia
from amends.runs.recipe import resolve
from amends.runs.stages import load_reading, save_reading
from amends.subjects.classifier import Classifier


def held(world: Any) -> Bundle:
    """The world's rows as members and holdout."""
    return Bundle({"forget": world.data["forget"], "holdout": world.data["retain"]})


class TestGradNorm:
    def test_of_a_linear_classifier_in_closed_form(self) -> None:
        """dL/dW = (p - y) x^T and dL/db = p - y, so the mean over the two tensors is |p - y| (|x| + 1) / 2."""
        module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        image = torch.tensor([[[1.0, -2.0], [0.5, 3.0]]])
        found = dict(grad_norms(Classifier(module), [Sample("a", {"image": image, "label": 2})]))
        with torch.no_grad():
            error = module(image[None]).softmax(-1)[0] - torch.tensor([0.0, 0.0, 1.0])
        assert found["a"] == pytest.approx(float(error.norm() * (image.norm() + 1) / 2), rel=1e-5)

    def test_is_autograd_by_hand(self, world: Any) -> None:
        subject = world.make()
        found = Evaluation(subject, world.data).grad_norms(world.data["forget"][:3])
        for sample in world.data["forget"][:3] if world.kind != "denoiser" else ():  # its noise is drawn inside
            if world.kind == "causal_lm":
                prompt, answer = subject.prompt_ids(sample), subject.answer_ids(sample)
                logits = subject.module(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
                loss = nn.functional.cross_entropy(logits, torch.tensor(answer))
            else:
                logits = subject.module(sample.data["image"][None])
                loss = nn.functional.cross_entropy(logits, torch.tensor([sample.data["label"]]))
            subject.module.zero_grad()
            loss.backward()
            norms = [float(p.grad.pow(2).sum().sqrt()) for p in subject.module.parameters()]
            assert found[sample.id] == pytest.approx(np.mean(norms), rel=1e-4)
        assert all(v > 0 for v in found.values())

    def test_neither_the_order_nor_the_other_rows_matter(self, world: Any) -> None:
        rows = world.data["forget"][:4]
        plain = Evaluation(world.make(), world.data).grad_norms(rows)
        turned = Evaluation(world.make(), world.data).grad_norms(rows[:1:-1])
        assert turned == pytest.approx({s.id: plain[s.id] for s in rows[:1:-1]}, rel=1e-5)
        assert list(turned) == [s.id for s in rows[:1:-1]]

    def test_frozen_weights_count_and_everything_is_left_as_it_was(self, world: Any) -> None:
        subject, frozen = world.make(), world.make()
        first = next(frozen.module.parameters())
        first.requires_grad_(False)
        frozen.call.train()
        rows = world.data["forget"][:2]
        assert dict(grad_norms(frozen, rows)) == pytest.approx(dict(grad_norms(subject, rows)))
        assert not first.requires_grad and all(p.requires_grad for p in list(frozen.module.parameters())[1:])
        assert frozen.call.training and all(p.grad is None for p in frozen.module.parameters())

    def test_dropout_is_no_part_of_the_score(self) -> None:
        module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3)).train()
        sample = Sample("a", {"image": torch.ones(1, 2, 2), "label": 0})
        values = {v for _ in range(4) for _, v in grad_norms(Classifier(module), [sample])}
        assert len(values) == 1 and module.training

    def test_a_row_that_was_learnt_pulls_less(self, classifier_world: Any) -> None:
        subject, data = classifier_world.make(), held(classifier_world)
        optimiser = torch.optim.Adam(subject.module.parameters(), lr=0.02)
        batch = subject.collate([subject.encode(s) for s in data["forget"]])
        unlike = subject.collate([subject.encode(s.with_("x", label=(s.data["label"] + 1) % 4)) for s in data["holdout"]])
        for _ in range(200):
            optimiser.zero_grad()
            (subject.likelihood(batch).nll_B.mean() + subject.likelihood(unlike).nll_B.mean()).backward()
            optimiser.step()
        found = Mia(attack="grad_norm").measure(Evaluation(subject, data), None)
        assert (found.name, found.better, found.n) == ("mia.grad_norm", "closer", 24)
        assert found.value > 0.9

    def test_measuring_again_needs_no_model(self, world: Any, tmp_path: Path) -> None:
        metric, first = Mia(attack="grad_norm"), Evaluation(world.make(), held(world))
        measured = metric.measure(first, None)
        save_reading(first, tmp_path / "reading.json.gz", "key")
        again = Evaluation(None, held(world))
        assert load_reading(again, tmp_path / "reading.json.gz", "key")
        assert metric.measure(again, None) == measured

    def test_every_kind_of_subject_has_a_likelihood_to_attack(self, world: Any) -> None:
        other = Evaluation(world.make(1), held(world))
        for attack in ("loss", "min_k", "grad_norm", "reference"):
            assert 0 <= Mia(attack=attack).measure(Evaluation(world.make(), held(world)), other).value <= 1  # type: ignore[arg-type]


def rows(**losses: list[float]) -> Evaluation:
    """A model with these losses, three tokens a row."""
    roles = {role: tuple(Sample(f"{role}{i}", {"text": "t"}) for i in range(len(v))) for role, v in losses.items()}
    tokens = {
        f"{role}{i}": Tokens(np.array([-v, -v - 1, -v + 1])) for role, values in losses.items() for i, v in enumerate(values)
    }
    return Evaluation(None, Bundle(roles), _tokens=tokens)


class TestReference:
    metric = Mia(attack="reference")

    def test_by_hand(self) -> None:
        mine, base = rows(forget=[1.0, 4.0], holdout=[3.0, 5.0]), rows(forget=[3.0, 4.5], holdout=[3.0, 5.25])
        found = self.metric.measure(mine, base)
        assert found.scores == pytest.approx({"forget0": -2.0, "forget1": -0.5, "holdout0": 0.0, "holdout1": -0.25})
        assert (found.value, found.name) == (1.0, "mia.reference")
        assert Mia(attack="loss").measure(mine, None).value == 0.75  # the hard member hides among the others

    def test_the_reference_against_itself_tells_nothing(self) -> None:
        one = rows(forget=[1.0, 4.0], holdout=[3.0, 5.0])
        found = self.metric.measure(one, one)
        assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)

    def test_how_hard_a_row_is_does_not_matter(self) -> None:
        rng = np.random.default_rng(0)
        values = {role: rng.normal(3, 1, 12) for role in ("forget", "holdout")}
        hard = {role: rng.normal(0, 5, 12) for role in values}
        base = {role: rng.normal(3, 1, 12) for role in values}
        plain = self.metric.measure(*(rows(**{r: v.tolist() for r, v in g.items()}) for g in (values, base)))
        harder = self.metric.measure(*(rows(**{r: (v + hard[r]).tolist() for r, v in g.items()}) for g in (values, base)))
        assert harder.value == plain.value and harder.low == plain.low

    def test_only_this_attack_needs_another_model(self) -> None:
        assert self.metric.needs_reference and not Mia().needs_reference
        assert isinstance(self.metric, Metric)
        with pytest.raises(UserError, match=r"mia\.reference compares with another model"):
            self.metric.measure(rows(forget=[1.0], holdout=[2.0]), None)

    def test_a_recipe_without_a_retrained_model_is_told(self) -> None:
        sets = ["measure=[{use: mia, attack: reference}, {use: mia}]", "headline=[]", "expect=[]", "attack=[]"]
        assert resolve("facts", "smoke", sets).recipe.measure[0].needs_reference
        with pytest.raises(UserError, match=r"measure\.0: mia\.reference compares with a retrained model"):
            resolve("facts", "smoke", [*sets, "stages.retrain="])
        resolve("facts", "smoke", [*sets, "stages.retrain=", "against=original"])
