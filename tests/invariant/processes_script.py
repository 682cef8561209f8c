"""Started by `test_processes.py` in every process of a group: runs each case and writes what came out of it.

Usage: python -m torch.distributed.run ... processes_script.py STRATEGY FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from amends.augment.written import Written
from amends.core.context import Memory
from amends.core.spec import Weighted
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.edits.clip import Clip
from amends.edits.freeze import Freeze
from amends.edits.only_blocks import OnlyBlocks
from amends.edits.soft_mask import SoftMask
from amends.edits.weight_mask import WeightMask
from amends.engine.fit import fit
from amends.engine.guards import Repetition, UtilityBudget
from amends.engine.optim import AdamW
from amends.engine.parallel import Parallel
from amends.subjects.image_classifier import ImageClassifier
from amends.subjects.images import Augment
from amends.subjects.lora import Lora
from amends.subjects.tiny import TinyDenoiser, TinyLM
from amends.terms.constraint import Constraint
from amends.terms.embed_diff import EmbedDiff
from amends.terms.kl import KL
from amends.terms.nll import NLL
from amends.terms.npo import NPO
from amends.terms.rmu import RMU

NPO_NLL = (Weighted(term=NPO()), Weighted(term=NLL()))
NPO_KL = (Weighted(term=NPO()), Weighted(term=KL(), weight=2.0))
STEERED = (Weighted(term=RMU(layer=0, c=2)), Weighted(term=EmbedDiff(layer=0), weight=3.0))
HELD = (Weighted(term=NPO()), Weighted(term=Constraint(term=NLL(role="retain"), at_most=0.5), weight=0.5))


def data() -> Bundle:
    """Seven rows a role, of different lengths: neither two processes nor pieces of two divide them evenly."""
    return Bundle({r: tuple(row(r, i) for i in range(7)) for r in ("forget", "retain")})


def row(role: str, i: int) -> Sample:
    return Sample(f"{role}-{i}", {"question": f"Who lives in {role} {i}?", "answer": "A very " * (i % 4) + f"old man, {i}."})


def images() -> Bundle:
    """The same for a model that draws noise."""
    return Bundle(
        {r: tuple(Sample(f"{r}-{i}", {"image": torch.full((1, 8, 8), (i - j) / 4), "label": i % 4}) for i in range(7))
         for j, r in enumerate(("forget", "retain"))}
    )  # fmt: skip


def tiny(lora: bool = False) -> Any:
    subject = TinyLM(width=32, depth=2, heads=2, vocab=300).load(data(), 0)
    return Lora(rank=4).attach(subject, seed=0) if lora else subject


WRITTEN = Written(num=2, max_new_tokens=5, request="{question}")
"""Every process has other weights, so each would write something else."""
CASES: dict[str, dict[str, Any]] = {
    "npo": {"objective": NPO_NLL, "edits": [Clip(norm=1.0)]},
    "pieces": {"objective": NPO_NLL, "micro": 1},
    "kl": {"objective": NPO_KL},
    "lora": {"objective": NPO_KL, "lora": True},
    "frozen": {"objective": NPO_NLL, "edits": [Freeze(only=("*mlp*",))]},
    "guarded": {"objective": (Weighted(term=NLL(), weight=-1.0),), "steps": 12, "guards": [UtilityBudget(drop=0.3, every=2)]},
    "asked": {"objective": NPO_NLL, "guards": [Repetition(every=2, rows=3)]},
    "noise": {"objective": NPO_NLL, "denoiser": True},
    "rmu": {"objective": STEERED, "edits": [OnlyBlocks(layer=0, only=("*down_proj*",)), Clip(norm=1.0)]},
    "rmu_everywhere": {"objective": STEERED, "micro": 2},
    "rmu_with_nll": {"objective": (*STEERED, Weighted(term=NLL(role="retain")))},
    "constraint": {"objective": HELD, "micro": 2},
    "masked": {"objective": NPO_NLL, "edits": [WeightMask(keep=0.7), Clip(norm=1.0)]},
    "soft_mask": {"objective": NPO_NLL, "edits": [SoftMask(share=0.5)]},
}
"""Each case's options of `fit`; all of them start from the same weights."""


def run(
    case: str, parallel: Parallel | None, folder: Path | None = None
) -> tuple[list[dict[str, float]], dict[str, torch.Tensor], list[str]]:
    """Logged values, final weights and sentences of one case."""
    options = dict(CASES[case])
    denoiser = options.pop("denoiser", False)
    subject = TinyDenoiser().load(images(), 0) if denoiser else tiny(options.pop("lora", False))
    memory = Memory(folder=folder)
    fit(
        subject, options.pop("objective"), images() if denoiser else data(), steps=options.pop("steps", 5), batch=5,
        optim=AdamW(lr=2e-3, warmup=0.2, schedule="cosine"), reference="start", parallel=parallel, run=memory,
        checkpoint_every=3, **options,
    )  # fmt: skip
    return memory.logged, {n: p.detach().clone() for n, p in subject.module.named_parameters()}, memory.said


def running(parallel: Parallel | None) -> dict[str, torch.Tensor]:
    """A network with batch normalisation and drawn shifts after five steps: weights and running statistics."""
    subject = ImageClassifier(width=2, classes=4, augment=Augment(crop=1)).load(images(), 0)
    fit(subject, NPO_NLL, images(), steps=5, batch=5, optim=AdamW(lr=2e-3), reference="start", parallel=parallel, run=Memory())
    return {n: t.detach().clone() for n, t in subject.module.state_dict().items()}


def main(strategy: str, folder: Path) -> None:
    torch.set_num_threads(1)
    for case in CASES:
        parallel = Parallel(strategy)  # type: ignore[arg-type]
        assert parallel.world == 2 and parallel.strategy == strategy
        logged, weights, said = run(case, parallel, folder / case)
        out = folder / f"{case}-{parallel.rank}"
        out.with_suffix(".json").write_text(json.dumps({"logged": logged, "said": said}))
        save_file(weights, out.with_suffix(".safetensors"))
    save_file(running(Parallel(strategy)), folder / f"running-{parallel.rank}.safetensors")  # type: ignore[arg-type]
    written = WRITTEN(TinyLM(width=32, depth=2, heads=2, vocab=300).load(data(), parallel.rank), data(), Memory(folder=folder))
    texts = {i: s.data["answer"] for i, s in written.alternatives.items()}
    (folder / f"written-{parallel.rank}.json").write_text(json.dumps(texts))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
