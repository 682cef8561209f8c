"""The one-layer study by hand: counts of the data, the network on two patterns, gradients, hinges, ranks, pruned neurons."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from amends.attribution.random import Random
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.rng import rng
from amends.core.spec import Weighted
from amends.core.types import Sample
from amends.data.patterns import Patterns
from amends.engine.optim import SGD
from amends.metrics.evaluation import Evaluation
from amends.metrics.hinge import Hinge
from amends.metrics.neurons import NeuronNorm, Neurons
from amends.metrics.update_spectrum import UpdateSpectrum
from amends.subjects.one_layer import OneLayer, OneLayerTransformer, Vectors
from amends.subjects.tiny import TinyClassifier
from amends.terms.margin_hinge import MarginHinge
from amends.terms.npo import NPO
from amends.train.plain import Train
from amends.train.prune_neurons import PruneNeurons

SMALL = Patterns(dim=6, patterns=4, tokens=20, rows=64, test=20)
TRAIN = Train(on=("train",), loss=Weighted(term=MarginHinge()), steps=3, batch=32, optim=SGD(lr=0.1))


def subject_of(data: Any, neurons: int = 8, seed: int = 0) -> Any:
    return OneLayerTransformer(neurons=neurons).load(data, seed)


def parameters(subject: Any) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in subject.module.named_parameters()}


def batch_of(subject: Any, rows: Any) -> Any:
    return subject.collate([subject.encode(row) for row in rows])


def toy(scale: float) -> OneLayer:
    """Two patterns e_1 and e_2, two neurons that look for one each, attention exp(scale) for equal tokens."""
    module = OneLayer(2, 2)
    with torch.no_grad():
        for layer, times in ((module.query, scale), (module.key, 1.0), (module.value, 1.0), (module.output, 1.0)):
            layer.weight.copy_(times * torch.eye(2))
    return module


THREE_AND_ONE = torch.eye(2)[[0, 0, 0, 1]]


# ------------------------------------------------------------------------------------------------ data


def test_rows_have_the_patterns_the_majority_and_the_noise_that_were_asked_for() -> None:
    mu_Md, data = SMALL.system(0), SMALL.load(0)
    assert torch.allclose(mu_Md @ mu_Md.T, torch.eye(4), atol=1e-6)
    assert {r: len(rows) for r, rows in data.roles.items()} == {"train": 64, "test": 20, "relevant": 2}
    assert data.classes == ("-1", "+1") and sum(row.data["label"] for row in data["train"]) == 32
    others = torch.zeros(2)
    for row in (*data["train"], *data["test"]):
        which_L = (row.data["tokens"] @ mu_Md.T).argmax(1)
        counts = torch.bincount(which_L, minlength=4)
        own, other = (0, 1) if row.data["label"] == 1 else (1, 0)
        assert (counts[own], counts[other], counts.sum()) == (6, 3, 20)
        assert float((row.data["tokens"] - mu_Md[which_L]).norm(dim=1).max()) <= 0.05 + 1e-6
        others += counts[2:]
    assert 0.8 < float(others[0] / others[1]) < 1.25, "the others are drawn evenly"
    first = [int((row.data["tokens"] @ mu_Md.T).argmax(1)[0]) for row in data["train"]]
    assert len(set(first)) == 4, "tokens stand in no order"
    assert torch.equal(data["relevant"][1].data["tokens"][0], mu_Md[0]), "mu_1 speaks for +1"


def test_the_world_is_its_seeds() -> None:
    assert SMALL.load(0).fingerprint() == SMALL.load(0).fingerprint() != SMALL.load(1).fingerprint()
    assert replace(SMALL, noise=0.0).load(0)["train"][0].data["tokens"].isfinite().all()
    both = replace(SMALL, patterns=2, relevant=0.6, confusion=0.4).load(0)
    assert all(torch.isfinite(row.data["tokens"]).all() for row in both["train"])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"patterns": 7}, "7 orthonormal patterns do not fit into 6 dimensions"),
        ({"confusion": 0.3}, "6 of 20 tokens speak against a label and 6 for it"),
        ({"relevant": 0.9, "confusion": 0.2}, r"18 \+ 4 of 20 tokens, and no room"),
        ({"patterns": 2}, "and no other pattern for the rest"),
    ],
)
def test_shares_that_make_no_majority_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(SMALL, **wrong).load(0)


# ------------------------------------------------------------------------------------------------ network


@pytest.mark.parametrize(("scale", "score"), [(0.0, 0.5), (math.log(3), 0.6)])
def test_the_network_by_hand_on_two_patterns(scale: float, score: float) -> None:
    """Uniform attention: the context is (3/4, 1/4). exp(scale) = 3: a token e_1 sees (.9, .1), the one e_2 (.5, .5)."""
    logits = toy(scale)(THREE_AND_ONE[None])[0].detach()
    assert float(logits[1] - logits[0]) == pytest.approx(score / math.sqrt(2), rel=1e-5)
    assert float(logits.sum()) == pytest.approx(0, abs=1e-7)


def test_the_order_of_tokens_changes_nothing_and_the_opposite_row_the_sign() -> None:
    data = SMALL.load(0)
    module = subject_of(data).module
    tokens = torch.stack([row.data["tokens"] for row in data["test"]])
    order = torch.randperm(20, generator=rng(0, "test order"))
    assert torch.allclose(module(tokens), module(tokens[:, order]), atol=1e-6)
    swapped = toy(0.7)(THREE_AND_ONE[None].flip(-1))
    assert torch.allclose(swapped, -toy(0.7)(THREE_AND_ONE[None]), atol=1e-6)


def test_gradients_agree_with_finite_differences() -> None:
    data = SMALL.load(0)
    subject = OneLayerTransformer(neurons=6, xi=1.0, attention=0.5).load(data, 0)
    subject.module.double()
    batch = batch_of(subject, data["train"][:6])
    batch = replace(batch, tensors={**batch.tensors, "tokens": batch["tokens"].double()})
    loss = lambda: MarginHinge(role="train")(SimpleNamespace(policy=subject.likelihood(batch))).value  # noqa: E731
    params = dict(subject.module.named_parameters())
    exact = torch.autograd.grad(loss(), list(params.values()))
    for p, gradient in zip(params.values(), exact, strict=True):
        for place in ((0, 0), (2, 3), (5, 1)):
            with torch.no_grad():
                p[place] += 1e-6
                up = float(loss())
                p[place] -= 2e-6
                down = float(loss())
                p[place] += 1e-6
            assert (up - down) / 2e-6 == pytest.approx(float(gradient[place]), rel=1e-4, abs=1e-9)


def test_the_gradient_at_the_first_weights_has_rank_two() -> None:
    """On tokens without noise in 12 dimensions of 8 patterns: two directions, and a third of a tenth at most."""
    data = replace(SMALL, dim=12, patterns=8, tokens=40, rows=400, noise=0.0).load(0)
    subject = subject_of(data, neurons=100)
    like = subject.likelihood(batch_of(subject, data["train"]))
    loss = MarginHinge(role="train")(SimpleNamespace(policy=like)).value
    names = ("query", "key", "value", "output")
    for name, gradient in zip(names, torch.autograd.grad(loss, list(subject.module.parameters())), strict=True):
        values = torch.linalg.svdvals(gradient)
        assert float(values[2] / values[0]) < 0.1, name
        assert float(values[1] / values[0]) > 0.05 or name != "value", name


def test_first_weights_are_what_the_analysis_begins_with() -> None:
    data = SMALL.load(0)
    one, same, other = (parameters(subject_of(data, 400, seed)) for seed in (0, 0, 1))
    assert torch.equal(one["value.weight"], torch.eye(6))
    assert float((one["query.weight"] - 0.1 * torch.eye(6)).std()) == pytest.approx(0.01, rel=0.4)
    assert float(one["output.weight"].std()) == pytest.approx(0.01, rel=0.1)
    assert all(torch.equal(p, same[n]) for n, p in one.items()) and not torch.equal(one["key.weight"], other["key.weight"])
    module = subject_of(data).module
    assert module.sign.tolist() == pytest.approx([s / math.sqrt(8) for s in (1, -1) * 4])


def test_rows_that_do_not_fit_are_told_in_a_sentence(classifier_world: Any) -> None:
    with pytest.raises(UserError, match="use the data source `patterns`"):
        OneLayerTransformer().load(classifier_world.data, 0)
    with pytest.raises(UserError, match="row a: has no token vectors"):
        Vectors().encode(Sample("a", {"image": 1, "label": 0}))
    rows = [Vectors().encode(Sample(n, {"tokens": torch.zeros(k, 2), "label": 0})) for n, k in (("a", 1), ("b", 2))]
    with pytest.raises(UserError, match=r"rows a and b: tokens of \(1, 2\) and \(2, 2\)"):
        Vectors().collate(rows)
    hidden = subject_of(data := SMALL.load(0)).hidden(batch_of(subject_of(data), data["test"][:3]), -1)
    assert hidden.state_NC.shape == (3, 20 * 8)


# ------------------------------------------------------------------------------------------------ loss


def test_the_hinge_by_hand() -> None:
    data = SMALL.load(0)
    subject = subject_of(data)
    batch = batch_of(subject, data["train"][:5])
    like = subject.likelihood(batch)
    score_B = like.dist.logits_NV[:, 1] - like.dist.logits_NV[:, 0]
    by_hand = (1 - (2 * batch["label"] - 1) * score_B).clamp_min(0)
    assert torch.allclose(MarginHinge(role="train")(SimpleNamespace(policy=like)).total_B, by_hand)
    assert torch.allclose(like.nll_B, torch.log1p(torch.exp(-(2 * batch["label"] - 1) * score_B)), atol=1e-6)
    measured = Hinge(role="train").measure(Evaluation(subject, data.with_role("train", data["train"][:5])))
    assert measured.value == pytest.approx(float(by_hand.detach().mean()), rel=1e-5)
    assert (measured.name, measured.n, measured.better) == ("hinge.train", 5, "lower")


def test_training_learns_the_loss_it_is_given_and_none_that_compares(classifier_world: Any) -> None:
    data, run = SMALL.load(0), Memory()
    subject = subject_of(data)
    TRAIN(subject, data, run)
    first = subject_of(data)
    expected = Hinge(role="train").measure(Evaluation(first, data)).value
    assert run.logged[0]["loss"] == pytest.approx(expected, rel=0.01) and "0.marginhinge.train" in run.logged[0]
    assert torch.equal(parameters(first)["value.weight"], torch.eye(6)) and not torch.equal(
        parameters(subject)["value.weight"], torch.eye(6)
    )
    with pytest.raises(UserError, match="loss: NPO needs reference"):
        replace(TRAIN, loss=Weighted(term=NPO())).objective_on(data)


def test_once_every_row_leads_by_the_margin_nothing_moves() -> None:
    data = SMALL.load(0)
    subject = subject_of(data)
    before = parameters(subject)
    easy = replace(TRAIN, loss=Weighted(term=MarginHinge(delta=1e-6)), steps=1)
    with torch.no_grad():
        subject.module.output.weight.copy_(torch.stack([data["relevant"][1 - k % 2].data["tokens"][0] for k in range(8)]))
    grown = parameters(subject)
    easy(subject, data, Memory())
    assert all(torch.equal(p, grown[n]) for n, p in parameters(subject).items())
    assert not torch.equal(grown["output.weight"], before["output.weight"])


# ------------------------------------------------------------------------------------------------ rank and neurons


def evaluation(now: dict[str, Tensor], first: dict[str, Tensor], relevant: Tensor | None = None) -> Evaluation:
    rows = [
        Sample(f"r{i}", {"tokens": x[None], "label": i % 2}) for i, x in enumerate(relevant if relevant is not None else [])
    ]
    data = SMALL.load(0)
    data = replace(data, roles={"train": data["train"], **({"relevant": tuple(rows)} if rows else {})})
    return Evaluation(None, data, weights=lambda: now, first=lambda: first)


def test_the_spectrum_is_that_of_the_update_and_not_of_the_weights() -> None:
    eye = torch.eye(3)
    moved = torch.diag(torch.tensor([4.0, 2.0, 1.0]))
    known = evaluation({"a.weight": 100 * eye + moved}, {"a.weight": 100 * eye}, eye[:2])
    energy, after, on = (UpdateSpectrum(weight="a", says=says).measure(known) for says in ("energy", "next", "relevant"))
    assert energy.value == energy.low == pytest.approx(20 / 21) and after.value == pytest.approx(0.25)
    assert on.value == pytest.approx(20 / 21), "the two directions are the patterns"
    assert energy.scores == pytest.approx({"1": 1.0, "2": 0.5, "3": 0.25}) and energy.name == "update_energy.a"
    aside = evaluation({"a.weight": eye + moved}, {"a.weight": eye}, eye[1:])
    assert UpdateSpectrum(weight="a", says="relevant").measure(aside).value == pytest.approx(5 / 21), "rank is not direction"
    leaning = evaluation({"a.weight": eye + moved}, {"a.weight": eye}, torch.tensor([[1.0, 0, 0], [1.0, 1.0, 0]]))
    assert UpdateSpectrum(weight="a", says="relevant").measure(leaning).value == pytest.approx(20 / 21)


def test_what_is_pruned_has_not_moved_and_what_did_not_move_has_no_rank() -> None:
    first = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    pruned = evaluation({"a.weight": torch.tensor([[0.0, 0.0], [0.0, 3.0]])}, {"a.weight": first})
    assert UpdateSpectrum(weight="a").measure(pruned).scores == {"1": 1.0, "2": 0.0}
    still = evaluation({"a.weight": first}, {"a.weight": first})
    assert [UpdateSpectrum(weight="a", says=s).measure(still).value for s in ("energy", "next")] == [1.0, 0.0]
    with pytest.raises(UserError, match="no matrix called 'b'"):
        UpdateSpectrum(weight="b").measure(still)
    with pytest.raises(UserError, match="weights are not kept here"):
        UpdateSpectrum().measure(Evaluation(None, still.data))


def test_neurons_fall_into_groups_by_their_first_length() -> None:
    first = torch.eye(2)[[0, 0, 1, 1]]
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 3.0], [4.0, 4.0]])
    weights = {"output.weight": rows, "value.weight": torch.eye(2)}
    known = evaluation(weights, {"output.weight": first, "value.weight": torch.eye(2)}, torch.eye(2))
    assert Neurons().measure(known).value == 0.5, "two of four are at most twice as long as the first median"
    assert Neurons(says="aligned").measure(known).value == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert NeuronNorm().measure(known).value == pytest.approx(2.5)
    assert NeuronNorm(quantile=1.0).measure(known).value == pytest.approx(math.sqrt(32))
    assert NeuronNorm(quantile=0.25).name == "neuron_norm.q25"
    turned = {**weights, "value.weight": torch.tensor([[0.0, 1.0], [1.0, 0.0]])}
    once = evaluation(turned, {"output.weight": first}, torch.tensor([[1.0, 0.0]]))
    assert Neurons(says="aligned").measure(once).value == pytest.approx((1 + math.sqrt(0.5)) / 2), (
        "read through the value matrix"
    )


@pytest.mark.parametrize("order", ["smallest", "largest"])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_pruning_removes_exactly_its_share_and_touches_nothing_else(order: Any, share: float) -> None:
    data = SMALL.load(0)
    subject = subject_of(data)
    before = parameters(subject)
    outcome = PruneNeurons(layer="output", share=share, order=order)(subject, data, Memory())
    after = parameters(subject)
    gone = (after["output.weight"] == 0).all(1)
    assert int(gone.sum()) == round(8 * share) and outcome.sparsity == share
    assert torch.equal(after["output.weight"][~gone], before["output.weight"][~gone])
    assert all(torch.equal(p, before[n]) for n, p in after.items() if n != "output.weight")
    lengths = before["output.weight"].norm(dim=1)
    if share:
        kept, lost = lengths[~gone], lengths[gone]
        assert lost.max() < kept.min() if order == "smallest" else lost.min() > kept.max()


def test_random_neurons_are_nested_and_biases_go_with_them(classifier_world: Any) -> None:
    data = SMALL.load(0)
    sets = []
    for share in (0.25, 0.5, 0.75):
        subject = subject_of(data)
        PruneNeurons(layer="output", share=share, by=Random())(subject, data, Memory())
        sets.append({i for i, row in enumerate(subject.module.output.weight) if not row.any()})
    assert sets[0] < sets[1] < sets[2] and [len(s) for s in sets] == [2, 4, 6]
    net = TinyClassifier(classes=4, width=4).load(classifier_world.data, 0)
    PruneNeurons(layer="0", share=0.5)(net, classifier_world.data, Memory())
    gone = (net.module[0].weight == 0).flatten(1).all(1)
    assert int(gone.sum()) == 2 and bool((net.module[0].bias[gone] == 0).all()) and bool((net.module[0].bias[~gone] != 0).all())
    with pytest.raises(UserError, match="no layer 'outputs' with neurons .did you mean 'output'"):
        PruneNeurons(layer="outputs", share=0.5).check_model(subject_of(data))
