"""What a step of unlearning (NPO + NLL) costs: against a bare loop on the same batches, and against the usual way.

Four ways to take one step are interleaved in one process, step by step, so that drift of the machine cancels:

fit      `amends.engine.fit.fit` from end to end, guards off, the reference cached as numbers.
bare     the same batches: the same two `subject.likelihood` calls, `loss.backward()`, fused AdamW; nothing else.
longest  the usual way: random batches padded to their longest row, a frozen copy of the model run at every step, logits
         for every position, the same optimiser.
fixed    the same, padded to a fixed length as in TOFU's own code (500 tokens).

All four see the same rows once an epoch, so a ratio of useful (supervised, unpadded) tokens a second is a ratio of
seconds an epoch. Every fixed batch has one shape, so that one step an epoch is measured and multiplied.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from common import Clock, Figure, figure, parser, prepare, report, twin
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from amends.core.context import Memory
from amends.core.rng import rng
from amends.core.spec import Weighted
from amends.engine.fit import fit
from amends.engine.loader import Loader
from amends.engine.optim import AdamW
from amends.engine.score import nll_by_id
from amends.terms.nll import NLL
from amends.terms.npo import NPO

BETA, LR, ROLES, IGNORED = 0.1, 1e-5, ("forget", "retain"), -100


def npo(nll_B: Tensor, start_B: Tensor) -> Tensor:
    """The loss, written by hand."""
    return -(2 / BETA) * logsigmoid(-BETA * (start_B - nll_B)).mean()


class Bare:
    """The least a step can be: forward, backward and optimiser on batches that are ready made."""

    def __init__(self, subject: Any, data: Any, rows: int) -> None:
        self.subject = subject
        self.subject.call.train()
        self.optimiser = torch.optim.AdamW(subject.module.parameters(), lr=LR, weight_decay=0.0, fused=True)
        loaders = [Loader(subject, role, data[role], None, rows=rows, seed=0) for role in ROLES]
        self.batches = lambda step: [loader.at(step)[0].batch for loader in loaders]
        self.start = {i: nll for i, (nll, _) in nll_by_id(subject, data["forget"]).items()}

    def ready(self, step: int) -> Callable[[], None]:
        """One step as a function; its batches are made here, outside the clock."""
        forget, retain = self.batches(step)
        start_B = torch.tensor([self.start[i] for i in forget.ids])
        return lambda: self._step(forget, retain, start_B)

    def _step(self, forget: Any, retain: Any, start_B: Tensor) -> None:
        npo(self.subject.likelihood(forget).nll_B, start_B).backward()
        kept = self.subject.likelihood(retain)
        (kept.nll_B.sum() / kept.n_B.sum()).backward()
        self.optimiser.step()
        self.optimiser.zero_grad()


class Usual:
    """How it is commonly done: plain tensors with -100 as labels, and a frozen second model."""

    def __init__(self, subject: Any, data: Any, rows: int) -> None:
        self.model, self.rows = subject.module.train(), rows
        self.frozen = twin(subject).module.eval().requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=LR, weight_decay=0.0, fused=True)
        self.encoded = {role: [subject.encode(s) for s in data[role]] for role in ROLES}
        self.pad = subject.tokenizer.pad_token_id

    def ready(self, step: int, width: int | None) -> Callable[[], None]:
        """One step as a function; `width` pads every row to one length, None to the longest of the batch."""
        forget, retain = (self._batch(role, step, width) for role in ROLES)
        return lambda: self._step(forget, retain)

    def _batch(self, role: str, step: int, width: int | None) -> dict[str, Tensor]:
        epoch, index = divmod(step, len(self.encoded[role]) // self.rows)
        order = torch.randperm(len(self.encoded[role]), generator=rng(0, "usual order", role, epoch)).tolist()
        rows = [self.encoded[role][i] for i in order[index * self.rows : (index + 1) * self.rows]]
        shape = (len(rows), width or max(r.size for r in rows))
        ids, mask = torch.full(shape, self.pad), torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, IGNORED)
        for i, row in enumerate(rows):
            ids[i, : row.size], mask[i, : row.size] = row.tensors["input_ids"], 1
            labels[i, : row.size] = row.tensors["input_ids"].where(row.tensors["supervised"], IGNORED)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def _step(self, forget: dict[str, Tensor], retain: dict[str, Tensor]) -> None:
        with torch.no_grad():
            start_B = _row_nll(self.frozen, forget)
        npo(_row_nll(self.model, forget), start_B).backward()
        self.model(**retain, use_cache=False).loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()


def _row_nll(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Summed over each row's labels, from the logits of every position."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    labels = batch["labels"][:, 1:]
    return cross_entropy(logits[:, :-1].transpose(1, 2), labels, ignore_index=IGNORED, reduction="none").sum(1)


@dataclass
class Interleaved:
    """A run whose every logged step ends the clock of `fit`, takes the other ways' step, and starts the clock again."""

    others: Callable[[int], None]
    seed: int = 0
    folder: Path | None = None
    steps: list[Clock] = field(default_factory=list)
    mark: Clock = field(default_factory=Clock.now)

    def rng(self, *names: object) -> torch.Generator:
        """The named stream."""
        return rng(self.seed, *names)

    def log(self, **values: Any) -> None:
        """Step 0 is the look at the gradients before training."""
        if values["step"] > 0:
            self.steps.append(Clock.now().since(self.mark))
            self.others(values["step"] - 1)
        self.mark = Clock.now()

    def say(self, text: str) -> None:
        """Says nothing."""

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Any]:
        """Shows nothing."""
        with Memory().progress(label, total) as bar:
            yield bar


def measure(options: argparse.Namespace) -> tuple[dict[str, list[Clock]], dict[str, Any]]:
    """The clocks of every step of each way, the first epoch (a warm-up) included, and the setting."""
    subject, data, setting = prepare(options)
    bare, usual = Bare(twin(subject), data, options.rows), Usual(twin(subject), data, options.rows)
    times: dict[str, list[Clock]] = {"bare": [], "longest": [], "fixed": []}

    def others(step: int) -> None:
        ways = {"bare": bare.ready(step), "longest": usual.ready(step, None)}
        if options.pad_to and step % options.batches == 0:
            ways["fixed"] = usual.ready(step, min(options.pad_to, subject.max_length))
        for way in list(ways) if step % 2 else reversed(list(ways)):
            times[way].append(Clock.timed(ways[way]))

    run = Interleaved(others)
    steps = options.batches * (options.reps + 1)
    objective = [Weighted(term=NPO(beta=BETA)), Weighted(term=NLL())]
    fit(subject, objective, data, steps=steps, optim=AdamW(lr=LR), batch=options.rows, reference="start", run=run)
    apart = _apart(subject, bare.subject)
    if apart > 1e-4:
        sys.exit(f"error: fit and the bare loop did not train the same model: weights are {apart:.1e} apart")
    encoded = [subject.encode(s) for role in ROLES for s in data[role]]
    setting["tokens"] = (
        f"{sum(e.size for e in encoded)} ({sum(int(e.tensors['supervised'].sum()) for e in encoded)} supervised)"
    )
    return {"fit": run.steps, **times}, setting


@torch.no_grad()
def _apart(one: Any, other: Any) -> float:
    pairs = zip(one.module.parameters(), other.module.parameters(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def figures(times: dict[str, list[Clock]], options: argparse.Namespace) -> list[Figure]:
    """Ratios of processor time, which are judged, and of wall time, which are not."""
    found = []
    for clock in ("cpu", "wall"):
        judged = clock == "cpu"
        seconds = {way: [getattr(c, clock) for c in clocks] for way, clocks in times.items()}
        epochs = {way: _epochs(s, options.batches) for way, s in seconds.items() if way != "fixed"}
        epochs["fixed"] = [s * options.batches for s in seconds["fixed"][1:]]
        steady = {way: s[options.batches :] for way, s in seconds.items()}
        found.append(figure(f"{clock}: one step of fit", steady["fit"], unit="s"))
        limit = {"at_most": 1.10} if judged else {}
        found.append(figure(f"{clock}: fit / bare loop, same batches", _ratios(steady["fit"], steady["bare"]), **limit))
        for way, name in (("longest", "longest row"), ("fixed", f"{options.pad_to} tokens")):
            if epochs[way]:
                limit = {"at_least": 2.0} if judged else {}
                title = f"{clock}: useful tokens/s / usual way, {name}"
                found.append(figure(title, _ratios(epochs[way], epochs["fit"]), **limit))
    return found


def _epochs(steps: Sequence[float], size: int) -> list[float]:
    """Seconds of each epoch but the first."""
    return [sum(steps[i : i + size]) for i in range(size, len(steps), size)]


def _ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


def main() -> None:
    """Measures and prints."""
    options = parser(__doc__)
    options.add_argument("--pad-to", type=int, default=500, help="the fixed length of the usual way; 0 leaves it out")
    chosen = options.parse_args()
    times, setting = measure(chosen)
    report(figures(times, chosen), setting, chosen)


if __name__ == "__main__":
    main()
