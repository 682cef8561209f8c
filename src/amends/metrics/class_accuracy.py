"""The unlearning papers' accuracies of a classifier (arXiv 2304.04934, section 4; arXiv 2310.12508): UA, RA, TA, and ASR.

- UA, unlearning accuracy: 1 - accuracy on the forget rows;
- RA, remaining accuracy: accuracy on the retain rows;
- TA, test accuracy: accuracy on the test rows, without those of a class that is forgotten whole (`data/labelled.py`);
- ASR, attack success rate: the share of triggered test rows of other classes that get the attacker's label.

Here all are shares of 1, where the papers print percentages. None of UA, RA and TA is better when it is higher: a retrained
model still tells most random rows it has never seen, and its UA is what there is to reach. So they point `closer`, to the
retrained model, and `disparity` sums up how close. Intervals are Wilson's over the rows.
"""

from __future__ import annotations

from typing import ClassVar

from amends.core.errors import UserError
from amends.core.spec import spec
from amends.core.types import Better, Measurement, Role
from amends.metrics.evaluation import Evaluation
from amends.metrics.rows import rows_of
from amends.metrics.stats import share_measurement


def labelled(evaluation: Evaluation, role: Role) -> bool:
    """Whether a role's rows are to be told their class rather than asked."""
    rows = evaluation[role]
    return bool(rows) and all("label" in row.data and "question" not in row.data for row in rows)


def told(evaluation: Evaluation, role: Role) -> dict[str, float]:
    """For each row 1 where the model gives its class the highest probability, else 0."""
    rows = rows_of(evaluation, role)
    table = evaluation.tokens(rows)
    if any(table[row.id].hit is None for row in rows[:1]) or not labelled(evaluation, role):
        raise UserError(f"role '{role}': its rows have no class that this model could tell: use another metric")
    return {row.id: float(table[row.id].hit[0]) for row in rows}  # type: ignore[index]


@spec
class UA:
    """Unlearning accuracy, 1 - accuracy on the forget rows: as the retrained model's is best, not the highest."""

    version: ClassVar[int] = 1
    better: ClassVar[Better] = "closer"
    needs_reference: ClassVar[bool] = False
    role: Role = "forget"
    """The forgotten rows, or test rows of their class (`test_forget`)."""

    @property
    def name(self) -> str:
        """`ua.forget`."""
        return f"ua.{self.role}"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def scores(self, evaluation: Evaluation) -> dict[str, float]:
        """1 for each row that is not told, else 0."""
        return {row: 1 - hit for row, hit in told(evaluation, self.role).items()}

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The share of rows whose class the model does not tell."""
        return share_measurement(self.name, self.scores(evaluation), self.better, version=self.version)


@spec
class RA:
    """Remaining accuracy, that on the retain rows: as the retrained model's is best."""

    version: ClassVar[int] = 1
    better: ClassVar[Better] = "closer"
    needs_reference: ClassVar[bool] = False
    role: Role = "retain"
    """The rows that stay."""

    @property
    def name(self) -> str:
        """`ra.retain`."""
        return f"ra.{self.role}"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The share of rows whose class the model tells."""
        return share_measurement(self.name, told(evaluation, self.role), self.better, version=self.version)


@spec
class TA:
    """Test accuracy, on rows that no model has seen: as the retrained model's is best."""

    version: ClassVar[int] = 1
    better: ClassVar[Better] = "closer"
    needs_reference: ClassVar[bool] = False
    role: Role = "test"
    """`test`, or `test_retain` for the classes that were not touched, or `valid` for choosing settings."""

    @property
    def name(self) -> str:
        """`ta.test`."""
        return f"ta.{self.role}"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The share of rows whose class the model tells."""
        return share_measurement(self.name, told(evaluation, self.role), self.better, version=self.version)


@spec
class ASR:
    """Attack success rate of a backdoor: the share of triggered rows that get the attacker's label."""

    version: ClassVar[int] = 1
    better: ClassVar[Better] = "lower"
    needs_reference: ClassVar[bool] = False
    role: Role = "triggered"
    """Test rows of other classes with the trigger and the attacker's label."""

    @property
    def name(self) -> str:
        """`asr.triggered`."""
        return f"asr.{self.role}"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The share of rows that get the label they carry, which is the attacker's."""
        return share_measurement(self.name, told(evaluation, self.role), self.better, version=self.version)
