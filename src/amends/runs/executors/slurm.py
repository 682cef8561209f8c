"""Runs recipes as Slurm jobs, through submitit; `cluster=local` and `cluster=debug` try the same on this machine.

A job starts the same subprocess as the local executor does. One that is preempted or runs out of time is put back into
the queue, as submitit does it, and its run goes on from its folder, which must lie on a disk that every node sees.

Tested with submitit's local and debug executors: equal results, refusals, and a job that got submitit's signal, as one
that was preempted and as one that ran out of time, and ended with the results of an undisturbed one. Not tested, for want
of a Slurm: submission, arrays, real preemption, and whether a signal that Slurm sends to a job's every process ends the
run itself before submitit has put the job back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from amends.core.errors import UserError
from amends.core.spec import Count, spec
from amends.runs.executors.base import Job, jobs_of

DAY = 24 * 60
"""Minutes that a job may take unless `timeout_min` says otherwise; submitit's own default is a few."""
LOST = 1
"""The exit code of a job that gave none."""


@dataclass(frozen=True)
class _Requeued(Job):
    """A job that tells submitit how to start it again."""

    def checkpoint(self) -> Any:
        """The same job: the run's folder knows how far it came."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@spec
class Slurm:
    """One Slurm job a recipe, all in one array; one that fails does not stop the others."""

    cluster: Literal["slurm", "local", "debug"] = "slurm"
    """`slurm`; `local`: subprocesses of this machine; `debug`: this process."""
    logs: str | None = None
    """Where submitit keeps its files; `submitit` beside the runs when absent."""
    parameters: Annotated[Mapping[str, Any], Field(default_factory=dict)]
    """submitit's own: timeout_min, mem_gb, cpus_per_task, gpus_per_node, slurm_partition, slurm_account, ..."""
    jobs: Count = 1
    """Runs at once, at most."""
    words: tuple[str, ...] = ()
    """More words for each run's command line."""

    def map(self, recipes: Sequence[Path], folders: Sequence[Path]) -> Iterator[int]:
        """The exit codes, in the order given."""
        threads = self.parameters.get("cpus_per_task", 1)
        jobs = [_Requeued(**asdict(job)) for job in jobs_of(recipes, folders, self.words, threads)]
        if not jobs:
            return
        executor = self._executor(folders[0])
        if self.cluster == "slurm":
            with executor.batch():
                handles = [executor.submit(job) for job in jobs]
            for job in jobs:
                job.started()
            yield from map(_ended, handles, jobs)
        else:
            yield from self._a_few(executor, jobs)

    def _a_few(self, executor: Any, jobs: Sequence[Job]) -> Iterator[int]:
        """This machine has no queue: the next one starts when the oldest has ended."""
        running: deque[tuple[Any, Job]] = deque()
        for job in jobs:
            if len(running) == self.jobs:
                yield _ended(*running.popleft())
            job.started()
            running.append((executor.submit(job), job))
        while running:
            yield _ended(*running.popleft())

    def _executor(self, folder: Path) -> Any:
        try:
            import submitit
        except ModuleNotFoundError:
            raise UserError('--executor slurm: submitit is not installed: pip install "amends[cluster]"') from None
        logs = Path(self.logs) if self.logs else folder.parent / "submitit"
        try:
            executor = submitit.AutoExecutor(folder=logs.resolve(), cluster=self.cluster)
        except RuntimeError as error:
            raise UserError(f"--executor slurm: {error} (--executor-set cluster=local tries it here)") from None
        try:
            executor.update_parameters(**{"timeout_min": DAY, "name": "amends", **self.parameters})
            executor.update_parameters(slurm_array_parallelism=self.jobs)
        except (NameError, AssertionError, ValueError, TypeError) as error:
            raise UserError(f"--executor-set: {' '.join(str(error).split())[:300]}") from None
        return executor


def _ended(handle: Any, job: Job) -> int:
    from submitit.core.utils import UncompletedJobError

    try:
        return job.ended(handle.result())
    except UncompletedJobError as error:
        return job.ended(LOST, " ".join(str(error).split())[:200])
