"""Training chosen weights only: the mask of WAGLE (arXiv 2410.17509), SalUn (arXiv 2310.12508) and their baselines.

An attribution scores every weight; the share `keep` with the largest scores is trained, the rest keeps its values to the
bit. (WAGLE's repository calls this share "sparsity".) Frozen entries of the gradient are zeroed before the
optimiser's step, and after it the frozen weights are put back: weight decay moves a weight without any gradient, which
released code overlooks. Put `clip` after this edit and it sees the norm of what is trained; put it before, as released
code does, and frozen weights count.

A weight whose score is exactly 0 (embeddings of tokens that no row has) would hardly have moved anyway, and such weights
are frozen first. So the edit says how many LIVE weights it freezes; a mask that freezes none is no mask.

Every process scores all rows, and the main process's mask is what all of them use.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, SkipValidation
from torch import Tensor

from amends.core import catalog, fingerprint
from amends.core.errors import UserError, nearest
from amends.core.protocols import Params, Start, Step
from amends.core.spec import Part, spec
from amends.edits import quantile
from amends.edits.mask_file import Mask, packed
from amends.engine.fit import is_lora
from amends.engine.parallel import from_main, is_main_process, local

State = dict[str, Tensor]
_VALUES = "|values"


@spec
class WeightMask:
    """Trains the weights that an attribution scores highest; the others stay as they are, bit by bit."""

    by: Annotated[Any, Part("attributions"), SkipValidation] = None
    """What scores the weights; WAGLE with its defaults when neither this nor `file` is given."""
    file: str | None = None
    """A mask that was made before: the `mask.safetensors` of a stage."""
    keep: Annotated[float, Field(gt=0, le=1)] = 0.95
    """The share of the scored weights that is trained: 0.8 to 0.95 for facts, 0.4 to 0.6 for abilities, 0.5 in SalUn."""
    rank: Literal["global", "tensor"] = "global"
    """Whether scores are compared over the whole model, or within each tensor."""
    skip: tuple[str, ...] = ()
    """Patterns of weights that are not scored, for instance `*embed*` and `*norm*`."""
    skipped: Literal["trained", "frozen"] = "trained"
    """What happens to those, and to weights for which the attribution has no score."""

    def content(self) -> str:
        """What changes when the mask file does."""
        path = Path(self.file or "").expanduser()
        return fingerprint.of_file(path) if path.is_file() else ""

    def check(self, subject: Any | None, adapter: bool) -> None:
        """Raises UserError for an adapter, for a file that is no mask or another model's, for an unknown pattern."""
        self._refuse(adapter)
        params = None if subject is None else dict(subject.module.named_parameters())
        if self._given(params) is None and params is not None:
            self._to_score(params)

    def init(self, params: Params, start: Start) -> State:
        """Scores, or takes a saved mask; raises UserError for all that `check` refuses."""
        self._refuse(is_lora(start.subject))
        key = fingerprint.of(self, start.run.seed, start.data.fingerprint())
        mask = self._given(params) or self._made_before(start, key) or self.made(params, start)
        start.run.say(mask.sentence())
        if start.run.folder is not None and is_main_process():
            mask.save(start.run.folder, key)
        return _state(mask, params)

    def _refuse(self, adapter: bool) -> None:
        if adapter:
            raise UserError(
                "weight_mask: a mask over weights does not act on the factors of an adapter: leave `lora` out, or leave "
                "the mask out and choose matrices by `lora.targets`"
            )
        if self.by is not None and self.file is not None:
            raise UserError("weight_mask: give `by` or `file`, not both")

    def grads(self, params: Params, state: State, step: Step) -> State:
        """Zeroes the gradients of frozen weights; before the first step it notes what those weights are."""
        return _without_gradient(params, state)

    def weights(self, params: Params, state: State, step: Step) -> State:
        """Puts frozen weights back, whatever the optimiser did to them."""
        return _put_back(params, state)

    def _given(self, params: Params | None) -> Mask | None:
        """The mask of `file`, known to be one for these parameters where there are any."""
        if self.file is None:
            return None
        path = Path(self.file).expanduser()
        mask, _ = Mask.load(path)
        if params is not None:
            mask.check(params, path)
        return mask

    @staticmethod
    def _made_before(start: Start, key: str) -> Mask | None:
        """The mask that this very stage made before it was interrupted."""
        path = start.run.folder / "mask.safetensors" if start.run.folder else None
        if path is None or not path.is_file():
            return None
        mask, saved_under = Mask.load(path)
        return mask if saved_under == key else None

    def _to_score(self, params: Params) -> Params:
        """The weights that are scored; raises UserError when there are none, or for a pattern that matches none."""
        for pattern in self.skip:
            if not any(fnmatchcase(name, pattern) for name in params):
                raise UserError(f"weight_mask.skip: no weight is called {pattern!r}{nearest(pattern, params)[:200]}")
        trained = {n: p for n, p in params.items() if p.requires_grad}
        scored = {n: p for n, p in trained.items() if not any(fnmatchcase(n, pattern) for pattern in self.skip)}
        if not scored:
            raise UserError("weight_mask: no weight is left to score: each is skipped, or frozen by an edit before this one")
        return scored

    def made(self, params: Params, start: Start) -> Mask:
        """The mask by the attribution's scores. Raises UserError for an unknown pattern and for scores that are not finite."""
        scored = self._to_score(params)
        by = self.by if self.by is not None else catalog.find("attributions", "wagle", "weight_mask.by").load()()
        trained = {n: p for n, p in params.items() if p.requires_grad}
        codes: dict[str, Tensor] = {}
        for name, score in by.scores(scored, start):
            assert score.shape == params[name].shape, name
            codes[name] = quantile.pack(score)
            del score  # it may be part of a block of gradients that goes as a whole
            if not quantile.finite(codes[name]):
                raise UserError(f"weight_mask: scores of {name} are not finite: load the model in float32 (dtype: float32)")
        rows, bits = {}, {}
        for name, chosen in quantile.chosen(codes, self.keep, self.rank):
            alive = quantile.live(codes.pop(name))
            bits[name] = from_main(packed(chosen))
            rows[name] = _row(name, chosen, _number(alive), _number(alive & ~chosen))
        for name in trained.keys() - rows.keys():  # not scored: nothing says that such weights are dead
            chosen = torch.full((trained[name].numel(),), self.skipped == "trained", device=trained[name].device)
            bits[name] = packed(chosen)
            rows[name] = _row(name, chosen, len(chosen), _number(~chosen))
        return Mask(bits, {n: tuple(p.shape) for n, p in trained.items()}, self._table(by, [rows[n] for n in trained]))

    def _table(self, by: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
        total = {key: sum(row[key] for row in rows) for key in ("size", "kept", "live", "live_frozen")}
        name = type(by).__name__.lower()
        return {"schema": 1, "keep": self.keep, "rank": self.rank, "by": name, "total": total, "parameters": rows}


@dataclass(frozen=True)
class Held:
    """What `weight_mask` does with a mask that is already at hand: a pruned model's, whose weights stay at 0."""

    mask: Mask

    def init(self, params: Params, start: Start) -> State:
        """Takes the mask; raises UserError for an adapter and for another model's mask."""
        if is_lora(start.subject):
            raise UserError("a mask over weights does not act on the factors of an adapter: leave `lora` out")
        self.mask.check(params, Path("the mask"), whole=False)
        return _state(self.mask, params)

    def grads(self, params: Params, state: State, step: Step) -> State:
        """Zeroes the gradients of frozen weights."""
        return _without_gradient(params, state)

    def weights(self, params: Params, state: State, step: Step) -> State:
        """Puts frozen weights back."""
        return _put_back(params, state)


def _without_gradient(params: Params, state: State) -> State:
    for name, p in params.items():
        if name in state and p.grad is not None:
            local(p.grad).masked_fill_(local(state[name]), 0)
    return state | {
        name + _VALUES: local(p.detach())[local(state[name])]
        for name, p in params.items()
        if name in state and name + _VALUES not in state
    }


@torch.no_grad()
def _put_back(params: Params, state: State) -> State:
    for name, p in params.items():
        if name in state:
            local(p).masked_scatter_(local(state[name]), state[name + _VALUES])
    return state


def _row(name: str, chosen: Tensor, live: int, live_frozen: int) -> dict[str, Any]:
    return {"name": name, "size": chosen.numel(), "kept": _number(chosen), "live": live, "live_frozen": live_frozen}


def _number(mask: Tensor) -> int:
    """How many are True; a sum would make 8 bytes of each first."""
    return int(torch.count_nonzero(mask))


def _state(mask: Mask, params: Params) -> State:
    """Booleans of the parameters that are frozen in part; those frozen as a whole ask for no gradient any more."""
    state = {}
    for row in mask.table["parameters"]:
        p = params[row["name"]]
        if row["kept"] == 0:
            p.requires_grad_(False)
        elif row["kept"] < row["size"]:
            state[row["name"]] = mask.frozen(row["name"], p.device)
    return state
