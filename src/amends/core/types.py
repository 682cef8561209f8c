"""The nouns of the library, as small frozen values.

Shape suffixes used everywhere: B rows of a batch, T positions, V vocabulary, K classes, N likelihood terms of a
whole batch (supervised tokens of all rows, or one a row). Likelihoods are in nats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Role = str
"""What a set of rows is for: `forget`, `retain`, `neighbour`, `holdout`, ... A recipe may add its own."""

Better = Literal["higher", "lower", "closer"]
"""Which way a metric points; `closer` means closer to the retrained model, not more and not less."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of data under a stable id; `data` is what its modality needs (question and answer, image and label)."""

    id: str
    data: Mapping[str, Any]

    def with_(self, suffix: str, **changes: Any) -> Sample:
        """A derived row, for instance the same question with a wrong answer; its id shows where it comes from."""
        return Sample(f"{self.id}/{suffix}", {**self.data, **changes})


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row as tensors without a batch axis; `size` is its cost (tokens), by which batches are bucketed."""

    id: str
    tensors: Mapping[str, Tensor]
    size: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows as tensors, batch axis first. Every random choice of the step is already in here."""

    ids: tuple[str, ...]
    tensors: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def to(self, device: torch.device | str) -> Batch:
        """The same rows on another device."""
        return replace(self, tensors={k: v.to(device, non_blocking=True) for k, v in self.tensors.items()})

    def take(self, index: Sequence[int]) -> Batch:
        """Some of the rows, in the order given."""
        return Batch(tuple(self.ids[i] for i in index), {k: v[list(index)] for k, v in self.tensors.items()})

    def rows(self, start: int, stop: int) -> Batch:
        """A slice of the rows."""
        return Batch(self.ids[start:stop], {k: v[start:stop] for k, v in self.tensors.items()})


class Distribution(Protocol):
    """What a model predicted at each of the N terms of a batch, so that two models can be compared term by term."""

    @property
    def row_N(self) -> Tensor:
        """Which row of the batch each term belongs to."""
        ...

    def nll(self) -> Tensor:
        """-log p(target) of each term, in nats, [N]; what a row's likelihood is the sum of."""
        ...

    def kl(self, other: Any) -> Tensor:
        """KL(self || other) for each term, in nats, shape [N]."""
        ...

    def rows(self, start: int, stop: int) -> Any:
        """The terms of a slice of the rows."""
        ...


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The narrow waist: how well a model explains each row. Everything that forgets, scores or attacks rests on it."""

    nll_B: Tensor
    """Negative log-likelihood in nats, SUMMED over the row's terms."""
    n_B: Tensor
    """How many terms: supervised tokens (EOS included), or 1. Depends on the batch alone, never on the model."""
    dist: Distribution | None = None

    def rows(self, start: int, stop: int) -> Likelihood:
        """The likelihood of a slice of the rows."""
        dist = self.dist.rows(start, stop) if self.dist is not None else None
        return Likelihood(self.nll_B[start:stop], self.n_B[start:stop], dist)


class Hidden(NamedTuple):
    """Activations of a batch, packed: one row of `state_NC` a position (a token of any kind but padding; an image)."""

    state_NC: Tensor
    row_N: Tensor
    """Which row of the batch each position belongs to."""
    answer_N: Tensor | None = None
    """Whether what the position predicts is supervised; None where each one is such a position (an image)."""

    def rows(self, start: int, stop: int) -> Hidden:
        """The positions of a slice of the rows."""
        keep = (self.row_N >= start) & (self.row_N < stop)
        answer_N = None if self.answer_N is None else self.answer_N[keep]
        return Hidden(self.state_NC[keep], self.row_N[keep] - start, answer_N)


class Mean(NamedTuple):
    """A mean that has not been divided yet. The engine divides sum(total) by the GLOBAL sum(count), once."""

    total_B: Tensor
    count_B: Tensor

    @property
    def value(self) -> Tensor:
        """The mean over this batch alone; for tests and for reading, not for training."""
        return self.total_B.sum() / self.count_B.sum()

    @staticmethod
    def average(sum_B: Tensor, n_B: Tensor, per: Literal["row", "token"]) -> Mean:
        """A batch's token mean of per-row sums, or the mean of the rows' own means (length-normalised)."""
        return Mean(sum_B, n_B) if per == "token" else Mean(sum_B / n_B, n_B.new_ones(n_B.shape))


class Picture(NamedTuple):
    """An image that explains a result: [H, W] or [C, H, W] in 0..1, and the sentence below it."""

    values: Any
    caption: str


@dataclass(frozen=True, slots=True)
class Scores:
    """What an auditor found in rows: how suspicious each is, and which it would have removed."""

    score: Mapping[str, float]
    """Row id -> 0..1, higher is more suspicious."""
    flagged: frozenset[str]
    """The ids that the auditor's own rule picks; a threshold on the score or not."""
    note: str = ""
    """What a reader must know before trusting them, such as that a detector had nothing to work on."""
    pictures: Mapping[str, Picture] = field(default_factory=dict, compare=False)
    """What the auditor made on the way and a reader may look at, by a plain name: a mask that it learned."""

    def __post_init__(self) -> None:
        """A score outside 0..1, or a flag on a row without a score, is a defect of the auditor."""
        wrong = next((f"{row}: {s}" for row, s in self.score.items() if not 0 <= s <= 1), None)
        if wrong is not None or not self.flagged <= self.score.keys():
            raise ValueError(f"scores must lie in 0..1, and flags on rows that have one ({wrong or 'a flag has none'})")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number with its uncertainty: 95 % interval `low`..`high` over `n` rows, and each row's own score."""

    name: str
    value: float
    low: float
    high: float
    n: int
    better: Better
    version: int = 1
    unit: str = ""
    note: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the per-row scores, ready for JSON."""
        return {k: getattr(self, k) for k in ("name", "value", "low", "high", "n", "better", "version", "unit", "note")}
