"""The training loop: a weighted sum of terms, each on one role, with edits around the optimiser's step.

One step: for each role of the objective, one forward of that role's rows, its terms' sum, one backward; then the
edits on gradients, the optimiser, the edits on weights. A term's mean is divided by the GLOBAL count of rows or
tokens of the step, which is known before any forward, so that accumulation and several processes change nothing.
Roles go through the network one after another: the peak of memory is that of one role's activations.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from amends.core.errors import NeedsReference, UserError
from amends.core.protocols import Context, Need, Start, Step
from amends.core.rng import stream_seed
from amends.core.spec import Weighted
from amends.core.types import Role
from amends.data.bundle import Bundle
from amends.engine.guards import Guard, bf16_share_moving, every_kth
from amends.engine.keeper import Keeper
from amends.engine.loader import Loader
from amends.engine.parallel import Parallel, from_main
from amends.engine.score import nll_by_id
from amends.engine.view import Beside, RoleView
from amends.subjects.reference import AdapterOff, Cached, Reference, frozen_copy

COMPARES = frozenset({Need.REFERENCE, Need.REFERENCE_DIST, Need.REFERENCE_HIDDEN})
"""What only a start model can give."""


class Outcome(NamedTuple):
    """How a fit ended: steps taken, why it stopped early (None: it did not), seconds."""

    steps: int
    stopped: str | None
    seconds: float
    suppression: str | None = None
    """A sentence, where the weights still hold what the output no longer shows."""
    sparsity: float | None = None
    """The share of the prunable weights that is held at 0, of a stage that prunes."""


def fit(
    subject: Any, objective: Sequence[Weighted], data: Bundle, *, steps: int, optim: Any, batch: int = 8,
    micro: int | None = None, edits: Sequence[Any] = (), guards: Sequence[Guard] = (),
    reference: Literal["start"] | Reference | None = None, parallel: Parallel | None = None,
    checkpoint_every: int | None = None, without: frozenset[str] = frozenset(), run: Context,
) -> Outcome:  # fmt: skip
    """Trains a subject in place.

    Args:
        subject: the model; its parameters that require a gradient are trained.
        objective: weighted terms; terms of one role share one forward.
        steps: optimiser steps; `batch` rows of EACH role a step, over all processes.
        micro: rows of one forward in one process; None for the whole batch.
        reference: `"start"` for the model as it is now (cached numbers where they suffice), or your own.
        checkpoint_every: steps between two exact checkpoints in the run's folder.
        without: ids of rows that keep their place in the order and are missing from their batches; a step of no row does
            nothing.

    Raises:
        UserError: an empty or unknown role, rows without an alternative that is needed, a disk that is full.
        NeedsReference: a term compares with the start model, and `reference` is None.
    """
    parallel = parallel or Parallel()
    for weighted in objective:
        if reference is None and COMPARES & weighted.term.needs:
            raise NeedsReference(f"{type(weighted.term).__name__} compares with a start model, and this stage has none")
    loop = _Loop(
        subject, tuple(objective), data, steps, optim, batch, micro, tuple(edits), tuple(guards), parallel, run, without
    )
    loop.prepare(reference)
    try:
        return loop.run_all(checkpoint_every)
    finally:
        loop.finish()


def is_lora(subject: Any) -> bool:
    """Whether the module carries a peft adapter that can be switched off."""
    return hasattr(subject.module, "disable_adapter")


@dataclass
class _Loop:
    """The state of one fit; lives as long as the call."""

    subject: Any
    objective: tuple[Weighted, ...]
    data: Bundle
    steps: int
    optim: Any
    batch: int
    micro: int | None
    edits: tuple[Any, ...]
    guards: tuple[Guard, ...]
    parallel: Parallel
    run: Context
    without: frozenset[str] = frozenset()
    memory: list[dict[str, Any]] = field(default_factory=list)

    # ------------------------------------------------------------------ before the first step

    def prepare(self, reference: Literal["start"] | Reference | None) -> None:
        self.device = self.parallel.device
        self.subject.call.to(self.device)
        self.roles: dict[Role, list[Weighted]] = {}
        for weighted in self.objective:
            self.roles.setdefault(weighted.term.role, []).append(weighted)
        self.loaders = {role: self._loader(role, terms) for role, terms in self.roles.items()}
        beside = {role for w in self.objective if Need.BESIDE in w.term.needs for role in w.term.beside}
        self.looked_at = {role: self.loaders.get(role) or self._loader(role, []) for role in sorted(beside)}
        self.reference = self._reference(reference)
        before = {name: p.requires_grad for name, p in self.subject.module.named_parameters()}
        start = Start(self.subject, self.data, self.run)
        states = [edit.init(dict(self.subject.module.named_parameters()), start) for edit in self.edits]
        partly = any({Need.HIDDEN, Need.REFERENCE_HIDDEN} & w.term.needs for w in self.objective)
        self.subject.call = self.parallel.wrap(self.subject.call, partly=partly)
        named = dict(self.subject.module.named_parameters())
        self.states = [self._spread(state, named) for state in states]
        self.multipliers = [w.term.first() if _adapts(w.term) else 1.0 for w in self.objective]
        self.frozen_by_edits = [n for n, p in named.items() if before[n] and not p.requires_grad]
        self.params: dict[str, Tensor] = {n: p for n, p in named.items() if p.requires_grad}
        if not self.params:
            self.finish()
            raise UserError("nothing to train: every parameter is frozen")
        self.optimiser = self.optim.make(self.params)
        self.keeper = Keeper.of(self.run, self.parallel, self.subject.module, self.params, self.optimiser)
        self.memory = [{} for _ in self.guards]
        self._warn_bf16()

    def _loader(self, role: Role, terms: list[Weighted]) -> Loader:
        needs = frozenset().union(*(w.term.needs for w in terms))
        alternatives = self.data.alternatives if Need.ALTERNATIVE in needs else None
        return Loader(
            self.subject, role, self.data[role], alternatives, rows=self.batch, seed=self.run.seed, micro=self.micro,
            rank=self.parallel.rank, world=self.parallel.world, without=self.without,
            own=not terms or any(Need.ALTERNATIVE_ONLY not in w.term.needs for w in terms),
        )  # fmt: skip

    def _reference(self, reference: Literal["start"] | Reference | None) -> Reference | None:
        if reference != "start":
            return reference
        needs = {need for w in self.objective for need in w.term.needs}
        more = bool({Need.REFERENCE_DIST, Need.REFERENCE_HIDDEN} & needs)
        whole = more or (Need.REFERENCE in needs and self.subject.stochastic)
        if whole:
            return AdapterOff(self.subject) if is_lora(self.subject) else frozen_copy(self.subject)
        if Need.REFERENCE not in needs:
            return None
        rows = {}
        for role, terms in self.roles.items():
            if any(Need.REFERENCE in w.term.needs for w in terms):
                rows |= {s.id: s for s in self.data[role]}
                if self.loaders[role].alternatives is not None:
                    rows |= {a.id: a for s in self.data[role] for a in [self.data.alternatives[s.id]]}
        with self.parallel.autocast():  # a ratio means something only between equal precisions
            scored = nll_by_id(self.subject, list(rows.values()), device=self.device)
        return Cached({i: nll for i, (nll, _) in scored.items()}, self.subject)

    def _spread(self, state: Any, named: Mapping[str, Tensor]) -> Any:
        """An edit's state with its entries for parameters spread over processes as the parameters are."""
        if not isinstance(state, Mapping):
            return state
        return {k: self.parallel.like(v, named[k]) if k in named else v for k, v in state.items()}

    def _warn_bf16(self) -> None:
        largest = max(self.params.values(), key=lambda p: p.numel())
        if largest.dtype is torch.bfloat16:
            share = bf16_share_moving(self.parallel.full(largest), self.optim.lr)
            if share < 0.5:
                self.run.say(
                    f"warning: the weights are bf16, and a step of {self.optim.lr:g} changes only {share:.0%} of them: "
                    "load them in float32 (dtype: float32), use LoRA, or raise the learning rate"
                )

    # ------------------------------------------------------------------ the steps

    def run_all(self, checkpoint_every: int | None) -> Outcome:
        began = time.perf_counter()
        step, stopped = self._resume()
        if step == 0:
            self.keeper.forget_best()
            self._log_gradient_ratio()
            stopped = self._look(0)
        with self.run.progress("training", self.steps) as bar:
            bar.advance(step)
            while step < self.steps and stopped is None:
                values = self._step(step)
                stopped = self._not_finite(step, values)
                if stopped is None:
                    step += 1
                    self.run.log(step=step, **values)
                    bar.advance(1, loss=values["loss"])
                    stopped = self._look(step)
                if checkpoint_every and self.run.folder and (step % checkpoint_every == 0 or stopped):
                    kept = {"memory": self.memory, "multipliers": self.multipliers, "stopped": stopped}
                    self.keeper.save(step, kept, self.states)
        if stopped:
            self.run.say(stopped)
            self.keeper.restore_best()
        return Outcome(step, stopped, time.perf_counter() - began)

    def _resume(self) -> tuple[int, str | None]:
        resumed = self.keeper.resume(self.states)
        if resumed is None:
            return 0, None
        step, kept, self.states = resumed
        self.memory, self.multipliers = kept["memory"], kept["multipliers"]
        for guard, memory in zip(self.guards, self.memory, strict=True):
            if hasattr(guard, "resumed"):
                guard.resumed(memory)
        return step, kept["stopped"]

    def _step(self, step: int) -> dict[str, float]:
        lr = self.optim.lr_at(step, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        with self._dropout(step):
            totals = self._backward(step)
        at = Step(step, self.steps, lr)
        self.states = [e.grads(self.params, s, at) for e, s in zip(self.edits, self.states, strict=True)]
        norm = float(self.parallel.full(self._grad_norm()))
        shown = {f"{label}.multiplier": m for label, m, w in self._summands() if _adapts(w.term)}
        values = {"loss": sum(totals.values()), "lr": lr, "grad_norm": norm, **totals, **shown}
        if all(math.isfinite(v) for v in values.values()):
            self._follow(step)
            self.optimiser.step()
            self.states = [e.weights(self.params, s, at) for e, s in zip(self.edits, self.states, strict=True)]
        self.optimiser.zero_grad(set_to_none=True)
        return values

    def _backward(self, step: int) -> dict[str, float]:
        """Accumulates the gradient of the whole objective; returns each weighted term's global value."""
        self.subject.call.train()
        counts = [self.loaders[w.term.role].count_at(step, w.term) for w in self.objective]
        factors = [w.weight * m for _, m, w in self._summands()]
        busy = {w.term.role for _, m, w in self._summands() if m or not getattr(w.term, "rests", False)}
        pieces = [(role, micro) for role, loader in self.loaders.items() if role in busy for micro in loader.at(step)]
        beside = Beside(self.subject, {role: loader.whole for role, loader in self.looked_at.items()}, step, self.device)
        sums = torch.zeros(len(factors), device=self.device)
        for i, (role, micro) in enumerate(pieces):
            with self.parallel.backward(self.subject.call, last=i == len(pieces) - 1), self.parallel.autocast():
                view = RoleView(self.subject, micro.batch.to(self.device), micro.num_rows, self.reference, beside)
                loss = torch.zeros((), device=self.device)
                for j, weighted in enumerate(self.objective):
                    if weighted.term.role == role:
                        value = weighted.term(view).total_B.sum() / counts[j]
                        sums[j] += value.detach()
                        loss = loss + factors[j] * value
                (loss * self.parallel.world).backward()  # DDP and FSDP2 average over processes
        self.values = self.parallel.sum(sums).tolist()
        return {label: f * v for (label, _, _), f, v in zip(self._summands(), factors, self.values, strict=True)}

    def _summands(self) -> list[tuple[str, float, Weighted]]:
        """(label, multiplier, weighted term) of the objective."""
        return [(_label(w, i), m, w) for i, (w, m) in enumerate(zip(self.objective, self.multipliers, strict=True))]

    def _follow(self, step: int) -> None:
        """Moves the multipliers of constraints by the values of this step."""
        self.multipliers = [
            w.term.following(m, v, step) if _adapts(w.term) else m
            for w, m, v in zip(self.objective, self.multipliers, self.values, strict=True)
        ]

    @contextmanager
    def _dropout(self, step: int) -> Iterator[None]:
        """Sets torch's own stream, which dropout draws from, by the step, and puts it back: resuming changes nothing."""
        devices = [] if self.device.type == "cpu" else [self.device]
        with torch.random.fork_rng(devices, device_type=self.device.type if devices else "cuda"):
            torch.manual_seed(stream_seed(self.run.seed, "dropout", step, self.parallel.rank))
            yield

    def _grad_norm(self) -> Tensor:
        return torch.nn.utils.get_total_norm([p.grad for p in self.params.values() if p.grad is not None])

    def _not_finite(self, step: int, values: dict[str, float]) -> str | None:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if not bad:
            return None
        return (
            f"diverged: {', '.join(bad)} is not finite at step {step}; the update was not applied. Lower lr or add a clip edit"
        )

    def _log_gradient_ratio(self) -> None:
        """The forget-to-retain gradient ratio decides what a learning rate means, so it is shown before the first step."""
        if len(self.roles) < 2:
            return
        norms = {}
        everything = self.objective, self.loaders, self.multipliers
        before = {name: b.clone() for name, b in self.subject.module.named_buffers()}
        for role in self.roles:
            self.objective, self.loaders = tuple(self.roles[role]), {role: everything[1][role]}
            self.multipliers = [m for w, m in zip(everything[0], everything[2], strict=True) if w.term.role == role]
            with self._dropout(0):
                self._backward(0)
            norms[role] = float(self.parallel.full(self._grad_norm()))
            self.optimiser.zero_grad(set_to_none=True)
            self.objective, self.loaders, self.multipliers = everything
        for name, b in self.subject.module.named_buffers():  # a batch norm has seen rows: looking must not train
            b.copy_(before[name])
        first, *others = norms
        seen = {o: norms[o] > 1e-6 * norms[first] for o in others}  # a divergence starts at 0, up to rounding
        text = ", ".join(f"{first} : {o} = {norms[first] / norms[o]:.3g}" if seen[o] else f"{o} = 0" for o in others)
        self.run.say(f"gradient norms at the start: {text} ({', '.join(f'{r} {n:.3g}' for r, n in norms.items())})")
        self.run.log(step=0, **{f"grad_norm.{role}": norm for role, norm in norms.items()})

    # ------------------------------------------------------------------ guards

    def probability(self, role: Role, rows: int) -> float:
        """Mean p(answer)^(1/n) over some rows of a role."""
        scored = nll_by_id(self.subject, every_kth(self.data[role], rows), device=self.device)
        return sum(math.exp(-nll / n) for nll, n in scored.values()) / len(scored)

    def answers(self, role: Role, rows: int) -> list[str]:
        """Greedy answers to some rows of a role; [] where the subject does not generate."""
        if not hasattr(self.subject, "generate"):
            return []
        self.subject.call.eval()
        return [t for texts in self.subject.generate(every_kth(self.data[role], rows)) for t in texts]

    def _look(self, step: int) -> str | None:
        verdicts = [
            guard.look(step, self, memory)
            for guard, memory in zip(self.guards, self.memory, strict=True)
            if step % guard.every == 0 or step == self.steps
        ]
        spoilt = next((v.stop for v in verdicts if v.stop and not v.keep), None)
        if any(v.keep for v in verdicts) and spoilt is None:
            self.keeper.keep_best(step)
        return spoilt or next((v.stop for v in verdicts if v.stop), None)

    def finish(self) -> None:
        """Gives the subject back whole, unwrapped and in evaluation mode, the same one in every process.

        Running statistics (of a batch normalisation) are each process's own, of the rows it saw: the main one's count.
        """
        self.subject.adopt(self.parallel.unwrap(self.subject.call).eval())
        for buffer in self.subject.module.buffers():
            from_main(buffer)
        frozen = set(self.frozen_by_edits)
        for name, p in self.subject.module.named_parameters():
            if name in frozen:
                p.requires_grad_(True)


def _adapts(term: Any) -> bool:
    """Whether a term carries a multiplier (`amends.core.protocols.Adaptive`)."""
    return hasattr(term, "following")


def _label(weighted: Weighted, index: int) -> str:
    return f"{index}.{type(weighted.term).__name__.lower()}.{weighted.term.role}"
