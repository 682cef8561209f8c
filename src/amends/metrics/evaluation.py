"""What metrics know of one model over one bundle: token-level scores and greedy answers, each computed once.

All of probability, truth ratio, memorisation and membership inference read the same table of tokens; a row that two
metrics need goes through the model once, in batches of similar length.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from amends.core.context import Memory
from amends.core.protocols import Context
from amends.core.types import Likelihood, Role, Sample
from amends.data.bundle import Bundle
from amends.engine.score import likelihoods
from amends.subjects.distributions import Categorical


@dataclass(frozen=True, slots=True)
class Tokens:
    """One row's supervised tokens, closing token last. Arrays of length n; the last three are None without classes."""

    logp: np.ndarray
    """log p(y_t | x, y_<t) in nats."""
    hit: np.ndarray | None = None
    """Whether the arg-max is the right token."""
    mean: np.ndarray | None = None
    """sum_v p log p: the expected log-probability under the model itself."""
    std: np.ndarray | None = None
    """The standard deviation of log p under the model itself."""

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
    """One model over one bundle. `answers` needs a subject that generates."""

    subject: Any
    data: Bundle
    seed: int = 0
    max_new_tokens: int = 48
    batch_size: int = 48
    run: Context = field(default_factory=Memory)
    _tokens: dict[str, Tokens] = field(default_factory=dict)
    _answers: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, role: Role) -> tuple[Sample, ...]:
        """The rows of a role."""
        return self.data[role]

    def tokens(self, samples: Iterable[Sample]) -> dict[str, Tokens]:
        """Token scores by row id, in the order given."""
        samples = list(samples)
        missing = list({s.id: s for s in samples if s.id not in self._tokens}.values())
        if missing:
            with self.run.progress("scoring", len(missing)) as bar:
                for batch, like in likelihoods(self.subject, missing, seed=self.seed, device=self._device()):
                    self._tokens.update(zip(batch.ids, _table(like), strict=True))
                    bar.advance(len(batch))
        return {s.id: self._tokens[s.id] for s in samples}

    def answers(self, samples: Iterable[Sample]) -> dict[str, str]:
        """Greedy answers by row id, in the order given."""
        samples = list(samples)
        missing = sorted({s.id: s for s in samples if s.id not in self._answers}.values(), key=_prompt_length)
        if missing:
            with self.run.progress("answering", len(missing)) as bar:
                start = 0
                for texts in self.subject.generate(missing, self.max_new_tokens, self.batch_size):
                    self._answers.update((s.id, t.strip()) for s, t in zip(missing[start:], texts, strict=False))
                    start += len(texts)
                    bar.advance(len(texts))
        return {s.id: self._answers[s.id] for s in samples}

    def known_answers(self) -> Mapping[str, str]:
        """Every answer generated so far, for the report."""
        return dict(self._answers)

    def _device(self) -> torch.device:
        return next(self.subject.module.parameters()).device


def _prompt_length(sample: Sample) -> int:
    return len(str(sample.data.get("question", sample.data.get("prompt", ""))))


def _table(like: Likelihood) -> list[Tokens]:
    """Splits a batch's packed terms into one table a row."""
    if not isinstance(like.dist, Categorical):
        return [Tokens(-v[None]) for v in (like.nll_B / like.n_B).double().cpu().numpy()]
    logp_NV = torch.log_softmax(like.dist.logits_NV.float(), -1)
    logp_N = logp_NV.gather(-1, like.dist.target_N[:, None])[:, 0]
    p_NV = logp_NV.exp()
    mean_N = (p_NV * logp_NV).sum(-1)
    var_N = (p_NV * logp_NV.square()).sum(-1) - mean_N.square()
    hit_N = logp_NV.argmax(-1) == like.dist.target_N
    columns = [logp_N.double(), hit_N, mean_N.double(), var_N.clamp_min(1e-6).sqrt().double()]
    ends = np.cumsum(like.n_B.cpu().numpy())[:-1]
    return [Tokens(*cells) for cells in zip(*(np.split(c.cpu().numpy(), ends) for c in columns), strict=True)]
