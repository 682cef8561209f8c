"""ULD: unlearning by logit difference (arXiv 2406.08607). An assistant learns the reverse of the task and is subtracted.

The assistant, the model's own first K blocks with low-rank adapters, learns the forget rows by heart and to be indifferent
about the retain rows:

    min_phi  CE_phi(forget) + b E_retain[CE(uniform, p_phi)]                                            (eq. 3)

and at every token log p = log p_model - w log p_assistant over the words that the model finds plausible (eq. 4, see
`subjects/contrast.py`, also for the two decoding defects of the released code that are mended there). Where the
assistant is indifferent nothing changes; where it is sure, the model no longer says so. Training runs K blocks and trains
adapters alone, which is what makes it cheap.

The model's weights stay what they were. Output is suppressed: the saved folder holds the original and says so.
`distil` teaches the combined distribution to the model's own weights afterwards, which gives an ordinary model.

Settings are the paper's for TOFU (r 32, alpha 32, b 6.5, w 0.75, rate 0.01, lr 1e-3, 10 epochs); the released code has
r 16, b 5, dropout 0.05 (kept here, the paper names none) and w 0.8, which is `rank: 16`, `retain_weight: 5`, `weight: 0.8`
and `subtract: logits`; its evaluation script names no rate and so gets 0.1. What differs:

- K is an eighth of the depth, not a quarter (8 of 32): every block of the assistant is one more to run for each token. Of
  a model of 8 blocks, 1 of its own or 2 forgot and kept about as much. `shared` saves those runs, too, but where as many
  blocks run twice, fewer blocks, all adapted, did better than more with the lower ones shared (1 better than 1 shared and
  1 adapted, 2 better than 2 and 2);
- both terms are means over the answer's tokens; the released code counts prompt and padding in the second one;
- the paper's data are the forget rows with two paraphrases of each, and as many retain rows with two wrong answers to each
  forget question among them. `augment: [{use: paraphrased, times: 2, wrong_into: retain, wrong: 2}]` gives both; retain
  rows are drawn from all there are, as many a step as forget rows.
"""

from __future__ import annotations

import copy
import importlib
import json
import logging
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, SkipValidation

from amends.core import fingerprint
from amends.core.errors import UserError
from amends.core.protocols import Context, Progress
from amends.core.rng import stream_seed
from amends.core.spec import Count, Natural, NonNegative, Part, Positive, Weighted, spec
from amends.core.types import Role
from amends.data.bundle import Bundle
from amends.engine.check import hollow
from amends.engine.fit import Outcome, fit
from amends.engine.optim import AdamW
from amends.engine.parallel import Parallel
from amends.subjects.causal_lm import INNER, CausalLM
from amends.subjects.contrast import Subtract
from amends.subjects.reference import Frozen
from amends.terms.kl import KL
from amends.terms.nll import NLL
from amends.terms.uniform import Uniform

EPOCHS = 10
"""Passes over the forget rows where neither `steps` nor `epochs` is given: the paper's on TOFU."""


@spec
class LogitDifference:
    """Subtracts an assistant that learnt the forget rows (ULD): cheap, keeps utility, suppresses instead of removing."""

    starts: ClassVar[str] = "from"
    keeps_weights: ClassVar[bool] = True
    trains: ClassVar[str] = "an assistant's adapters"
    role: Role = "forget"
    """Which rows are to go: the assistant learns them."""
    retain: Role = "retain"
    """Rows the assistant is to be indifferent about."""
    blocks: Count | Annotated[float, Field(gt=0, lt=1)] = 0.125
    """Blocks of the assistant (K), or a share of the model's depth; the paper has a quarter."""
    shared: Natural = 0
    """How many of them, from the first, carry no adapter and run once for both."""
    rank: Count = 32
    """Rank of the adapters."""
    alpha: Positive = 32.0
    """An adapter's output is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of an adapter's inputs that is dropped in training."""
    weight: NonNegative = 0.75
    """How strongly the assistant is subtracted (w): 0.5 to 0.8, chosen on rows that no result is read on."""
    filter_rate: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Words below this share of the best one, and not among this share of the vocabulary, are never said (rho)."""
    subtract: Subtract = "log_probs"
    """What is subtracted where words are plausible: log-probabilities, or raw logits, as the released code scores."""
    retain_weight: NonNegative = 6.5
    """Weight of the indifference (b)."""
    assistant: str | None = None
    """Folder of a model that this stage saved: its adapters are taken and nothing is trained, for other w and rho."""
    steps: Count | None = None
    """Optimiser steps; or give `epochs`."""
    epochs: Count | None = None
    """Passes over the forget rows; 10 where neither is given."""
    batch: Count = 16
    """Rows of EACH role a step, over all processes; the paper has 32 of both together."""
    micro: Count | None = None
    """Rows of one forward; None for the whole batch."""
    optim: Annotated[Any, Part("optim"), SkipValidation] = AdamW(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)
    """The optimiser of the adapters."""
    augment: Annotated[tuple[Any, ...], Part("augments", many=True), SkipValidation] = ()
    """Rows that are made before training."""
    distil: Natural = 0
    """Steps in which the model's own weights learn the combined distribution, on both roles; 0 keeps the assistant."""
    distil_optim: Annotated[Any, Part("optim"), SkipValidation] = AdamW()
    """The optimiser of these steps."""
    parallel: Literal["auto", "ddp", "fsdp2"] = "auto"
    """How several processes share the work."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the forward pass; weights keep theirs."""
    checkpoint_every: Count = 100
    """Steps between two exact checkpoints."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Outcome:
        """Puts the combined model in the subject's place, or after `distil` an ordinary one."""
        from amends.subjects.logit_difference import SUPPRESSED

        module = self.around(subject, run.seed)
        for augment in self.augment:
            data = augment(subject, data, run)
        outcome = Outcome(0, None, 0.0)
        if self.assistant is not None:
            take_adapters(module, Path(self.assistant).expanduser())
        else:
            module, outcome = self._train(subject, module, data, run)
        plain = subject.dropouts
        subject.wrap(module.eval().requires_grad_(True))
        subject.dropouts = {f"{INNER}.{key}": rate for key, rate in plain.items()}
        if not self.distil:
            run.say(f"weights are unchanged and output is suppressed: {SUPPRESSED}")
            return outcome._replace(suppression=SUPPRESSED)
        after = self._distil(subject, data, run)
        subject.dropouts = plain
        return Outcome(outcome.steps + after.steps, outcome.stopped or after.stopped, outcome.seconds + after.seconds)

    @property
    def reshapes(self) -> bool:
        """Whether the model it leaves has other weights than the one it was given."""
        return not self.distil

    def content(self) -> str:
        """What changes when the files of `assistant` do."""
        folder = Path(self.assistant or "").expanduser()
        return fingerprint.of_files(sorted(folder.glob("*.safetensors"))) if self.assistant is not None else ""

    def check_model(self, subject: Any) -> None:
        """Raises UserError when the assistant does not fit the model; looks at names and shapes alone."""
        module = self.around(hollow(subject), 0)
        if self.assistant is not None:
            check_adapters(module, Path(self.assistant).expanduser())

    def around(self, subject: Any, seed: int) -> Any:
        """The combined model with fresh adapters, which change nothing yet; raises UserError when it does not fit."""
        if not isinstance(subject, CausalLM):
            raise UserError(f"logit_difference: takes causal language models, not a {type(subject).__name__}")
        from amends.subjects.logit_difference import LogitDifferenceConfig, LogitDifferenceForCausalLM

        given = self._shape(subject.module) if self.assistant is None else made_for(Path(self.assistant), subject.module)
        config = LogitDifferenceConfig(
            target_config=subject.module.config, **given, dropout=self.dropout, weight=self.weight,
            filter_rate=self.filter_rate, subtract=self.subtract,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, "lora"))  # inside fork_rng: no global stream is moved
            return LogitDifferenceForCausalLM(config, subject.module)

    def _shape(self, model: Any) -> dict[str, Any]:
        depth = model.config.num_hidden_layers
        num = self.blocks if isinstance(self.blocks, int) else max(1, round(self.blocks * depth))
        return {"blocks": num, "shared": self.shared, "rank": self.rank, "alpha": self.alpha}

    def _train(self, subject: Any, module: Any, data: Bundle, run: Context) -> tuple[Any, Outcome]:
        """Trains the adapters; every other weight is frozen, and blocks behind the assistant's are not run."""
        from amends.subjects.logit_difference import Assistant

        twin = copy.copy(subject)
        twin.wrap(Assistant(module.requires_grad_(False)))
        for p in twin.module.adapters().values():
            p.requires_grad_(True)
        outcome = fit(
            twin, self._objective(), data, steps=self.num_steps(data), optim=self.optim, batch=self.batch,
            micro=self.micro, parallel=Parallel(self.parallel, self.precision), checkpoint_every=self.checkpoint_every,
            run=run,
        )  # fmt: skip
        return twin.module.whole, outcome

    def _distil(self, subject: Any, data: Bundle, run: Context) -> Outcome:
        """KL(combined || model) on both roles, from the model's own weights; costs a second copy of them meanwhile."""
        teacher = Frozen(copy.copy(subject))
        subject.wrap(subject.module.without_assistant())
        inner = _Within(run, "distil")
        objective = tuple(Weighted(term=KL(role=role)) for role in (self.role, self.retain))
        outcome = fit(
            subject, objective, data, steps=self.distil, optim=self.distil_optim, batch=self.batch, micro=self.micro,
            reference=teacher, parallel=Parallel(self.parallel, self.precision), checkpoint_every=self.checkpoint_every,
            run=inner,
        )  # fmt: skip
        if inner.folder is not None:
            shutil.rmtree(inner.folder, ignore_errors=True)
        return outcome

    def num_steps(self, data: Bundle) -> int:
        """The number of steps; raises UserError when both `steps` and `epochs` are given."""
        if self.steps is not None and self.epochs is not None:
            raise UserError("give either `steps` or `epochs`")
        return self.steps or (self.epochs or EPOCHS) * -(-len(data[self.role]) // self.batch)

    def objective_on(self, data: Bundle) -> tuple[Weighted, ...]:
        """The assistant's objective; raises UserError for a role, a folder or a package that is not there."""
        for augment in self.augment:
            data = augment.objective_on(data)
        _installed()
        self.num_steps(data)
        data[self.retain]
        if self.assistant is not None:
            _config_of(Path(self.assistant).expanduser())
        return self._objective()

    def _objective(self) -> tuple[Weighted, ...]:
        return (
            Weighted(term=NLL(role=self.role)),
            Weighted(term=Uniform(role=self.retain), weight=self.retain_weight),
        )


def _installed() -> None:
    """Imports what training will import, so that a missing package is said before and its import is not timed as training."""
    log = logging.getLogger("bitsandbytes")  # peft imports it where it is installed, and it remarks on its own kernels
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        importlib.import_module("peft")
        importlib.import_module("amends.subjects.logit_difference")
    except ImportError as error:
        raise UserError(f'logit_difference needs the package {error.name}: pip install "amends[lm]"') from None
    finally:
        log.setLevel(level)


@dataclass(frozen=True)
class _Within:
    """A run's context for a second fit of one stage, which must not take up the first one's checkpoint."""

    run: Context
    name: str

    @property
    def seed(self) -> int:
        return self.run.seed

    @property
    def folder(self) -> Path | None:
        return None if self.run.folder is None else self.run.folder / self.name

    def rng(self, *names: object) -> torch.Generator:
        return self.run.rng(self.name, *names)

    def log(self, **values: Any) -> None:
        self.run.log(phase=self.name, **values)

    def say(self, text: str) -> None:
        self.run.say(f"{self.name}: {text}")

    def progress(self, label: str, total: int) -> AbstractContextManager[Progress]:
        return self.run.progress(f"{self.name}: {label}", total)


# ---------------------------------------------------------------------- an assistant that was trained before


def made_for(folder: Path, model: Any) -> dict[str, Any]:
    """How a saved assistant was made; raises UserError when it was made for a model of another shape."""
    config = _config_of(folder.expanduser())
    inner = config[INNER]
    for key in ("model_type", "vocab_size", "hidden_size", "num_hidden_layers"):
        here = getattr(model.config, key)
        there = inner.get(model.config.attribute_map.get(key, key), inner.get(key))
        if there != here:
            raise UserError(f"assistant {folder}: was made for a model with {key} {there}, and the model here has {here}")
    return {key: config[key] for key in ("blocks", "shared", "rank", "alpha")}


def check_adapters(module: Any, folder: Path) -> None:
    """Raises UserError unless a saved assistant's adapters are those that its config promises; reads names and shapes."""
    from safetensors import safe_open

    wanted = {n: tuple(t.shape) for n, t in module.state_dict().items() if ".lora_" in n}
    found: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as saved:
            found |= {n: tuple(saved.get_slice(n).get_shape()) for n in saved.keys() if ".lora_" in n}  # noqa: SIM118
    wrong = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
    if wrong:
        shape = wanted.get(wrong[0])
        raise UserError(
            f"assistant {folder}: its weights are not what its config.json says: {wrong[0]} should "
            f"{f'have the shape {shape}' if shape else 'not be there'}"
        )


def take_adapters(module: Any, folder: Path) -> None:
    """Copies a saved assistant's adapters; raises UserError when any other weight differs from the model's."""
    from safetensors import safe_open

    check_adapters(module, folder)
    state: Mapping[str, torch.Tensor] = module.state_dict()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as saved:
            for name in saved.keys():  # noqa: SIM118 (no mapping)
                value = saved.get_tensor(name)
                if ".lora_" in name:
                    state[name].copy_(value)
                elif name not in state or not torch.equal(value.to(state[name]), state[name]):
                    raise UserError(f"assistant {folder}: was made for a model with other weights ({name} differs)")


def _config_of(folder: Path) -> dict[str, Any]:
    from amends.subjects.load import check_folder

    if not folder.is_dir():
        raise UserError(f"assistant {folder}: no such folder")
    check_folder(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") != "logit_difference":
        raise UserError(
            f"assistant {folder}: holds a {config.get('model_type')} model and no assistant: name the `model` folder of a "
            "stage that used logit_difference"
        )
    return config
