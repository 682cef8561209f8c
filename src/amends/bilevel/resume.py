"""What an outer loop leaves behind to go on from: one safetensors file, whole or not there, like a fit's.

Outer and inner parameters, the optimiser's state where there is one, what is to be given back besides, and F so far. Random
streams and rows are functions of the step and need no saving. Floats pass through JSON without loss.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from amends.core.errors import UserError
from amends.core.protocols import Context, Params
from amends.engine import checkpoint


@dataclass
class State:
    """Where an outer loop is."""

    step: int
    """Steps taken."""
    inner: Params
    memory: Mapping[str, Params]
    values: list[float]


@dataclass(frozen=True)
class Keeper:
    """The checkpoint of one outer loop; without a folder it does nothing."""

    run: Context
    outer: dict[str, Tensor]
    """The tensors that the loop moves in place; restored in place."""
    optimiser: torch.optim.Optimizer | None
    settings: Mapping[str, str]
    """What the checkpoint has to agree with, in words."""

    def save(self, state: State) -> None:
        """Writes it all, under a temporary name first."""
        if self.run.folder is None:
            return
        trees = {"x": self.outer, "y": state.inner, **{f"m|{key}": tree for key, tree in state.memory.items()}}
        tensors = {f"{level}|{name}": value for level, tree in trees.items() for name, value in tree.items()}
        moments = {} if self.optimiser is None else checkpoint.optimiser_tensors(self.optimiser, self.outer)
        tensors |= {f"o|{k}": v for k, v in moments.items()}
        # clones: the format refuses tensors that share memory, as a momentum's point and the inner parameters may
        whole = {k: v.detach().clone() for k, v in tensors.items()}
        checkpoint.save(self._path(), whole, step=state.step, values=state.values, settings=dict(self.settings))

    def resume(self, inner: Params) -> State:
        """Takes up the checkpoint, or begins at `inner`. Raises UserError for one that other settings wrote."""
        if self.run.folder is None or not self._path().is_file():
            return State(0, inner, {}, [])
        tensors, state = checkpoint.load(self._path())
        self._agree(tensors, state.get("settings"), inner)
        self._put(tensors)
        memory: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("m|"):
                _, of, name = key.split("|", 2)
                memory.setdefault(of, {})[name] = value.to(self._device)
        self.run.say(f"resumed at step {state['step']}")
        return State(state["step"], {n: tensors[f"y|{n}"].to(v) for n, v in inner.items()}, memory, state["values"])

    def _agree(self, tensors: Mapping[str, Tensor], settings: Mapping[str, str] | None, inner: Params) -> None:
        here = {f"{level}|{n}": v for level, tree in (("x", self.outer), ("y", inner)) for n, v in tree.items()}
        there = {k: v for k, v in tensors.items() if k[:2] in ("x|", "y|")}
        shapes = [{k: (v.shape, v.dtype) for k, v in of.items()} for of in (here, there)]
        said = settings or {}
        other = next((k for k, v in self.settings.items() if said.get(k) != v), None)
        if shapes[0] != shapes[1]:
            other = "parameters"
        if other is not None:
            raise UserError(
                f"{self._path()}: the checkpoint was written with other {other}: finish that run with the settings it had, or "
                "take another folder"
            )

    @torch.no_grad()
    def _put(self, tensors: Mapping[str, Tensor]) -> None:
        for name, value in self.outer.items():
            value.copy_(tensors[f"x|{name}"])
        if self.optimiser is None:
            return
        moments = {k[2:]: v.to(self._device) if v.ndim else v for k, v in tensors.items() if k.startswith("o|")}
        checkpoint.restore_optimiser(self.optimiser, self.outer, moments)

    @property
    def _device(self) -> torch.device:
        return next(iter(self.outer.values())).device

    def _path(self) -> Path:
        assert self.run.folder is not None
        return self.run.folder / "checkpoint.safetensors"


def worded(part: object) -> str:
    """A part as text that is the same in another process: without addresses in memory.

    >>> worded(3), worded(worded)
    ('3', '<function worded>')
    """
    return re.sub(r" at 0x[0-9a-f]+", "", repr(part))
