"""What a fit keeps: the best weights a guard has vouched for, and exact checkpoints to go on from.

With a folder both lie on the disk, under names that a later run of the same folder finds; without one the best weights
are kept in memory and there is nothing to resume.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from amends.core.protocols import Context
from amends.engine import checkpoint
from amends.engine.parallel import Parallel


class Resumed(NamedTuple):
    """Where a fit goes on: the step, what else the fit remembered, and the states of its edits."""

    step: int
    kept: dict[str, Any]
    states: list[Any]


@dataclass
class Keeper:
    """Trainable weights and saved buffers of one fit, with its optimiser; gathers shards before it writes."""

    run: Context
    parallel: Parallel
    params: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    """Parameters as `w|name`, and the buffers that belong to a model's state as `b|name`."""
    optimiser: torch.optim.Optimizer
    best: tuple[int, Mapping[str, Tensor]] | None = None

    @staticmethod
    def of(run: Context, parallel: Parallel, module: nn.Module, params: Mapping[str, Tensor], optimiser: Any) -> Keeper:
        """Of a module's trainable parameters, and of the buffers that are saved with it (a batch norm's statistics)."""
        saved = module.state_dict()
        buffers = {f"b|{n}": b for n, b in module.named_buffers() if n in saved}
        return Keeper(run, parallel, params, {f"w|{n}": p for n, p in params.items()} | buffers, optimiser)

    def keep_best(self, step: int) -> None:
        """These weights are the best so far."""
        if self.run.folder:
            self._write(self.run.folder / "best.safetensors", self.weights, step=step)
        else:
            self.best = step, {k: self.parallel.full(v.detach()).clone() for k, v in self.weights.items()}

    def forget_best(self) -> None:
        """A fit that begins anew has no best weights yet."""
        if self.run.folder and self.parallel.is_main:
            (self.run.folder / "best.safetensors").unlink(missing_ok=True)

    def restore_best(self) -> None:
        """Puts the best weights back, if any were kept."""
        path = self.run.folder / "best.safetensors" if self.run.folder else None
        if path and path.is_file():
            tensors, state = checkpoint.load(path)
            self.best = state["step"], tensors
        if self.best:
            self._put(self.best[1])
            self.run.say(f"kept the weights of step {self.best[0]}")

    def save(self, step: int, kept: Mapping[str, Any], states: Sequence[Any]) -> None:
        """An exact checkpoint; of the edits' states the entries that belong to parameters."""
        moments = {f"o|{k}": v for k, v in checkpoint.optimiser_tensors(self.optimiser, self.params).items()}
        edits = {f"e|{i}|{k}": v for i, k, v in self._of_parameters(states)}
        self._write(self._path(), {**self.weights, **moments, **edits}, step=step, kept=dict(kept))

    def resume(self, states: Sequence[Any]) -> Resumed | None:
        """Takes up the checkpoint, or None where there is none; `states` are the edits' as they were made anew."""
        if self.run.folder is None or not self._path().is_file():
            return None
        tensors, state = checkpoint.load(self._path())
        self._put({k: v for k, v in tensors.items() if k[:2] in ("w|", "b|")})
        restored = [dict(s) if isinstance(s, Mapping) else s for s in states]
        for i, key, target in self._of_parameters(states):
            restored[i][key] = self.parallel.like(tensors[f"e|{i}|{key}"], target)
        moments = {}
        for key, value in tensors.items():
            if key.startswith("o|"):
                target = self.params[key[2:].rsplit("|", 1)[0]]
                moments[key[2:]] = self.parallel.like(value, target) if value.ndim else value
        checkpoint.restore_optimiser(self.optimiser, self.params, moments)
        self.run.say(f"resumed at step {state['step']}")
        return Resumed(state["step"], state["kept"], restored)

    def _of_parameters(self, states: Sequence[Any]) -> list[tuple[int, str, Tensor]]:
        return [(i, k, v) for i, s in enumerate(states) if isinstance(s, Mapping) for k, v in s.items() if k in self.params]

    def _write(self, path: Path, tensors: Mapping[str, Tensor], **state: Any) -> None:
        whole = {k: self.parallel.full(v.detach()) for k, v in tensors.items()}
        if self.parallel.is_main:
            checkpoint.save(path, whole, **state)
        self.parallel.barrier()

    def _path(self) -> Path:
        assert self.run.folder is not None
        return self.run.folder / "checkpoint.safetensors"

    @torch.no_grad()
    def _put(self, tensors: Mapping[str, Tensor]) -> None:
        for key, value in tensors.items():
            target = self.weights[key]
            target.copy_(self.parallel.like(value, target))
