"""amends: find what is wrong in a trained model, forget it, prove that it is gone, protect what comes after.

Public names load on first use, so `import amends` costs milliseconds and imports no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "AdamW": "engine.optim", "Ascent": "terms.ascent", "Bundle": "data.bundle", "CausalLM": "subjects.causal_lm",
    "Classifier": "subjects.classifier", "Denoiser": "subjects.diffusion", "DPO": "terms.dpo",
    "Evaluation": "metrics.evaluation", "Gradient": "unlearn.gradient", "Idk": "terms.idk", "KL": "terms.kl",
    "Memory": "core.context", "NLL": "terms.nll", "NPO": "terms.npo", "Sample": "core.types", "SimNPO": "terms.simnpo",
    "UserError": "core.errors", "Weighted": "core.spec", "fit": "engine.fit", "spec": "core.spec",
}  # fmt: skip

__all__ = sorted(_NAMES)  # pyrefly: ignore


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'amends' has no attribute {name!r}")
    return getattr(importlib.import_module(f"amends.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])
