"""Tokens that are noisy patterns, labelled by majority vote: the data model of the one-layer analysis (arXiv 2406.17167).

M orthonormal patterns mu_1 .. mu_M in R^d; a token is one of them plus noise of length at most tau. mu_1 and mu_2 decide
the label, the others say nothing. In a row of label +1 a share alpha_* of the tokens is mu_1 (label-relevant) and a smaller
share alpha_# is mu_2 (confusion); in a row of label -1 it is the other way round, so that the label is the majority of the two.
The rest of the tokens are drawn evenly from mu_3 .. mu_M.

The noise is Gaussian with deviation tau / sqrt(d) a coordinate, and what is longer than tau is cut to tau, as the analysis
bounds it. The patterns are a random orthonormal system, so that no coordinate is special. Class 1 is the label +1.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from amends.core.errors import UserError
from amends.core.rng import rng
from amends.core.spec import Count, Fraction, NonNegative, spec
from amends.core.types import Sample
from amends.data.arrays import bundle_of, row_id
from amends.data.bundle import Bundle

CLASSES = ("-1", "+1")
RELEVANT = "relevant"
"""The role of the two patterns that decide the label, as rows of one token without noise; for measuring."""


@spec
class Patterns:
    """A generated world of token sequences: the majority of two patterns is the label, all other patterns say nothing."""

    dim: Annotated[int, Field(ge=2)] = 20
    """d, the length of a token."""
    patterns: Annotated[int, Field(ge=2)] = 10
    """M, how many patterns there are; at most `dim`."""
    tokens: Count = 40
    """L, tokens a row."""
    rows: Annotated[int, Field(ge=2)] = 2000
    """Training rows, half of each label."""
    test: Annotated[int, Field(ge=2)] = 1000
    """Test rows."""
    relevant: Fraction = 0.3
    """alpha_*, the share of a row's tokens that speak for its label."""
    confusion: Fraction = 0.15
    """alpha_#, the share that speak against it."""
    noise: NonNegative = 0.05
    """tau, the longest noise of a token."""

    def load(self, seed: int) -> Bundle:
        """Roles train, test, and relevant: mu_2 (label -1) and mu_1 (label +1) themselves."""
        self._check()
        mu_Md = self.system(seed)
        pure = [Sample(row_id(RELEVANT, k, k), {"tokens": mu_Md[[1 - k]], "label": k}) for k in (0, 1)]
        train, test = (self._rows(split, n, mu_Md, seed) for split, n in (("train", self.rows), ("test", self.test)))
        return bundle_of(train, test, CLASSES).with_role(RELEVANT, pure).check()

    def system(self, seed: int) -> Tensor:
        """[M, d] the patterns, orthonormal; mu_1 and mu_2 are the first two."""
        drawn = torch.randn(self.dim, self.patterns, generator=rng(seed, "patterns"), dtype=torch.float64)
        return torch.linalg.qr(drawn).Q.T.float().contiguous()

    def counts(self) -> tuple[int, int]:
        """How many tokens of a row speak for its label, and how many against it."""
        return round(self.relevant * self.tokens), round(self.confusion * self.tokens)

    def _check(self) -> None:
        own, other = self.counts()
        if self.patterns > self.dim:
            raise UserError(
                f"data.patterns: {self.patterns} orthonormal patterns do not fit into {self.dim} dimensions: raise dim"
            )
        if own <= other:
            raise UserError(
                f"data.confusion: {other} of {self.tokens} tokens speak against a label and {own} for it, so it is no majority"
            )
        if own + other > self.tokens or (self.patterns == 2 and own + other < self.tokens):
            rest = "no other pattern" if self.patterns == 2 else "no room"
            raise UserError(
                f"data.relevant: {own} + {other} of {self.tokens} tokens, and {rest} for the rest: change the shares"
            )

    def _rows(self, split: str, n: int, mu_Md: Tensor, seed: int) -> tuple[Sample, ...]:
        generator = rng(seed, "pattern rows", split)
        label_N = torch.arange(n) % 2
        which_NL = self._which(label_N, generator)
        noise_NLd = torch.randn(n, self.tokens, self.dim, generator=generator) * (self.noise / self.dim**0.5)
        length_NL1 = noise_NLd.norm(dim=-1, keepdim=True)
        noise_NLd = noise_NLd * (self.noise / length_NL1.clamp_min(1e-30)).clamp_max(1.0)
        tokens_NLd = mu_Md[which_NL] + noise_NLd
        labels = label_N.tolist()
        return tuple(Sample(row_id(split, k, i), {"tokens": tokens_NLd[i], "label": k}) for i, k in enumerate(labels))

    def _which(self, label_N: Tensor, generator: torch.Generator) -> Tensor:
        """[N, L] the pattern of each token, in an order of its own in each row."""
        own, other = self.counts()
        n, rest = len(label_N), self.tokens - own - other
        mine_N1 = (1 - label_N)[:, None]  # label +1 is class 1 and has the first pattern, index 0
        others = torch.randint(2, max(3, self.patterns), (n, rest), generator=generator)
        which_NL = torch.cat([mine_N1.expand(-1, own), (1 - mine_N1).expand(-1, other), others], 1)
        return which_NL.gather(1, torch.rand(n, self.tokens, generator=generator).argsort(1))
