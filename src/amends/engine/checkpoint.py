"""Exact checkpoints: trainable weights, optimiser state, step, and what the guards remember, in one safetensors file.

Random streams and the data position are functions of the step and need no saving. Every write goes to a temporary
name and is renamed, so a killed run leaves the last whole checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from amends.core.errors import UserError


def save(path: Path, tensors: Mapping[str, Tensor], **state: Any) -> None:
    """Writes tensors and JSON-able state under a temporary name, then renames; names the disk when it is full."""
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.detach().contiguous() for k, v in tensors.items()}, temporary, metadata={"state": json.dumps(state)})
        temporary.replace(path)
    except Exception as error:  # safetensors wraps the OSError in its own type
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) or "os error" in str(error).lower():
            raise UserError(f"{path}: could not be written ({error}); what was saved before is untouched") from None
        raise


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the state of a checkpoint."""
    with safe_open(path, framework="pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, json.loads(file.metadata()["state"])  # noqa: SIM118


def optimiser_tensors(optimiser: torch.optim.Optimizer, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The optimiser's per-parameter state under `parameter name|state name`."""
    return {
        f"{name}|{key}": value
        for name, p in params.items()
        for key, value in optimiser.state.get(p, {}).items()
        if isinstance(value, Tensor)
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, params: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimiser_tensors`."""
    for name, value in tensors.items():
        parameter, key = name.rsplit("|", 1)
        optimiser.state[params[parameter]][key] = value
