"""Membership inference on a classifier as the unlearning papers have it (arXiv 2304.04934): MIA-efficacy and MIA-privacy.

An attacker is fitted on the model at hand: retain rows are members, test rows (without a class that is forgotten whole) are
none. MIA-efficacy is the share of FORGET rows it takes for non-members; MIA-privacy is how often it is right about other
retain and test rows than those it was fitted on. The papers' attacker is a support vector machine, C = 3, gamma = 1 /
number of features, with a radial kernel, on one feature a row:

- confidence, the probability of the row's label: the papers' number;
- correctness, whether the row's class is told;
- entropy of the prediction, -sum_j p_j log p_j;
- m_entropy, -(1 - p_y) log p_y - sum_{j != y} p_j log(1 - p_j) (Song and Mittal, arXiv 2003.10595, eq. 11);
- prob, the whole prediction.

`threshold` is Song and Mittal's attacker instead: the one threshold on the feature that tells members best.

What differs from the released code, on purpose: its m_entropy takes whole columns of a batch where one entry a row is
meant, and log p where log(1 - p) is. Its members are the FIRST retain rows, as many as test rows; where a data set is sorted by
class those are of one class, so here they are spread evenly over the retain rows (`pick: first` is the letter). With
fewer retain than test rows the released attacker is fitted on unequal groups; here both have the size of the smaller, and the
note says so. The score's direction is the papers', and neither is better when higher: the retrained model's is the aim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from amends.core.errors import UserError
from amends.core.spec import Count, spec
from amends.core.types import Better, Measurement, Role, Sample
from amends.metrics.evaluation import FEW_CLASSES, Evaluation, Tokens
from amends.metrics.rows import rows_of
from amends.metrics.stats import share_measurement

Feature = Literal["confidence", "correctness", "entropy", "m_entropy", "prob"]
Attacker = Literal["svc", "threshold"]
Pick = Literal["spread", "first"]


@spec
class MiaEfficacy:
    """Share of forget rows that a membership attacker takes for never seen: as the retrained model's is best."""

    version: ClassVar[int] = 1
    better: ClassVar[Better] = "closer"
    needs_reference: ClassVar[bool] = False
    feature: Feature = "confidence"
    """What the attacker sees of a row."""
    attacker: Attacker = "svc"
    """A support vector machine, or one threshold."""
    role: Role = "forget"
    """The rows that were members."""
    members: Role = "retain"
    """Rows that the model was trained on."""
    others: Role = "test"
    """Rows that no model has seen."""
    pick: Pick = "spread"
    """Which of the members the attacker is fitted on: spread evenly over them, or the first ones as released."""
    most: Count | None = None
    """At most so many of each group, where the support vector machine would take too long."""

    @property
    def name(self) -> str:
        """`mia_efficacy.confidence`; what is not the papers' choice follows it."""
        return _name("mia_efficacy", self.feature, self.attacker, self.role, self.others)

    def roles(self) -> frozenset[Role]:
        """Those to tell, and those the attacker is fitted on."""
        return frozenset({self.role, self.members, self.others})

    def scores(self, evaluation: Evaluation) -> dict[str, float]:
        """1 for each row that is taken for a non-member, else 0; the attacker is fitted once."""
        key = f"{self.name} on {self.members}, {self.others}, {self.pick}, {self.most}"
        return evaluation.once(key, lambda: self._attacked(evaluation))

    def _attacked(self, evaluation: Evaluation) -> dict[str, float]:
        seen, unseen = _groups(evaluation, self.members, self.others, self.pick, self.most)
        rows = rows_of(evaluation, self.role)
        known, fresh, asked = (features(evaluation, group, self.feature) for group in (seen, unseen, rows))
        member_B = fitted(self.attacker, known, fresh, asked)
        return {row.id: float(not taken) for row, taken in zip(rows, member_B, strict=True)}

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The share taken for non-members, with Wilson's interval over the rows; the attacker itself is held fixed."""
        note = _note(evaluation, self.members, self.others, self.most)
        return share_measurement(self.name, self.scores(evaluation), self.better, version=self.version, note=note)


@spec
class MiaPrivacy:
    """How often a membership attacker is right about rows it was not fitted on; 0.5 is a coin."""

    version: ClassVar[int] = 1
    better: ClassVar[Better] = "closer"
    needs_reference: ClassVar[bool] = False
    feature: Feature = "confidence"
    """What the attacker sees of a row."""
    attacker: Attacker = "svc"
    """A support vector machine, or one threshold."""
    members: Role = "retain"
    """Rows that the model was trained on."""
    others: Role = "test"
    """Rows that no model has seen."""
    pick: Pick = "spread"
    """Which of the members are used: spread evenly over them, or the first ones as released."""
    most: Count | None = None
    """At most so many of each group, where the support vector machine would take too long."""

    @property
    def name(self) -> str:
        """`mia_privacy.confidence`; what is not the papers' choice follows it."""
        return _name("mia_privacy", self.feature, self.attacker, "forget", self.others)

    def roles(self) -> frozenset[Role]:
        """Members and others."""
        return frozenset({self.members, self.others})

    def scores(self, evaluation: Evaluation) -> dict[str, float]:
        """1 for each row of the second halves that the attacker, fitted on the first, is right about, else 0."""
        key = f"{self.name} on {self.members}, {self.others}, {self.pick}, {self.most}"
        return evaluation.once(key, lambda: self._attacked(evaluation))

    def _attacked(self, evaluation: Evaluation) -> dict[str, float]:
        groups = _groups(evaluation, self.members, self.others, self.pick, self.most)
        if len(groups[0]) < 2:
            raise UserError(f"{self.name}: needs two rows of '{self.members}' and of '{self.others}' at least")
        known, fresh = (features(evaluation, g[::2], self.feature) for g in groups)
        right = {}
        for group, is_member in zip(groups, (True, False), strict=True):
            taken = fitted(self.attacker, known, fresh, features(evaluation, group[1::2], self.feature))
            right |= {row.id: float(t == is_member) for row, t in zip(group[1::2], taken, strict=True)}
        return right

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The share of right guesses, with Wilson's interval."""
        note = _note(evaluation, self.members, self.others, self.most)
        return share_measurement(self.name, self.scores(evaluation), self.better, version=self.version, note=note)


def _name(base: str, feature: str, attacker: str, role: Role, others: Role) -> str:
    usual = {"attacker": "svc", "role": "forget", "others": "test"}
    said = {"attacker": attacker, "role": role, "others": others}
    return ".".join([base, feature, *(said[k] for k in usual if said[k] != usual[k])])


def _groups(
    evaluation: Evaluation, members: Role, others: Role, pick: Pick, most: int | None
) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """As many members as others: all of the smaller group, and of the larger one as many."""
    seen, unseen = rows_of(evaluation, members), rows_of(evaluation, others)
    n = min(len(seen), len(unseen), most or len(seen))
    return (seen[:n] if pick == "first" else _spread(seen, n)), _spread(unseen, n)


def _spread(rows: Sequence[Sample], n: int) -> Sequence[Sample]:
    return [rows[i * len(rows) // n] for i in range(n)]


def _note(evaluation: Evaluation, members: Role, others: Role, most: int | None) -> str:
    seen, unseen = len(evaluation[members]), len(evaluation[others])
    n = min(seen, unseen, most or seen)
    fewer = f", all there are of '{members}'" if n == seen < unseen else ""
    return f"attacker fitted on {n} rows of '{members}' and {n} of '{others}'{fewer}"


def features(evaluation: Evaluation, rows: Sequence[Sample], feature: Feature) -> np.ndarray:
    """[N, F]: what the attacker sees of each row."""
    table = evaluation.tokens(rows)
    if any(table[row.id].hit is None for row in rows):
        raise UserError(f"row {rows[0].id}: has no class that this model could tell: use `mia` with attack: loss")
    return np.array([_feature(table[row.id], int(row.data["label"]), feature) for row in rows])


def _feature(tokens: Tokens, label: int, feature: Feature) -> list[float]:
    if feature == "confidence":
        return [float(np.exp(tokens.logp[0]))]
    if feature == "correctness":
        return [float(tokens.hit[0])]  # type: ignore[index]
    if feature == "entropy":
        return [-float(tokens.mean[0])]  # type: ignore[index]
    if tokens.classes is None:
        raise UserError(f"the feature {feature} needs a whole prediction, which is kept for up to {FEW_CLASSES} classes")
    return [m_entropy(tokens.classes, label)] if feature == "m_entropy" else list(np.exp(tokens.classes))


def m_entropy(logp_K: np.ndarray, label: int) -> float:
    """-(1 - p_y) log p_y - sum_{j != y} p_j log(1 - p_j) from log-probabilities; small where the model is sure and right.

    >>> round(m_entropy(np.log(np.array([0.7, 0.2, 0.1])), 0), 4)
    0.1622
    """
    p_K = np.exp(logp_K)
    rest_K = np.maximum(-np.expm1(logp_K), 1e-30)  # 1 - p without the loss of digits near 1
    others = np.arange(len(p_K)) != label
    return float(-rest_K[label] * logp_K[label] - (p_K * np.log(rest_K))[others].sum())


def fitted(attacker: Attacker, seen: np.ndarray, unseen: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """[len(asked)] whether an attacker, fitted on seen and unseen rows' features [N, F], takes each row for a member."""
    if attacker == "threshold":
        return _by_threshold(seen, unseen, asked)
    from sklearn.svm import SVC

    machine: Any = SVC(C=3, gamma="auto", kernel="rbf", cache_size=500)
    machine.fit(np.concatenate([seen, unseen]), np.repeat([1, 0], [len(seen), len(unseen)]))
    return machine.predict(asked) == 1


def _by_threshold(seen: np.ndarray, unseen: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The threshold and the side of it that are right most often, both groups weighing the same; of equals the lowest.

    It lies halfway between two neighbouring values; where nothing can be told, everything is a member.
    """
    if seen.shape[1] != 1:
        raise UserError("a threshold attacker looks at one number a row: use attacker: svc with the feature prob")
    values = np.unique(np.concatenate([seen, unseen]))
    cuts = np.concatenate([[-np.inf], (values[1:] + values[:-1]) / 2])
    above = [1 - np.searchsorted(np.sort(g[:, 0]), cuts, side="left") / len(g) for g in (seen, unseen)]
    gain = above[0] - above[1]  # twice the balanced accuracy, minus 1, of "member where >= cut"
    best = int(np.argmax(np.abs(gain)))
    return (asked[:, 0] >= cuts[best]) == (gain[best] >= 0)
