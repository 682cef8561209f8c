"""A model that is trained sparse: one-shot and iterative magnitude pruning with rewinding, or a score before training.

The ways of Model Sparsity Can Simplify Machine Unlearning (arXiv 2304.04934), all with the kernels of convolutions ranked
over the whole model:

- OMP: `by: magnitude`, one round. Train dense, prune the smallest weights, put the others back to where they were after
  `rewind` steps, train on from there under the mask with the schedule of that step.
- IMP (arXiv 1912.05671): the same in rounds, each of which prunes the same share of what is left, so that after all of
  them (1 - sparsity) is left; 20 % a round makes 95 % in 13 rounds.
- `when: given`: the start model is trained already, so it is pruned as it is and trained on under the mask, without going back
  (arXiv 1506.02626): the cheapest way, and one for a model whose training nobody wants to repeat.
- SynFlow (arXiv 2006.05467): `by: synflow`, `when: fresh`, 100 rounds before any training; SNIP is `by: saliency` in one.

`rewind: 0` goes back to the first weights (the lottery ticket), null does not go back: what is left is trained for another
full length. The optimiser begins anew where training is taken up, without momentum. A pruned weight stays exactly 0 under
momentum and weight decay (`edits/weight_mask.py`), and the mask is left in the stage's folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, SkipValidation
from torch import Tensor

from amends.attribution.magnitude import Magnitude
from amends.core import fingerprint
from amends.core.context import Inside
from amends.core.errors import UserError
from amends.core.protocols import Context, Start
from amends.core.spec import Count, Natural, Part, Weighted, spec
from amends.data.bundle import Bundle
from amends.edits import sparse
from amends.edits.mask_file import Mask
from amends.edits.sparse import Which
from amends.edits.weight_mask import Held, WeightMask
from amends.engine.fit import Outcome
from amends.engine.parallel import Parallel, is_main_process
from amends.train.plain import Train


@spec
class Pruned:
    """Trains a sparse model: OMP and IMP with rewinding, SynFlow, or any other score of weights."""

    starts: ClassVar[str] = "any"
    keeps_weights: ClassVar[bool] = True
    train: Annotated[Any, Part("stages"), SkipValidation] = None
    """How the model is trained: a stage `train`; null, with `when: given`: not at all, it is pruned and left."""
    sparsity: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """The share of the prunable weights that ends as 0."""
    by: Annotated[Any, Part("attributions"), SkipValidation] = Magnitude()
    """What scores the weights; the smallest scores are pruned."""
    rounds: Count = 1
    """In how many rounds: 1 is OMP, 100 usual for SynFlow."""
    when: Literal["trained", "fresh", "given"] = "trained"
    """Whether weights are scored after each training, before the only one, or as the start model has them."""
    rewind: Natural | None = 0
    """The step of training to whose weights the rest goes back; null: it stays where it is."""
    which: Which = "convolutions"
    """What is pruned: kernels of convolutions, or all weights of layers."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Outcome:
        """Trains in place; what is pruned is 0, and the mask lies in the run's folder."""
        self.objective_on(data)
        subject.call.to(Parallel().device)
        outcomes = []
        for found in self._parts(subject, data, run):
            if isinstance(found, Outcome):
                outcomes.append(found)
            elif run.folder is not None and is_main_process():
                found.save(run.folder, fingerprint.of(self, run.seed, data.fingerprint()))
        share = sparse.told(subject.module, self.which, run)
        stopped = next((o.stopped for o in outcomes if o.stopped), None)
        steps, seconds = sum(o.steps for o in outcomes), sum(o.seconds for o in outcomes)
        return Outcome(steps, stopped, seconds, sparsity=share)

    def objective_on(self, data: Bundle) -> tuple[Weighted, ...]:
        """The training's; raises UserError for a training that is none, and for a step to go back to that it does not have."""
        if self.train is None:
            if self.when != "given" or self.rounds > 1:
                raise UserError(
                    "pruned.train: without it the start model is pruned and left: set `when: given` and `rounds: 1`"
                )
            return ()
        if not isinstance(self.train, Train):
            raise UserError(f"pruned.train: expected a stage `train`, and this is {type(self.train).__name__.lower()}")
        if self.when == "given" and self.rewind is not None:
            raise UserError("pruned.rewind: with `when: given` there is no training to go back in: set it to null")
        if self.rewind is not None and self.rewind >= self.train.steps:
            raise UserError(f"pruned.rewind: the training has {self.train.steps} steps, so none is number {self.rewind}")
        return self.train.objective_on(data)

    def _parts(self, subject: Any, data: Bundle, run: Context) -> Iterator[Outcome | Mask]:
        """What is trained, one after another, and the last mask once it is known."""
        after_training, mask = self.when != "fresh", None
        begin = (self.rewind or 0) if after_training else 0
        if begin:
            yield self._trained(subject, data, run, "early", None, 0, begin)
        early = _copy(subject)
        for round_ in range(1, self.rounds + 1):
            if after_training and not (self.when == "given" and round_ == 1):
                yield self._trained(subject, data, run, f"round-{round_}", mask, begin, self.train.steps)
            mask = self._mask(subject, data, run, (1 - self.sparsity) ** (round_ / self.rounds))
            if after_training and self.rewind is not None:
                subject.module.load_state_dict(early)
            sparse.put_on(subject.module, mask)
        assert mask is not None
        yield mask
        if self.train is not None:
            yield self._trained(subject, data, run, "sparse", mask, begin, self.train.steps)
        if run.folder is not None and is_main_process():
            for part in ("early", "sparse", *(f"round-{r}" for r in range(1, self.rounds + 1))):
                shutil.rmtree(run.folder / part, ignore_errors=True)

    def _trained(self, subject: Any, data: Bundle, run: Context, part: str, mask: Mask | None, begin: int, end: int) -> Outcome:
        held = (Held(mask),) if mask is not None else ()
        optim = _From(self.train.optim, begin, self.train.steps)
        stage = replace(self.train, steps=end - begin, optim=optim, edits=(*held, *self.train.edits))
        return stage(subject, data, Inside(run, part))

    def _mask(self, subject: Any, data: Bundle, run: Context, keep: float) -> Mask:
        """Keeps a share of the prunable weights by score; what is 0 already has the lowest."""
        may = sparse.prunable(subject.module, self.which)
        others = tuple(n for n, _ in subject.module.named_parameters() if n not in may)
        params = dict(subject.module.named_parameters())
        return WeightMask(by=self.by, keep=keep, skip=others).made(params, Start(subject, data, run))


@dataclass(frozen=True)
class _From:
    """An optimiser whose schedule begins in the middle."""

    optim: Any
    begin: int
    steps: int

    @property
    def lr(self) -> float:
        """The peak."""
        return self.optim.lr

    def make(self, params: Mapping[str, Tensor]) -> torch.optim.Optimizer:
        """The optimiser itself."""
        return self.optim.make(params)

    def lr_at(self, step: int, steps: int) -> float:
        """The rate that the whole training has at this step of its rest."""
        return self.optim.lr_at(self.begin + step, self.steps)


def _copy(subject: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in subject.module.state_dict().items()}
