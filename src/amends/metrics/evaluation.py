"""What metrics know of one model over one bundle: token-level scores, greedy answers, gradient norms, each computed once.

All of probability, truth ratio, memorisation and membership inference read the same table of tokens; a row that two
metrics need goes through the model once, in batches of similar length. Whatever else a metric learns from the model goes
into `kept`, which a run saves with the tables, so that measuring again needs no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.types import Likelihood, Role, Sample
from amends.data.bundle import Bundle
from amends.engine.score import grad_norms, likelihoods
from amends.subjects.distributions import Categorical

FEW_CLASSES = 256
"""Up to so many classes a classifier's whole prediction is kept for each row."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One row's supervised tokens, closing token last. Arrays of length n; all but the first are None without classes."""

    logp: np.ndarray
    """log p(y_t | x, y_<t) in nats."""
    hit: np.ndarray | None = None
    """Whether the arg-max is the right token."""
    mean: np.ndarray | None = None
    """sum_v p log p: the expected log-probability under the model itself."""
    std: np.ndarray | None = None
    """The standard deviation of log p under the model itself."""
    classes: np.ndarray | None = None
    """log p of every class, of length K: of a classifier with at most `FEW_CLASSES`, else None."""

    @property
    def probability(self) -> float:
        """p(y)^(1/n): the geometric mean of the token probabilities."""
        return float(np.exp(self.logp.mean()))

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood, nats a token."""
        return float(-self.logp.mean())


@dataclass
class Evaluation:
    """One model over one bundle. `answers` and `texts` need a subject that generates."""

    subject: Any
    data: Bundle
    seed: int = 0
    max_new_tokens: int = 48
    batch_size: int = 48
    run: Context = field(default_factory=Memory)
    _tokens: dict[str, Tokens] = field(default_factory=dict)
    _answers: dict[str, str] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)
    """What metrics keep under a name of their own: values of JSON, saved with the reading."""
    weights: Callable[[], Mapping[str, torch.Tensor]] | None = None
    """Brings the model's parameters, for metrics that compare weights; None where they are not kept."""
    first: Callable[[], Mapping[str, torch.Tensor]] | None = None
    """Brings the parameters of the model as it was built, before any training."""
    client: Callable[[], Any] | None = None
    """Brings the chat client that answers, when the subject is gone; for metrics that ask about two stages at once."""

    def __getitem__(self, role: Role) -> tuple[Sample, ...]:
        """The rows of a role."""
        return self.data[role]

    def tokens(self, samples: Iterable[Sample]) -> dict[str, Tokens]:
        """Token scores by row id, in the order given."""
        samples = list(samples)
        missing = list({s.id: s for s in samples if s.id not in self._tokens}.values())
        if missing:
            whole = getattr(self.subject, "predicts_one_class", False)
            with self.run.progress("scoring", len(missing)) as bar:
                for batch, like in likelihoods(self.subject, missing, seed=self.seed, device=self._device()):
                    self._tokens.update(zip(batch.ids, _table(like, whole), strict=True))
                    bar.advance(len(batch))
        return {s.id: self._tokens[s.id] for s in samples}

    def answers(self, samples: Iterable[Sample], max_new_tokens: int | None = None) -> dict[str, str]:
        """Greedy answers by row id, in the order given, without the space around them; see `texts`."""
        return {row: text.strip() for row, text in self.texts(samples, max_new_tokens).items()}

    def texts(self, samples: Iterable[Sample], max_new_tokens: int | None = None) -> dict[str, str]:
        """What the model writes after each prompt, as it stands; of at most `max_new_tokens`, by default the reading's.

        Each length has a table of its own: the first 32 tokens of a longer answer are not kept apart.
        """
        length = max_new_tokens or self.max_new_tokens
        table = self._answers if length == self.max_new_tokens else self.kept.setdefault(f"answers/{length}", {})
        samples = list(samples)
        missing = sorted({s.id: s for s in samples if s.id not in table}.values(), key=_prompt_length)
        if missing:
            if not hasattr(self.subject, "generate"):
                raise UserError("these rows ask for answers, and the model writes none: measure it with another metric")
            with self.run.progress("answering", len(missing)) as bar:
                start = 0
                for texts in self.subject.generate(missing, length, self.batch_size):
                    table.update((s.id, t) for s, t in zip(missing[start:], texts, strict=False))
                    start += len(texts)
                    bar.advance(len(texts))
        return {s.id: table[s.id] for s in samples}

    def grad_norms(self, samples: Iterable[Sample]) -> dict[str, float]:
        """The size of the gradient of each row's mean loss, by row id, in the order given; see `engine.score.grad_norms`."""
        samples = list(samples)
        table = self.kept.setdefault("grad_norms", {})
        missing = list({s.id: s for s in samples if s.id not in table}.values())
        if missing:
            with self.run.progress("taking gradients", len(missing)) as bar:
                for row, norm in grad_norms(self.subject, missing, seed=self.seed, device=self._device()):
                    table[row] = norm
                    bar.advance()
        return {s.id: table[s.id] for s in samples}

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """The value kept under `name`; `make` computes it where there is none yet. It must be plain JSON."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def known_answers(self) -> Mapping[str, str]:
        """Every answer of the reading's own length so far, for the report."""
        return {row: text.strip() for row, text in self._answers.items()}

    def told(self, samples: Iterable[Sample]) -> dict[str, str]:
        """The name of the class that a classifier gives each row, as far as whole predictions were kept."""
        found = {s.id: self._tokens[s.id].classes for s in samples if s.id in self._tokens}
        return {row: name_of(int(logp_K.argmax()), self.data.classes) for row, logp_K in found.items() if logp_K is not None}

    def _device(self) -> torch.device:
        return next(self.subject.module.parameters()).device


def name_of(label: int, classes: Sequence[str]) -> str:
    """The name of a class, or its number where the data names none."""
    return classes[label] if label < len(classes) else str(label)


def _prompt_length(sample: Sample) -> int:
    return len(str(sample.data.get("question", sample.data.get("prompt", ""))))


def _table(like: Likelihood, whole: bool = False) -> list[Tokens]:
    """Splits a batch's packed terms into one table a row; `whole` keeps the whole prediction of a term a row."""
    if not isinstance(like.dist, Categorical):
        return [Tokens(-v[None]) for v in (like.nll_B / like.n_B).double().cpu().numpy()]
    logp_NV = torch.log_softmax(like.dist.logits_NV.float(), -1)
    logp_N = logp_NV.gather(-1, like.dist.target_N[:, None])[:, 0]
    p_NV = logp_NV.exp()
    mean_N = (p_NV * logp_NV).sum(-1)
    var_N = (p_NV * logp_NV.square()).sum(-1) - mean_N.square()
    hit_N = logp_NV.argmax(-1) == like.dist.target_N
    columns = [logp_N.double(), hit_N, mean_N.double(), var_N.clamp_min(1e-6).sqrt().double()]
    if whole and logp_NV.shape[1] <= FEW_CLASSES:
        every_BK = torch.log_softmax(like.dist.logits_NV.double(), -1).cpu().numpy()
        each = zip(*(c.cpu().numpy()[:, None] for c in columns), every_BK, strict=True)
        return [Tokens(*cells) for cells in each]
    ends = np.cumsum(like.n_B.cpu().numpy())[:-1]
    return [Tokens(*cells) for cells in zip(*(np.split(c.cpu().numpy(), ends) for c in columns), strict=True)]
