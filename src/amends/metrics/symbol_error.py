"""The share of a new device's symbols that are told wrong once the model has adapted to its few pilots (arXiv 1903.02184).

Every model adapts by plain optimisation of its likelihood on the pilots of each device of `role`, from its weights, all
devices apart. How suits a model best is no part of the claim: the rule (gradient descent or Adam, whose first steps are signed
ones) and the number of steps are chosen for each model by the errors on the payload of the devices of `by`, and then used on
those of `role`. The payload begins behind the longest pilots, so that it is the same for every number of them.

`KnownChannel` is the error of the receiver that knows each device's channel and imbalance, on the same symbols: maximum
likelihood, which no receiver beats on the average.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from amends.core.errors import UserError
from amends.core.spec import Count, Natural, spec
from amends.core.types import Better, Measurement, Role
from amends.metrics.evaluation import Evaluation
from amends.metrics.rows import rows_of
from amends.metrics.stats import mean_measurement

if TYPE_CHECKING:
    from torch import Tensor

Rule = tuple[str, float]
RULES: tuple[Rule, ...] = (("gd", 0.1), ("adam", 0.02))
"""How a model may adapt: a rule and its step size."""


@spec
class SymbolError:
    """Share of symbols told wrong after the model has adapted to so many pilots of each new device."""

    version: ClassVar[int] = 1
    better: ClassVar[Better] = "lower"
    needs_reference: ClassVar[bool] = False
    pilots: Count
    """How many of a device's symbols are known."""
    payload: Count = 100
    """From which symbol on the errors are counted."""
    role: Role = "test"
    """The new devices."""
    by: Role = "valid"
    """The devices by which rule and number of steps are chosen."""
    looks: Annotated[tuple[Natural, ...], Field(min_length=1)] = (0, 1, 5, 20, 50, 100, 200)
    """The numbers of steps that are tried."""

    @property
    def name(self) -> str:
        """`symbol_error.n20`."""
        return f"symbol_error.n{self.pilots}"

    def roles(self) -> frozenset[Role]:
        """New devices, and those by which is chosen."""
        return frozenset({self.role, self.by})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The mean over devices with its interval; each device's share is its score."""
        if self.pilots > self.payload:
            raise UserError(f"pilots: {self.pilots} of them reach into the payload, which begins at {self.payload}")

        def look() -> dict[str, Any]:
            tried = {(rule, n): e for rule in RULES for n, e in self._errors(evaluation, self.by, rule, self.looks).items()}
            (rule, steps), errors = min(tried.items(), key=lambda item: sum(item[1].values()))
            found = self._errors(evaluation, self.role, rule, (steps,))[steps]
            return {
                "rule": rule[0],
                "lr": rule[1],
                "steps": steps,
                "errors": found,
                "valid": sum(errors.values()) / len(errors),
            }

        kept = evaluation.once(f"symbol_error/{self.pilots}/{self.payload}/{self.role}/{self.by}/{self.looks}", look)
        note = f"adapts by {kept['steps']} steps of {kept['rule']} at {kept['lr']:g}, chosen on {self.by}"
        return mean_measurement(self.name, kept["errors"], self.better, version=self.version, note=note)

    def _errors(self, evaluation: Evaluation, role: Role, rule: Rule, looks: tuple[int, ...]) -> dict[int, dict[str, float]]:
        """Number of steps -> device -> share of its payload that is told wrong."""
        import torch
        from torch.func import functional_call

        subject, rows = evaluation.subject, rows_of(evaluation, role)
        module = subject.module.eval()
        batch = subject.collate([subject.encode(row) for row in rows]).to(next(module.parameters()).device)
        known_BS, sent_BS = batch["symbol"][:, : self.pilots], batch["symbol"][:, self.payload :]
        if not sent_BS.numel():
            raise UserError(f"payload: devices have {batch['symbol'].shape[1]} symbols, none from {self.payload} on")
        logits = torch.vmap(lambda p, x: functional_call(module, p, (x,)))

        def loss(params: Mapping[str, Tensor]) -> Tensor:
            told = logits(params, batch["received"][:, : self.pilots]).flatten(0, 1)
            return torch.nn.functional.cross_entropy(told, known_BS.flatten(), reduction="sum") / self.pilots

        def wrong(params: Mapping[str, Tensor]) -> dict[str, float]:
            with torch.no_grad():
                told_BS = logits(params, batch["received"][:, self.payload :]).argmax(-1)
            return dict(zip(batch.ids, (told_BS != sent_BS).double().mean(1).tolist(), strict=True))

        start = {n: p.detach().expand(len(rows), *p.shape).clone() for n, p in module.named_parameters()}
        return adapted(start, loss, wrong, rule, looks)


def adapted(
    params: dict[str, Tensor], loss: Callable[[Mapping[str, Tensor]], Tensor], look: Callable[[Mapping[str, Tensor]], Any],
    rule: Rule, looks: tuple[int, ...],
) -> dict[int, Any]:  # fmt: skip
    """What `look` sees after so many steps of a rule; the devices' losses are a sum, so that each has its own gradient."""
    import torch

    kind, lr = rule
    leaves = {n: p.requires_grad_() for n, p in params.items()}
    adam = torch.optim.Adam(list(leaves.values()), lr=lr) if kind == "adam" else None
    found = {}
    for step in range(max(looks) + 1):
        if step in looks:
            found[step] = look({n: p.detach() for n, p in leaves.items()})
        if step == max(looks):
            break
        slopes = torch.autograd.grad(loss(leaves), list(leaves.values()))
        if adam is not None:
            for p, slope in zip(leaves.values(), slopes, strict=True):
                p.grad = slope
            adam.step()
            continue
        with torch.no_grad():
            for p, slope in zip(leaves.values(), slopes, strict=True):
                p -= lr * slope
    return found


@spec
class KnownChannel:
    """Share of symbols told wrong by the receiver that knows each device's channel: the floor, whatever the model."""

    version: ClassVar[int] = 1
    better: ClassVar[Better] = "lower"
    needs_reference: ClassVar[bool] = False
    payload: Count = 100
    """From which symbol on the errors are counted."""
    role: Role = "test"
    """The devices."""

    @property
    def name(self) -> str:
        """`known_channel.test`."""
        return f"known_channel.{self.role}"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The mean over devices with its interval."""
        from amends.data.devices import nearest

        scores = {}
        for row in rows_of(evaluation, self.role):
            received_S2, sent_S = row.data["received"][self.payload :], row.data["symbol"][self.payload :]
            scores[row.id] = float((nearest(received_S2, row.data["points"]) != sent_S).double().mean())
        return mean_measurement(self.name, scores, self.better, version=self.version)
