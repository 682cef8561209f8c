"""Which executor `--executor`, `--jobs` and `--executor-set` ask for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from amends.core import yamls
from amends.core.errors import UserError, nearest
from amends.core.protocols import Executor
from amends.core.spec import build
from amends.runs.executors.local import Local
from amends.runs.executors.ray import Ray
from amends.runs.executors.slurm import Slurm

NAMES = ("local", "ray", "slurm")
_OURS = ("jobs", "words", "parameters")


def choose(name: str, jobs: int, sets: Iterable[str] = (), words: Sequence[str] = ()) -> Executor:
    """The executor with its options; whatever `slurm` does not know itself is submitit's.

    Args:
        jobs: runs at once, at most.
        sets: `key=value`, the value in YAML.
        words: what each run's command line has besides recipe and folder.
    """
    if name not in NAMES:
        raise UserError(f"--executor {name}: no such executor{nearest(name, NAMES)}")
    options = dict(map(_parse, sets))
    given = {"jobs": jobs, "words": tuple(words)}
    if name == "local":
        if options:
            raise UserError(f"--executor-set {next(iter(options))}: the local executor has no options but --jobs")
        return Local(**given)
    if name == "ray":
        return build(Ray, {**options, **given}, "--executor-set")
    own = {key: options.pop(key) for key in ("cluster", "logs") if key in options}
    return build(Slurm, {**own, "parameters": options, **given}, "--executor-set")


def _parse(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key.strip() or key.strip() in _OURS:
        raise UserError(f"--executor-set {text}: expected KEY=VALUE, for instance num_gpus=1 or slurm_partition=gpu")
    try:
        return key.strip(), yamls.load(value)
    except yaml.YAMLError:
        raise UserError(f"--executor-set {text}: {value!r} is not a YAML value") from None
