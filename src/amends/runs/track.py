"""Mirrors a run's numbers into a tracker of the user's choice, through Accelerate's tracker classes.

The run's own `metrics.jsonl` is always written and is the record; a tracker is a view of it. `trackio` keeps a SQLite
file and works offline; `mlflow`, `wandb`, `tensorboard` and the others are for teams that have them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amends.core.errors import UserError, nearest

_MODULES = {"comet_ml": "comet_ml", "tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio",
            "aim": "aim", "clearml": "clearml", "dvclive": "dvclive", "swanlab": "swanlab"}  # fmt: skip


class Mirror:
    """One tracker of one run."""

    def __init__(self, name: str, project: str, folder: Path, config: Mapping[str, Any]) -> None:
        if name not in _MODULES:
            raise UserError(f"--track {name}: no such tracker{nearest(name, _MODULES)}")
        if importlib.util.find_spec(_MODULES[name]) is None:
            raise UserError(f"--track {name}: the package {_MODULES[name]} is not installed: pip install {_MODULES[name]}")
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # accelerate's trackers ask it which process they are in
        cls: Any = LOGGER_TYPE_TO_CLASS[name]
        self._tracker = cls(project, str(folder / "track")) if cls.requires_logging_directory else cls(project)
        if hasattr(self._tracker, "start"):
            self._tracker.start()
        self._tracker.store_init_configuration(dict(config))

    def log(self, values: Mapping[str, Any]) -> None:
        """Numbers only, under `stage/name`."""
        stage = values.get("stage", "")
        numbers = {f"{stage}/{k}": v for k, v in values.items() if isinstance(v, (int, float)) and k not in ("step", "time")}
        self._tracker.log(numbers, step=values.get("step"))

    def close(self) -> None:
        """Lets the tracker finish its files."""
        self._tracker.finish()


def open_all(names: Sequence[str], project: str, folder: Path, config: Mapping[str, Any]) -> list[Mirror]:
    """A mirror for each name."""
    return [Mirror(name, project, folder, config) for name in names]
