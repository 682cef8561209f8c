"""UA, RA, TA, ASR, MIA-efficacy and -privacy, and the disparity: worked by hand, and what the released code got wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from amends.core.errors import UserError
from amends.core.rng import stream_seed
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.metrics.accuracy import Accuracy
from amends.metrics.class_accuracy import ASR, RA, TA, UA
from amends.metrics.disparity import Disparity
from amends.metrics.evaluation import FEW_CLASSES, Evaluation, Tokens
from amends.metrics.mia import Mia
from amends.metrics.mia_efficacy import MiaEfficacy, MiaPrivacy, features, fitted, m_entropy
from amends.metrics.probability import Probability
from amends.subjects.classifier import Classifier

CLASSES = ("cat", "dog", "ship")


class Given(torch.nn.Module):
    """Logits are the first pixels of the image."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.flatten(1)[:, : self.classes]


def row(name: str, logits: list[float], label: int) -> Sample:
    return Sample(name, {"image": torch.tensor(logits).reshape(1, 1, -1), "label": label})


def evaluation(classes: int = 3, **roles: list[tuple[list[float], int]]) -> Evaluation:
    """A model that says exactly what each row asks for: (logits, label)."""
    rows = {r: tuple(row(f"{r}-{i}", logits, label) for i, (logits, label) in enumerate(found)) for r, found in roles.items()}
    return Evaluation(Classifier(Given(classes)), Bundle(rows, classes=CLASSES))


def sure(label: int, p: float = 0.9) -> list[float]:
    """Logits that give a label the probability p and the two others the same."""
    return [math.log(p if k == label else (1 - p) / 2) for k in range(3)]


RIGHT, WRONG = (sure(0), 0), (sure(1), 0)


# ---------------------------------------------------------------------- accuracies


def test_ua_ra_ta_and_asr_are_shares_of_rows_with_wilsons_interval() -> None:
    e = evaluation(forget=[RIGHT, WRONG, WRONG, WRONG], retain=[RIGHT, RIGHT], test=[RIGHT, WRONG], triggered=[RIGHT] * 5)
    found = {m.name: m.measure(e) for m in (UA(), RA(), TA(), ASR())}
    assert {n: m.value for n, m in found.items()} == {"ua.forget": 0.75, "ra.retain": 1.0, "ta.test": 0.5, "asr.triggered": 1.0}
    assert {m.better for n, m in found.items() if n != "asr.triggered"} == {"closer"} and found[
        "asr.triggered"
    ].better == "lower"
    bounds = binomtest(3, 4).proportion_ci(method="wilson")
    assert (found["ua.forget"].low, found["ua.forget"].high, found["ua.forget"].n) == (bounds.low, bounds.high, 4)
    assert found["ua.forget"].scores == {"forget-0": 0, "forget-1": 1, "forget-2": 1, "forget-3": 1}
    assert TA(role="test_retain").name == "ta.test_retain" and UA(role="test_forget").roles() == {"test_forget"}


def test_ua_is_one_minus_the_accuracy_that_every_recipe_knows() -> None:
    e = evaluation(forget=[RIGHT, WRONG, WRONG])
    assert Accuracy().measure(e).value == pytest.approx(1 - UA().measure(e).value) == pytest.approx(1 / 3)
    assert Probability().measure(e).value == pytest.approx((0.9 + 0.05 + 0.05) / 3, abs=1e-6)


def test_rows_without_a_class_are_refused(lm_world: Any) -> None:
    with pytest.raises(UserError, match="its rows have no class that this model could tell"):
        UA().measure(Evaluation(lm_world.make(), lm_world.data))
    with pytest.raises(UserError, match="is empty"):
        UA().measure(evaluation(forget=[]))


# ---------------------------------------------------------------------- the attackers' features


def test_the_five_features_by_hand() -> None:
    e = evaluation(forget=[([math.log(v) for v in (0.7, 0.2, 0.1)], 0), ([math.log(v) for v in (0.7, 0.2, 0.1)], 1)])
    rows = e["forget"]
    entropy = -sum(p * math.log(p) for p in (0.7, 0.2, 0.1))
    first = -0.3 * math.log(0.7) - 0.2 * math.log(0.8) - 0.1 * math.log(0.9)
    second = -0.8 * math.log(0.2) - 0.7 * math.log(0.3) - 0.1 * math.log(0.9)
    assert features(e, rows, "confidence")[:, 0] == pytest.approx([0.7, 0.2], abs=1e-6)
    assert features(e, rows, "correctness").tolist() == [[1], [0]]
    assert features(e, rows, "entropy")[:, 0] == pytest.approx([entropy, entropy], abs=1e-6)
    assert features(e, rows, "m_entropy")[:, 0] == pytest.approx([first, second], abs=1e-6)
    assert features(e, rows, "prob") == pytest.approx(np.array([[0.7, 0.2, 0.1]] * 2), abs=1e-6)


def released_m_entropy(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What the released attack computes: whole columns where one entry a row is meant, log p where log(1 - p) is."""
    log_probs, reverse = -np.log(probs), 1 - probs
    modified, modified_log = probs.copy(), log_probs.copy()
    modified[:, labels] = reverse[:, labels]
    modified_log[:, labels] = log_probs[:, labels]
    return (modified * modified_log).sum(1)


def test_m_entropy_is_not_the_released_one_and_does_not_depend_on_the_company() -> None:
    draws = np.random.default_rng(stream_seed(0, "m entropy"))
    probs = draws.dirichlet(np.ones(4), size=6)
    labels = np.arange(6) % 4
    ours = np.array([m_entropy(np.log(p), int(y)) for p, y in zip(probs, labels, strict=True)])
    by_definition = []
    for p, y in zip(probs, labels, strict=True):
        others = [k for k in range(4) if k != y]
        by_definition.append(-(1 - p[y]) * np.log(p[y]) - sum(p[k] * np.log(1 - p[k]) for k in others))
    assert ours == pytest.approx(by_definition)
    assert not np.allclose(ours, released_m_entropy(probs, labels))
    alone = released_m_entropy(probs[:1], labels[:1])[0]
    assert alone != pytest.approx(released_m_entropy(probs, labels)[0])  # its batch leaks into a row
    e = evaluation(forget=[(np.log([0.5, 0.3, 0.2]).tolist(), 2), RIGHT, WRONG])
    whole, single = features(e, e["forget"], "m_entropy")[0], features(e, e["forget"][:1], "m_entropy")[0]
    assert whole.tolist() == single.tolist()


def test_m_entropy_is_smallest_when_sure_and_right_and_finite_when_sure_and_wrong() -> None:
    right, wrong = [m_entropy(torch.tensor([60.0, 0.0, 0.0]).double().log_softmax(0).numpy(), y) for y in (0, 1)]
    assert 0 <= right < 1e-20 and math.isfinite(wrong) and wrong > 50


def test_a_feature_that_needs_more_than_was_kept_says_so() -> None:
    many = FEW_CLASSES + 1
    e = evaluation(classes=many, forget=[([0.0] * many, 0)])
    assert e.tokens(e["forget"])["forget-0"].classes is None
    assert features(e, e["forget"], "entropy")[0, 0] == pytest.approx(math.log(many), rel=1e-4)
    with pytest.raises(UserError, match="kept for up to 256 classes"):
        features(e, e["forget"], "m_entropy")
    with pytest.raises(UserError, match="use attacker: svc"):
        fitted("threshold", np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((1, 3)))


# ---------------------------------------------------------------------- membership


def test_mia_efficacy_is_the_share_of_forget_rows_taken_for_non_members_as_defined() -> None:
    draws = np.random.default_rng(stream_seed(0, "confidences"))
    high, low = draws.uniform(0.85, 0.99, 30), draws.uniform(0.4, 0.7, 30)
    forget = [*draws.uniform(0.85, 0.99, 6), *draws.uniform(0.4, 0.7, 4)]
    roles = {"retain": high, "test": low, "forget": forget}
    e = evaluation(**{r: [(sure(0, float(p)), 0) for p in found] for r, found in roles.items()})
    from sklearn.svm import SVC

    machine = SVC(C=3, gamma="auto", kernel="rbf").fit(np.concatenate([high, low])[:, None], [1] * 30 + [0] * 30)
    expected = float((machine.predict(np.array(forget)[:, None]) == 0).mean())
    found = MiaEfficacy().measure(e)
    assert found.value == pytest.approx(expected) == pytest.approx(0.4)
    assert (found.name, found.better, found.n) == ("mia_efficacy.confidence", "closer", 10)
    assert found.note == "attacker fitted on 30 rows of 'retain' and 30 of 'test'"
    for feature in ("entropy", "m_entropy", "prob"):
        assert MiaEfficacy(feature=feature).measure(e).value == pytest.approx(0.4)  # type: ignore[arg-type]
    assert MiaEfficacy(attacker="threshold").measure(e).value == pytest.approx(0.4)
    assert MiaEfficacy(attacker="threshold", feature="m_entropy").measure(e).value == pytest.approx(0.4)
    assert MiaPrivacy().measure(e).value == MiaPrivacy(attacker="threshold").measure(e).value == 1.0


def test_groups_are_of_one_size_and_spread_over_sorted_rows() -> None:
    """Released: the FIRST retain rows, and as many as there are where there are fewer."""
    retain = [(sure(0, 0.9), 0)] * 6 + [(sure(1, 0.5), 1)] * 6
    e = evaluation(retain=retain, test=[RIGHT] * 4, forget=[RIGHT])
    seen: list[list[str]] = []
    for pick in ("spread", "first"):
        from amends.metrics.mia_efficacy import _groups

        seen.append([s.id for s in _groups(e, "retain", "test", pick, None)[0]])  # type: ignore[arg-type]
    assert seen == [["retain-0", "retain-3", "retain-6", "retain-9"], ["retain-0", "retain-1", "retain-2", "retain-3"]]
    few = evaluation(retain=[RIGHT] * 2, test=[WRONG] * 9, forget=[RIGHT])
    assert MiaEfficacy().measure(few).note == "attacker fitted on 2 rows of 'retain' and 2 of 'test', all there are of 'retain'"
    assert MiaEfficacy(most=1).measure(few).note == "attacker fitted on 1 rows of 'retain' and 1 of 'test'"


def test_an_attacker_that_can_tell_nothing_is_at_a_coin() -> None:
    e = evaluation(retain=[RIGHT] * 8, test=[RIGHT] * 8, forget=[RIGHT])
    assert MiaPrivacy().measure(e).value == MiaPrivacy(attacker="threshold").measure(e).value == 0.5


def test_the_best_threshold_is_found_on_either_side() -> None:
    seen, unseen = np.array([[0.9], [0.8], [0.7]]), np.array([[0.75], [0.2], [0.1]])
    asked = np.array([[0.95], [0.4], [0.1]])
    assert fitted("threshold", seen, unseen, asked).tolist() == [True, False, False]
    assert fitted("threshold", -seen, -unseen, -asked).tolist() == [True, False, False]


def test_names_tell_settings_apart() -> None:
    assert MiaEfficacy(feature="entropy", attacker="threshold", others="valid").name == "mia_efficacy.entropy.threshold.valid"
    assert MiaPrivacy(feature="prob").name == "mia_privacy.prob"
    e = evaluation(retain=[RIGHT] * 4, test=[WRONG] * 4, valid=[RIGHT] * 4, forget=[WRONG])
    for metric in (MiaEfficacy(), MiaEfficacy(others="valid"), MiaEfficacy(most=2)):
        metric.measure(e)
    assert len(e.kept) == 3  # each has an attacker of its own


def test_the_language_models_attack_reads_classifiers_too() -> None:
    e = evaluation(forget=[RIGHT] * 3, holdout=[WRONG] * 3)
    assert Mia(attack="loss").measure(e).value == 1.0


# ---------------------------------------------------------------------- disparity


def pair() -> tuple[Evaluation, Evaluation]:
    mine = evaluation(forget=[RIGHT, RIGHT, RIGHT, WRONG], retain=[RIGHT] * 4 + [WRONG], test=[RIGHT] * 3 + [WRONG])
    gold = evaluation(forget=[WRONG] * 4, retain=[RIGHT] * 5, test=[RIGHT, RIGHT, WRONG, WRONG])
    return mine, gold


def test_the_disparity_is_the_papers_average_gap() -> None:
    """Table of the paper, fine-tuning dense, class-wise: (77.47 + 25.00 + 0.13 + 0.52) / 4 = 25.78."""
    assert round((77.47 + 25.00 + 0.13 + 0.52) / 4, 2) == 25.78
    mine, gold = pair()
    found = Disparity().measure(mine, gold)
    mia = abs(MiaEfficacy().measure(mine).value - MiaEfficacy().measure(gold).value)
    assert found.value == pytest.approx((0.75 + 0.2 + 0.25 + mia) / 4)
    assert found.scores == {"ua": pytest.approx(0.75), "ra": pytest.approx(0.2), "ta": pytest.approx(0.25), "mia": mia}
    assert "UA 0.250 (retrained 1.000), RA 0.800 (retrained 1.000)" in found.note
    assert Disparity(parts=("ua", "ra")).measure(mine, gold).value == pytest.approx(0.475)


def test_the_retrained_model_is_at_zero_and_higher_ua_than_its_own_is_a_gap() -> None:
    mine, gold = pair()
    itself = Disparity().measure(gold, gold)
    assert (itself.value, itself.low, itself.high) == (0.0, 0.0, 0.0)
    ua = Disparity(parts=("ua",))
    assert ua.measure(gold, mine).value == ua.measure(mine, gold).value == 0.75


def test_the_interval_holds_the_value_and_shrinks_with_the_rows() -> None:
    widths = []
    for n in (20, 2000):
        mine = evaluation(forget=[RIGHT, WRONG] * n)
        gold = evaluation(forget=[WRONG, WRONG] * n)
        found = Disparity(parts=("ua",)).measure(mine, gold)
        assert found.low <= found.value == 0.5 <= found.high
        widths.append(found.high - found.low)
        share = 0.5 / math.sqrt(2 * n)
        assert found.high - found.value == pytest.approx(1.96 * share, rel=0.15)
    assert widths[1] < widths[0] / 5


def test_the_disparity_needs_a_retrained_model_and_can_be_read_on_the_valid_rows() -> None:
    mine, _ = pair()
    with pytest.raises(UserError, match="name the retrained model as its reference"):
        Disparity().measure(mine)
    assert Disparity(test="valid").name == "disparity.valid" and Disparity(test="valid").roles() == {
        "forget",
        "retain",
        "valid",
    }


def test_tokens_with_whole_predictions_survive_a_reading(tmp_path: Any) -> None:
    from amends.runs.stages import load_reading, save_reading

    e = evaluation(forget=[RIGHT, WRONG])
    before = features(e, e["forget"], "prob")
    save_reading(e, tmp_path / "reading.json.gz", "key")
    again = Evaluation(None, e.data)
    assert load_reading(again, tmp_path / "reading.json.gz", "key")
    assert features(again, again["forget"], "prob").tolist() == before.tolist()
    assert again.told(again["forget"]) == {"forget-0": "cat", "forget-1": "dog"}
    assert Tokens(np.zeros(1)).classes is None
