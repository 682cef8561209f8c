"""What ULD costs: a generated token against the target's alone, and its training against NPO's on the same rows and epochs.

Both halves are interleaved in one process, so that drift of the machine cancels, and are ratios of processor time.

generation  greedy, with the key-value cache, the same prompts and the same number of new tokens for the target and for the
            target with its assistant; the target runs in the combined model's own copy of its blocks, adapters off.
training    the stages as a recipe runs them, from the call to the finished model: NPO + NLL on all weights, and ULD's
            assistant, each with its own defaults (AdamW 1e-5; AdamW 1e-3, rank 32), for the same rows and epochs.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from common import Clock, Figure, figure, parser, prepare, report, twin

from amends.core.context import Memory
from amends.core.spec import Weighted
from amends.terms.nll import NLL
from amends.terms.npo import NPO
from amends.unlearn.gradient import Gradient
from amends.unlearn.logit_difference import LogitDifference

DEEP = {"width": 256, "depth": 12, "heads": 4}
"""A TinyLM with blocks enough to leave some out."""


def stages(options: argparse.Namespace) -> dict[str, Any]:
    """The two ways to unlearn."""
    length: dict[str, Any] = {"epochs": options.epochs or 1, "batch": options.rows}
    uld = LogitDifference(blocks=options.blocks, shared=options.shared, **length)
    return {"npo": Gradient(objective=(Weighted(term=NPO()), Weighted(term=NLL())), **length), "uld": uld}


def training(subject: Any, data: Any, options: argparse.Namespace) -> list[dict[str, Clock]]:
    """The clocks of each repetition; the first, a warm-up, is left out."""
    ways = stages(options)
    ways["uld"].objective_on(data)  # imports what it needs
    found = []
    for rep in range(options.reps + 1):
        order = list(ways) if rep % 2 else list(reversed(ways))
        work = {way: partial(ways[way], twin(subject), data, Memory()) for way in order}
        found.append({way: Clock.timed(work[way]) for way in order})
    return found[1:]


def generation(model: Any, ids: torch.Tensor, options: argparse.Namespace) -> list[dict[str, Clock]]:
    """The clocks of each repetition; the first, a warm-up, is left out."""
    settings: dict[str, Any] = {
        "max_new_tokens": options.new, "min_new_tokens": options.new, "do_sample": False, "pad_token_id": 1,
        "temperature": None, "top_p": None, "top_k": None,
    }  # fmt: skip
    ways = {"target": model.target, "uld": model}
    found = []
    for rep in range(options.reps + 1):
        order = list(ways) if rep % 2 else list(reversed(ways))
        found.append({way: Clock.timed(partial(ways[way].generate, ids, **settings)) for way in order})
    return found[1:]


def measure(options: argparse.Namespace) -> tuple[list[Figure], dict[str, Any]]:
    """All figures and the setting."""
    subject, data, setting = prepare(options, DEEP)
    model = stages(options)["uld"].around(twin(subject), 0).eval()
    depth = model.config.num_hidden_layers - model.config.blocks + model.config.shared
    setting |= {"blocks": f"{model.config.blocks} of {depth}, {model.config.shared} shared", "epochs": options.epochs}
    ids = torch.randint(2, model.config.vocab_size, (options.prompts, 24), generator=torch.Generator().manual_seed(0))
    said = generation(model, ids, options)
    trained = training(subject, data, options) if options.epochs else []
    found = []
    for clock in ("cpu", "wall"):
        spoken = [{way: getattr(c, clock) for way, c in rep.items()} for rep in said]
        learnt = [{way: getattr(c, clock) for way, c in rep.items()} for rep in trained]
        limits: list[dict[str, Any]] = [{"at_most": 1.35}, {"at_most": 0.35}] if clock == "cpu" else [{}, {}]
        each = [1000 * rep["target"] / options.new for rep in spoken]
        found.append(figure(f"{clock}: target, one token of {options.prompts} rows", each, unit="ms"))
        found.append(figure(f"{clock}: ULD / target, one token", [r["uld"] / r["target"] for r in spoken], **limits[0]))
        if learnt:
            found.append(figure(f"{clock}: NPO, training", [r["npo"] for r in learnt], unit="s"))
            found.append(figure(f"{clock}: ULD / NPO, training", [r["uld"] / r["npo"] for r in learnt], **limits[1]))
    return found, setting


def main() -> None:
    """Measures and prints."""
    options = parser(__doc__)
    options.add_argument("--blocks", type=float, default=0.125, help="the assistant's blocks, as a share of the depth")
    options.add_argument("--shared", type=int, default=0, help="how many of them carry no adapter and run once")
    options.add_argument("--epochs", type=int, default=3, help="passes over the rows; 0 leaves training out")
    options.add_argument("--new", type=int, default=48, help="tokens that are generated")
    options.add_argument("--prompts", type=int, default=1, help="prompts of a batch")
    chosen = options.parse_args()
    report(*measure(chosen), chosen)


if __name__ == "__main__":
    main()
