"""What a term sees of one role in one step: likelihoods computed on first use and shared by all terms of the role."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from amends.core.errors import NeedsReference, UserError
from amends.core.types import Batch, Hidden, Likelihood


class RoleView:
    """Rows, and after them their alternatives, from ONE forward of each model."""

    def __init__(self, subject: Any, batch: Batch, num_rows: int, reference: Any | None) -> None:
        self._subject, self._all, self._num_rows, self._reference = subject, batch, num_rows, reference
        self._hidden: dict[tuple[str, float], Hidden] = {}

    @cached_property
    def _policy(self) -> Likelihood:
        return self._subject.likelihood(self._all)

    @cached_property
    def _ref(self) -> Likelihood:
        return self._start().likelihood(self._all)

    def _start(self) -> Any:
        if self._reference is None:
            raise NeedsReference("this objective needs the reference model, and the stage has none")
        return self._reference

    @property
    def batch(self) -> Batch:
        """The rows without their alternatives."""
        return self._all.rows(0, self._num_rows)

    @property
    def policy(self) -> Likelihood:
        """The model in training, with gradient."""
        return self._policy if self._num_rows == len(self._all) else self._policy.rows(0, self._num_rows)

    @property
    def reference(self) -> Likelihood:
        """The start model, without gradient."""
        return self._ref if self._num_rows == len(self._all) else self._ref.rows(0, self._num_rows)

    def hidden(self, at: float) -> Hidden:
        """The policy's activations behind a block, of the rows without their alternatives."""
        if ("policy", at) not in self._hidden:
            self._hidden["policy", at] = self._subject.hidden(self.batch, at)
        return self._hidden["policy", at]

    def reference_hidden(self, at: float) -> Hidden:
        """The start model's."""
        if ("reference", at) not in self._hidden:
            self._hidden["reference", at] = self._start().hidden(self.batch, at)
        return self._hidden["reference", at]

    @property
    def alternative(self) -> _Half:
        """The same prompts with another answer."""
        if self._num_rows == len(self._all):
            raise UserError("these rows have no alternative answer")
        return _Half(self)


class _Half:
    """The alternatives of a view."""

    def __init__(self, whole: RoleView) -> None:
        self._whole = whole

    @property
    def batch(self) -> Batch:
        return self._whole._all.rows(self._whole._num_rows, len(self._whole._all))

    @property
    def policy(self) -> Likelihood:
        return self._whole._policy.rows(self._whole._num_rows, len(self._whole._all))

    @property
    def reference(self) -> Likelihood:
        return self._whole._ref.rows(self._whole._num_rows, len(self._whole._all))

    def hidden(self, at: float) -> Hidden:
        raise UserError("activations are those of a role's own rows, not of their alternatives")

    def reference_hidden(self, at: float) -> Hidden:
        return self.hidden(at)

    @property
    def alternative(self) -> _Half:
        raise UserError("an alternative has no alternative of its own")
