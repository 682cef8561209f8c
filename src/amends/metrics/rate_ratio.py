"""How much of WMMSE's sum rate a model's allocation of power reaches (arXiv 2105.01696): of one task, or over all of them.

    ratio of a row = R(pi(h), h) / R(p*, h),    p* by WMMSE;    ratio of a task = the mean over its test rows.

Above 1 where the model found better than WMMSE did from full power. `TaskRateRatio` is the worst of several
tasks or their mean.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from amends.core.spec import spec
from amends.core.types import Better, Measurement, Role
from amends.metrics.evaluation import Evaluation
from amends.metrics.rows import rows_of
from amends.metrics.stats import mean_measurement


@spec
class RateRatio:
    """Mean sum rate of the model's power over that of WMMSE's, on the rows of one task."""

    version: ClassVar[int] = 1
    better: ClassVar[Better] = "higher"
    needs_reference: ClassVar[bool] = False
    role: Role
    """The rows."""

    @property
    def name(self) -> str:
        """`rate_ratio.test_rice`."""
        return f"rate_ratio.{self.role}"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The mean over rows with its interval; raises UserError for a model that allocates no power."""
        return mean_measurement(self.name, ratios(evaluation, self.role), self.better, version=self.version)


@spec
class TaskRateRatio:
    """The worst task's share of WMMSE's sum rate, or the mean over tasks."""

    version: ClassVar[int] = 1
    better: ClassVar[Better] = "higher"
    needs_reference: ClassVar[bool] = False
    tasks: Annotated[tuple[Role, ...], Field(min_length=1)]
    """The tasks' test rows."""
    says: Literal["worst", "mean"] = "worst"
    """Which."""

    @property
    def name(self) -> str:
        """`task_rate_ratio.worst`."""
        return f"task_rate_ratio.{self.says}"

    def roles(self) -> frozenset[Role]:
        """All tasks."""
        return frozenset(self.tasks)

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The worst task's own number and interval, or the mean over all rows, tasks weighing alike."""
        each = {task: ratios(evaluation, task) for task in self.tasks}
        means = {task: sum(scores.values()) / len(scores) for task, scores in each.items()}
        if self.says == "worst":
            worst = min(means, key=lambda task: means[task])
            return mean_measurement(self.name, each[worst], self.better, version=self.version, note=f"of {worst}")
        tasks = len(means)
        rows = {i: s * sum(map(len, each.values())) / (tasks * len(t)) for t in each.values() for i, s in t.items()}
        return mean_measurement(self.name, rows, self.better, version=self.version, note=f"over {tasks} tasks")


def ratios(evaluation: Evaluation, role: Role) -> dict[str, float]:
    """Each row's ratio by its id."""
    from amends.subjects.power_net import rate_ratio

    rows = rows_of(evaluation, role)

    def look() -> dict[str, float]:
        subject = evaluation.subject
        subject.call.eval()
        batch = subject.collate([subject.encode(row) for row in rows]).to(next(subject.module.parameters()).device)
        with torch.no_grad():
            ratio_B = rate_ratio(subject.likelihood(batch), batch)
        return dict(zip(batch.ids, ratio_B.double().tolist(), strict=True))

    return evaluation.once(f"rate_ratio/{role}", look)
