"""What a term sees of one role in one step: likelihoods computed on first use and shared by all terms of the role."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch

from amends.core.errors import NeedsReference, UserError
from amends.core.protocols import Need
from amends.core.types import Batch, Hidden, Likelihood, Role


class Beside:
    """The whole batches of one step that terms of other roles look at, each put through the model at most once."""

    def __init__(self, subject: Any, batches: Mapping[Role, Callable[[int], Batch]], step: int, device: Any) -> None:
        self._subject, self._batches, self._step, self._device = subject, batches, step, device
        self._views: dict[Role, RoleView] = {}

    def __getitem__(self, role: Role) -> RoleView:
        if role not in self._batches:
            raise UserError(f"no term of this objective asked to look at the rows of '{role}'")
        if role not in self._views:
            batch = self._batches[role](self._step).to(self._device)
            self._views[role] = RoleView(_Still(self._subject), batch, len(batch), None)
        return self._views[role]


class _Still:
    """A subject that is only looked at: no gradient, evaluation mode."""

    def __init__(self, subject: Any) -> None:
        self._subject = subject

    def likelihood(self, batch: Batch) -> Likelihood:
        return self._quiet(lambda: self._subject.likelihood(batch))

    def hidden(self, batch: Batch, at: float) -> Hidden:
        return self._quiet(lambda: self._subject.hidden(batch, at))

    @torch.no_grad()
    def _quiet(self, look: Callable[[], Any]) -> Any:
        was_training = self._subject.call.training
        self._subject.call.eval()
        try:
            return look()
        finally:
            self._subject.call.train(was_training)


class RoleView:
    """Rows, and after them their alternatives, from ONE forward of each model; `num_rows` is 0 where no term needs the rows."""

    def __init__(self, subject: Any, batch: Batch, num_rows: int, reference: Any | None, beside: Beside | None = None) -> None:
        self._subject, self._all, self._num_rows, self._reference = subject, batch, num_rows, reference
        self._beside = beside
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
        return self._all.rows(0, self._own())

    @property
    def policy(self) -> Likelihood:
        """The model in training, with gradient."""
        return self._policy if self._own() == len(self._all) else self._policy.rows(0, self._num_rows)

    @property
    def reference(self) -> Likelihood:
        """The start model, without gradient."""
        return self._ref if self._own() == len(self._all) else self._ref.rows(0, self._num_rows)

    def _own(self) -> int:
        if not self._num_rows:
            raise UserError(f"every term of these rows declared {Need.ALTERNATIVE_ONLY}, so their own answers were not run")
        return self._num_rows

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

    def beside(self, role: Role) -> RoleView:
        """All rows of a role in this step, without gradient and in evaluation mode."""
        if self._beside is None:
            raise UserError(f"no term of this objective asked to look at the rows of '{role}'")
        return self._beside[role]

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
        return self._half(self._whole._policy)

    @property
    def reference(self) -> Likelihood:
        return self._half(self._whole._ref)

    def _half(self, both: Likelihood) -> Likelihood:
        start = self._whole._num_rows
        return both.rows(start, len(self._whole._all)) if start else both

    def hidden(self, at: float) -> Hidden:
        raise UserError("activations are those of a role's own rows, not of their alternatives")

    def reference_hidden(self, at: float) -> Hidden:
        return self.hidden(at)

    def beside(self, role: Role) -> RoleView:
        return self._whole.beside(role)

    @property
    def alternative(self) -> _Half:
        raise UserError("an alternative has no alternative of its own")
