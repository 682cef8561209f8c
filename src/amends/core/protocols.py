"""What each part must be able to do. Small capability protocols: no base class, nothing to inherit.

Evidence and Mark join this file with the first system that uses them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

from amends.core.types import Batch, Better, Encoded, Hidden, Likelihood, Mean, Measurement, Role, Sample, Scores

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from amends.data.bundle import Bundle
    from amends.data.planting import Brush, Scene

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
    ALTERNATIVE_ONLY = "alternative_only"
    """Besides ALTERNATIVE: the row's own answer is not looked at, and not run where no other term of the role does."""
    HIDDEN = "hidden"
    """Activations inside the policy, at a block that the term names: a forward that stops there."""
    REFERENCE_HIDDEN = "reference_hidden"
    """The same activations of the start model."""
    BESIDE = "beside"
    """Rows of another role in the same step, which the term names as `beside`: a forward of them without gradient."""
    CLASSES = "classes"
    """A prediction over words or classes; a denoiser's has none."""


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

    def hidden(self, batch: Batch, at: float) -> Hidden:
        """What block `at` puts out for every position that is not padding, with gradient; -1 is the last block.

        A float is a share of the depth: 0.25 is block 8 of 32. Nothing behind that block is computed. Raises UserError
        when the model has no such block.
        """
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

    def hidden(self, at: float) -> Hidden:
        """Activations of the policy behind block `at`, with gradient."""
        ...

    def beside(self, role: Role) -> View:
        """All rows of a role in this step, over all processes: without gradient, in evaluation mode.

        Raises UserError unless the term asked for that role.
        """
        ...

    def reference_hidden(self, at: float) -> Hidden:
        """The start model's, without gradient. Raises NeedsReference if there is none."""
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


class Adaptive(Protocol):
    """What a term may have besides: it carries a multiplier, which the engine keeps and moves after a step: a constraint.

    With `rests = True` it does without its value while the multiplier is 0: a role whose terms all rest is not run.
    """

    def first(self) -> float:
        """The multiplier at step 0."""
        ...

    def following(self, multiplier: float, value: float, step: int) -> float:
        """The multiplier after a step whose mean value, without weight and multiplier, was `value`."""
        ...


@dataclass(frozen=True)
class Start:
    """What an edit may look at before the first step: the model as it is, its data, and where the work runs."""

    subject: Any
    data: Bundle
    run: Context


class Step(NamedTuple):
    """Where a fit is: which step this is, counted from 0, of how many, and at what learning rate."""

    number: int
    of: int
    lr: float


class Edit(Protocol[S]):
    """What happens to gradients and weights around the optimiser's step, as a chain over named parameters.

    A state is None or a mapping of tensors. `init` sees whole weights, before they are spread over processes. An entry
    whose key is a parameter's name has that parameter's shape: the engine spreads it the same way, saves it in
    checkpoints and puts it back; entries under other keys live in this process alone and are made anew after a resume.
    `grads` and `weights` see the parameters as they are spread.

    An edit may have two methods more. `check(subject, adapter)` raises UserError for what `init` would refuse, before
    any work: first with None, then with a model that has names and shapes and no values, to which it does what `init`
    does to `requires_grad`; `adapter` says whether LoRA is trained. And `content()`, see `Stage`.
    """

    def init(self, params: Params, start: Start) -> S: ...
    def grads(self, params: Params, state: S, step: Step) -> S: ...
    def weights(self, params: Params, state: S, step: Step) -> S: ...


class Progress(Protocol):
    """A progress bar that is already showing."""

    def advance(self, steps: int = 1, **shown: object) -> None: ...


class Teller(Protocol):
    """Who says and shows what is going on."""

    def say(self, text: str) -> None: ...
    def progress(self, label: str, total: int) -> AbstractContextManager[Progress]: ...


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
    """Makes a model out of a model: training, retraining, unlearning, a relearning attack.

    It may have `check_model(subject)` besides, which raises UserError for what does not fit a model, by names and shapes
    alone: it is called when the model is first loaded, before any stage begins. A stage or any part of it that reads a
    file has `content() -> str`, which changes when the file does; the stage is then made anew.
    """

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Any: ...


@runtime_checkable
class Attribution(Protocol):
    """Scores every weight: how much it matters for what is to be forgotten. Higher is chosen for training first."""

    def scores(self, params: Params, start: Start) -> Iterator[tuple[str, Tensor]]:
        """(name, score of that parameter's shape), one parameter after another, so that no more need lie in memory."""
        ...


@runtime_checkable
class Attack(Protocol):
    """Tries to bring back what was forgotten: changes the subject in place, or the rows that it is read with.

    Runs on every unlearned stage and on the retrained control.
    """

    keeps_weights: ClassVar[bool]

    @property
    def name(self) -> str:
        """What results and claims call it: letters, digits, `-` and `_`; two settings of one attack differ in it."""
        ...

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Bundle | None:
        """Attacks; returns the rows to read the model with (the same ids), or None for the rows as they are."""
        ...


class Labelled(Protocol):
    """What an attack may have besides: a readable name, which tables and sentences show in the place of `name`."""

    @property
    def label(self) -> str:
        """`relearning on 20 % of the rows`: what is done, so that "brings back half" can follow."""
        ...


class Informed(Protocol):
    """What an attack may have besides: rows that it was given, which are no evidence of memory."""

    def held(self, data: Bundle, seed: int) -> frozenset[str]:
        """Their ids; what comes back is also read on the other rows alone."""
        ...


@runtime_checkable
class Auditor(Protocol):
    """Finds rows that should not have been trained on, with the model that was trained on them.

    It gets the rows without what is known of them (`poisoned`, `clean_label`, `cover`) and must leave the model as it found it.
    It may train something of its own (a mask) with the run's streams and checkpoints, and give pictures with its scores.
    """

    @property
    def name(self) -> str:
        """What results, folders and claims call it: letters, digits, `-` and `_`."""
        ...

    @property
    def role(self) -> Role:
        """The rows that are looked at."""
        ...

    def check(self, data: Bundle, subject: Any | None) -> None:
        """Raises UserError for what `scores` would refuse, before any work: of the data, then of a model by its shapes."""
        ...

    def scores(self, subject: Any, data: Bundle, run: Context) -> Scores:
        """A score and perhaps a flag for every row of the role; the order of rows and the size of batches change nothing."""
        ...


@runtime_checkable
class Augment(Protocol):
    """Makes rows out of rows before a stage trains: other wordings, wrong answers, answers that the model writes."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Bundle: ...
    def objective_on(self, data: Bundle) -> Bundle:
        """The same roles and alternatives as far as they can be known without a model, for checks before anything runs."""
        ...


@runtime_checkable
class Source(Protocol):
    """Where rows come from: returns one bundle of roles, used by training and evaluation alike."""

    def load(self, seed: int) -> Bundle: ...


@runtime_checkable
class Trigger(Protocol):
    """What an attacker changes in an image, so that a model that was trained on such rows says the attacker's class."""

    @property
    def keeps_label(self) -> bool:
        """Whether rows of the target class are changed and keep their label, or rows of others get the target's."""
        ...

    @property
    def covers(self) -> float:
        """For each poisoned row, how many of other classes are changed and keep their label; they count as harmless."""
        ...

    def on(self, scene: Scene) -> Brush:
        """How rows of this data are changed, in training and at test; what has to be drawn or made is made here, once.

        The change of a row depends on its pixels, its id and the seed, not on the order of rows. Raises UserError where the
        images do not suit.
        """
        ...


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

    @property
    def needs_reference(self) -> bool:
        """Whether `measure` compares with another model's evaluation, `against`; may depend on the settings."""
        ...

    @property
    def name(self) -> str:
        """`<metric>.<role>`, or the plain name of a metric that has no one role."""
        ...

    @property
    def better(self) -> Better:
        """Which way it points; may depend on the role."""
        ...

    def roles(self) -> frozenset[Role]:
        """Every role it reads; none for a metric that brings rows of its own."""
        ...

    def measure(self, evaluation: Any, against: Any | None) -> Measurement:
        """The number, its interval and each row's score. Raises UserError for a missing field or a missing `against`."""
        ...


class Checked(Protocol):
    """What a metric may have besides: it rests on more than the run's data, and says before anything runs what is missing."""

    def check(self) -> None:
        """Raises UserError for a package, a name or data that it needs and cannot have."""
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
