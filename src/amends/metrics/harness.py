"""Benchmarks of lm-evaluation-harness, run by its own code on the model in memory: WMDP (arXiv 2403.03218), MMLU, and yours.

Dangerous knowledge is asked for with WMDP's 3,668 questions of four choices (floor 25 %), what must survive with MMLU. The
number is the mean over all questions of all tasks, each weighing the same, as the group `wmdp` has it; each question's score
is kept, so that an interval and a comparison question by question are possible. Other code seeds the global generators when
it is called: here it is told not to, and what is drawn (examples to show) comes from the run's own seed.

The tasks' questions come from the hub unless they lie in its cache; whether they can be had is checked before anything is
trained. `include_path` names a folder with task files of your own, which may hold Python: trust it as you trust a program.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field
from scipy.stats import binomtest

from amends.core import fingerprint
from amends.core.errors import UserError, nearest
from amends.core.spec import Count, Natural, spec
from amends.core.types import Better, Measurement, Role
from amends.engine.parallel import Parallel
from amends.metrics.evaluation import Evaluation
from amends.metrics.stats import mean_measurement

FORGET = "wmdp"
"""Tasks whose name begins so ask for what is to go."""


@spec
class Harness:
    """Mean score on tasks of lm-evaluation-harness, such as accuracy on WMDP or MMLU."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = False
    tasks: Annotated[tuple[str, ...], Field(min_length=1)] = ("wmdp",)
    """Names of tasks or groups, as `lm_eval --tasks` takes them."""
    score: str = "acc"
    """Which of a task's scores: acc, acc_norm, exact_match, ..."""
    limit: Count | None = None
    """Only the first questions of each task."""
    shots: Natural | None = None
    """Examples before each question; the task's own number by default."""
    include_path: str | None = None
    """Folder with further task files."""
    chat: bool = False
    """Put questions through the model's chat template."""
    forget: bool | None = None
    """Whether the answers are to go; by default so where every task's name begins with wmdp."""

    @property
    def name(self) -> str:
        """`harness.wmdp`, `harness.mmlu.5-shot`."""
        return f"harness.{'+'.join(self.tasks)}" + ("" if self.shots is None else f".{self.shots}-shot")

    @property
    def better(self) -> Better:
        """Lower for what is to go."""
        gone = all(task.startswith(FORGET) for task in self.tasks) if self.forget is None else self.forget
        return "lower" if gone else "higher"

    def roles(self) -> frozenset[Role]:
        """None: the questions are the tasks' own."""
        return frozenset()

    def check(self) -> None:
        """Raises UserError where the package, a task, its data or the number of examples cannot be had."""
        if importlib.util.find_spec("lm_eval") is None:
            raise UserError("it needs the package lm-eval: pip install 'amends[harness]'")
        folder = self._folder()
        if folder is not None and not folder.is_dir():
            raise UserError(f"include_path: {self.include_path}: no such folder")
        known = self._manager().all_tasks
        unknown = next((task for task in self.tasks if task not in known), None)
        if unknown is not None:
            alike = [task for task in known if task[:2] == unknown[:2]]  # of 14,000 names
            raise UserError(f"tasks: lm-evaluation-harness has no task '{unknown}'{nearest(unknown, alike)}")
        fixed = _without_examples(self.tasks, folder)
        if self.shots and fixed:
            raise UserError(f"shots: the task '{fixed[0]}' is asked without examples by its own file: leave shots out")

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The mean over questions; Wilson's interval where every score is 0 or 1, else by bootstrap."""
        scores = evaluation.once(f"harness/{fingerprint.of(self)}", lambda: Parallel().same(self._run(evaluation)))
        note = f"{self.score} of lm-evaluation-harness" + (f", first {self.limit} questions a task" if self.limit else "")
        plain = mean_measurement(self.name, scores, self.better, version=self.version, note=note)
        if not set(scores.values()) <= {0.0, 1.0}:
            return plain
        bounds = binomtest(int(sum(scores.values())), len(scores)).proportion_ci(method="wilson")
        low, high = float(bounds.low), float(bounds.high)
        return Measurement(
            self.name, plain.value, low, high, plain.n, self.better, self.version, note=note, scores=plain.scores
        )

    def _run(self, evaluation: Evaluation) -> dict[str, float] | None:
        """Each question's score as `task/number`; None in a process other than the main one."""
        self.check()
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        subject = evaluation.subject
        if getattr(subject, "tokenizer", None) is None:
            raise UserError(f"{self.name} needs a language model: it reads and scores text")
        was_training = subject.module.training
        try:
            with _quiet():
                model = HFLM(
                    pretrained=subject.module, tokenizer=copy.deepcopy(subject.tokenizer), max_length=subject.max_length,
                    batch_size=evaluation.batch_size,
                )  # fmt: skip
                found = simple_evaluate(
                    model=model, tasks=list(self.tasks), task_manager=self._manager(), num_fewshot=self.shots,
                    limit=self.limit, apply_chat_template=self.chat, bootstrap_iters=0, log_samples=True, random_seed=None,
                    numpy_random_seed=None, torch_random_seed=None, fewshot_random_seed=evaluation.seed,
                )  # fmt: skip
        finally:
            subject.module.train(was_training)
        return None if found is None else _scores(found["samples"], self.score)

    def _manager(self) -> Any:
        return _manager(self.tasks, self._folder())

    def _folder(self) -> Path | None:
        return None if self.include_path is None else Path(self.include_path).expanduser()


def _scores(samples: Mapping[str, Sequence[Mapping[str, Any]]], score: str) -> dict[str, float]:
    """The score of each question; of a task with several filters the first one's."""
    found: dict[str, float] = {}
    for task, rows in samples.items():
        for row in rows:
            value = row.get(score)
            if not isinstance(value, (int, float)):
                raise UserError(f"score: the task '{task}' has no number '{score}'{nearest(score, row['metrics'])}")
            found.setdefault(f"{task}/{row['doc_id']}", float(value))
    return found


@cache
def _manager(tasks: tuple[str, ...], folder: Path | None) -> Any:
    """The index of task files; that of the package, which takes seconds, only where the folder does not do."""
    from lm_eval.tasks import TaskManager

    if folder is not None:
        own = TaskManager(include_path=str(folder), include_defaults=False)
        if set(tasks) <= set(own.all_tasks):
            return own
    return TaskManager(include_path=None if folder is None else str(folder))


@cache
def _without_examples(tasks: tuple[str, ...], folder: Path | None) -> tuple[str, ...]:
    """The tasks that fix their examples at none; loads every task's data, and raises UserError where that fails."""
    fixed: list[str] = []
    for name in tasks:
        try:
            with _quiet():
                loaded = _manager(tasks, folder).load([name])["tasks"]
        except Exception as error:  # of the task's file, of datasets, of the hub or of the network: each has its own
            first = str(error).strip().split("\n")[0]
            raise UserError(
                f"tasks: '{name}' cannot be loaded ({type(error).__name__}: {first}): go online once, so that its data comes "
                "into the cache, log in to the hub where the data asks for it, or name another task"
            ) from error
        fixed += [task for task, made in loaded.items() if made.get_config("num_fewshot") == 0]
    return tuple(fixed)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the package's remarks off the screen; what matters is raised or returned."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
