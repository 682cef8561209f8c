"""Runs recipes as Ray tasks: on this machine, or on a cluster that is already up (`address`, or RAY_ADDRESS).

A task starts the same subprocess as the local executor does. Ray starts a task anew when its machine is lost; the run
then goes on from its folder, which must lie on a disk that every machine sees.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from amends.core.errors import UserError
from amends.core.spec import Count, spec
from amends.runs.executors.base import Job, call, jobs_of

LOCAL = "local"
LOST = 1
"""The exit code of a task that gave none."""


@spec
class Ray:
    """One Ray task a recipe; one that fails does not stop the others."""

    address: str | None = None
    """A cluster that is up: `auto`, `ray://HOST:10001`, `HOST:6379`; RAY_ADDRESS or this machine when absent."""
    num_cpus: Count = 1
    """Cores of each run, and its threads."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs of each run; a share puts several runs on one."""
    jobs: Count = 1
    """Runs at once, at most."""
    words: tuple[str, ...] = ()
    """More words for each run's command line."""

    def map(self, recipes: Sequence[Path], folders: Sequence[Path]) -> Iterator[int]:
        """The exit codes, in the order given."""
        ray = _ray()
        ours = not ray.is_initialized()
        if ours:
            self._connect(ray)
        try:
            yield from self._codes(ray, jobs_of(recipes, folders, self.words, self.num_cpus))
        finally:
            if ours:
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        address = self.address or os.environ.get("RAY_ADDRESS") or LOCAL
        own = {"num_cpus": self.jobs * self.num_cpus, "include_dashboard": False} if address == LOCAL else {}
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"--executor ray: no cluster answers at {address!r} ({error})") from None
        if address == LOCAL and self.num_gpus > ray.cluster_resources().get("GPU", 0):
            ray.shutdown()
            raise UserError(f"--executor-set num_gpus={self.num_gpus:g}: this machine has fewer GPUs that Ray can see")

    def _codes(self, ray: Any, jobs: Sequence[Job]) -> Iterator[int]:
        task = ray.remote(call).options(num_cpus=self.num_cpus, num_gpus=self.num_gpus)
        waiting, running, codes = deque(range(len(jobs))), {}, {}
        for i in range(len(jobs)):
            while i not in codes:
                while waiting and len(running) < self.jobs:
                    at = waiting.popleft()
                    jobs[at].started()
                    running[task.remote(jobs[at])] = at
                (done,), _ = ray.wait(list(running), num_returns=1)
                at = running.pop(done)
                codes[at] = _ended(ray, done, jobs[at])
            yield codes[i]


def _ended(ray: Any, done: Any, job: Job) -> int:
    try:
        return job.ended(ray.get(done))
    except ray.exceptions.RayError as error:
        return job.ended(LOST, " ".join(str(error).split())[:200])


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody asked for figures to be sent anywhere
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError('--executor ray: Ray is not installed: pip install "amends[cluster]"') from None
    return ray
