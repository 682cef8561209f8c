"""What each part must be able to do. Small capability protocols: no base class, nothing to inherit.

Scores, Evidence, Auditor and Mark join this file with the first system that uses them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

from amends.core.types import Batch, Better, Encoded, Likelihood, Mean, Measurement, Role, Sample

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from amends.data.bundle import Bundle

Params = Mapping[str, "Tensor"]
S = TypeVar("S")


class Need(StrEnum):
    """What a term asks of the engine beyond the policy's likelihood; checked before anything is loaded."""

    REFERENCE = "reference"
    """The start model's log-likelihood of each row: one number a row, computed once and cached."""
    REFERENCE_DIST = "reference_dist"
    """The start model's full distribution: a second forward, by the adapter switched off or by a frozen copy."""
    ALTERNATIVE = "alternative"
    """Another answer to the same prompt (a refusal, another label)."""


@runtime_checkable
class Subject(Protocol):
    """A model that answers one question: how likely is each row of this batch?"""

    stochastic: ClassVar[bool]
    """True when the likelihood depends on choices drawn into the batch (a diffusion model's t and noise)."""

    module: nn.Module
    """The model itself: its parameters are what is trained, edited and saved."""
    call: nn.Module
    """What `likelihood` calls: the module inside a thin wrapper, which the engine may put DDP or FSDP2 around."""

    def adopt(self, call: nn.Module) -> None:
        """Takes over a replaced `call`: unwrapped after training, or copied."""
        ...

    def encode(self, sample: Sample) -> Encoded:
        """One row as tensors. Raises UserError when the row does not fit the model."""
        ...

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Rows as one batch, padded where they need it."""
        ...

    def count(self, batch: Batch) -> Tensor:
        """[B] the number of likelihood terms a row has, known before any forward."""
        ...

    def draw(self, batch: Batch, rng: torch.Generator) -> Batch:
        """Puts every random choice of the step INTO the batch, so that two models see the same ones."""
        ...

    def likelihood(self, batch: Batch) -> Likelihood:
        """The per-example likelihood, with gradient."""
        ...

    def save(self, folder: Path) -> None:
        """Writes the model so that its own library loads it again."""
        ...


class View(Protocol):
    """What a term may see of one role in one step: cached, computed on first use."""

    @property
    def batch(self) -> Batch: ...
    @property
    def policy(self) -> Likelihood:
        """With gradient."""
        ...

    @property
    def reference(self) -> Likelihood:
        """Without gradient. Raises NeedsReference if there is none."""
        ...

    @property
    def alternative(self) -> View:
        """The same prompts with another answer. Raises UserError if the role has none."""
        ...


Per = Literal["row", "token"]
"""What a term is a mean over: rows of the batch, or all their supervised tokens."""


@runtime_checkable
class Term(Protocol):
    """One summand of an objective on one role: pure, stateless, no loop."""

    needs: ClassVar[frozenset[Need]]

    @property
    def role(self) -> Role: ...
    @property
    def per(self) -> Per: ...
    def __call__(self, view: View) -> Mean: ...


class Edit(Protocol[S]):
    """What happens to gradients and weights around the optimiser's step, as a chain over named parameters."""

    def init(self, params: Params) -> S: ...
    def grads(self, params: Params, state: S) -> S: ...
    def weights(self, params: Params, state: S) -> S: ...


class Progress(Protocol):
    """A progress bar that is already showing."""

    def advance(self, steps: int = 1, **shown: object) -> None: ...


class Context(Protocol):
    """Where one piece of work runs: its seed, its folder, and where it reports."""

    @property
    def seed(self) -> int: ...
    @property
    def folder(self) -> Path | None: ...
    def rng(self, *names: object) -> torch.Generator: ...
    def log(self, **values: Any) -> None: ...
    def say(self, text: str) -> None: ...
    def progress(self, label: str, total: int) -> AbstractContextManager[Progress]: ...


@runtime_checkable
class Stage(Protocol):
    """Makes a model out of a model: training, retraining, unlearning, a relearning attack."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Any: ...


@runtime_checkable
class Source(Protocol):
    """Where rows come from: returns one bundle of roles, used by training and evaluation alike."""

    def load(self, seed: int) -> Bundle: ...


@runtime_checkable
class Model(Protocol):
    """How a subject comes to be: built small, or loaded from a folder, a hub, a package."""

    def load(self, data: Bundle, seed: int) -> Any: ...
    def content(self) -> str:
        """What changes when the files behind the model do; empty for a model that is built."""
        ...


@runtime_checkable
class Metric(Protocol):
    """One number about one model, with an interval, resting on rows of one or more roles."""

    version: ClassVar[int]
    needs_reference: ClassVar[bool]
    """Whether `measure` compares with another model's evaluation, `against`."""

    @property
    def name(self) -> str:
        """`<metric>.<role>`, or the plain name of a metric that has no one role."""
        ...

    @property
    def better(self) -> Better:
        """Which way it points; may depend on the role."""
        ...

    def roles(self) -> frozenset[Role]:
        """Every role it reads."""
        ...

    def measure(self, evaluation: Any, against: Any | None) -> Measurement:
        """The number, its interval and each row's score. Raises UserError for a missing field or a missing `against`."""
        ...


@runtime_checkable
class Tracker(Protocol):
    """Somewhere else that the run's numbers are mirrored to."""

    def log(self, values: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


class Executor(Protocol):
    """Maps resolved recipes to finished runs."""

    def map(self, recipes: Sequence[Path], folders: Sequence[Path]) -> Iterator[int]:
        """The exit code of each run, in the order given."""
        ...
