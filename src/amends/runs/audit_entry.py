"""What a recipe's key `audit` says: which auditor's flags become the forget set, on which stage's model, and who looks on.

    audit: {use: activation_clustering, size: 0.3, model: original, beside: [{use: random_scores}], show: 12}

`use` and the auditor's own settings stand together as in a stage. Stages up to `model` are made of all training rows; then
the auditors score them; from there on flagged rows are `forget` and the others `retain`, for stages and measurements alike.
Only the first auditor decides. Those `beside` it are measured and decide nothing. The report shows `show` rows.

Where the data is no `labelled` one, nothing is forgotten: the run says which rows are suspicious, and ends there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amends.core.errors import UserError, nearest
from amends.core.spec import build_use
from amends.data.bundle import Bundle

SUBJECT = "audit"
"""What claims call the audit: `audit.spectral_signatures.auroc`."""
MEASURED = ("auroc", "auroc_within", "tpr", "fpr", "flagged")
"""What a claim may name of an auditor."""
SHOWN = 12
"""How many of the most suspicious rows the report shows, where nothing is said."""
STAND_IN = 10
"""Every so many rows stand for the flagged ones where it is checked, before anything runs, whether stages fit the data."""


@dataclass(frozen=True)
class AuditEntry:
    """The auditors, the first of which decides, and the stage that they look at."""

    auditors: tuple[Any, ...]
    model: str
    before: frozenset[str]
    """The stages that are made of all rows: those up to `model`."""
    show: int = SHOWN
    """How many of the most suspicious rows the report shows."""

    @property
    def names(self) -> tuple[str, ...]:
        """What claims may name: `spectral_signatures.auroc`, ..."""
        return tuple(f"{auditor.name}.{what}" for auditor in self.auditors for what in MEASURED)

    def check(self, data: Bundle, subject: Any | None) -> None:
        """Raises UserError for what an auditor refuses of the rows, or of the model."""
        for i, auditor in enumerate(self.auditors):
            try:
                auditor.check(data, subject)
            except UserError as error:
                raise UserError(f"audit{f'.beside.{i - 1}' if i else ''}: {error}") from None


def build_audit(tree: Any, stages: Sequence[str]) -> AuditEntry:
    """Builds the auditors of a plain tree; raises UserError with the dotted path."""
    if not isinstance(tree, Mapping) or "use" not in tree:
        raise UserError(f"audit: expected a mapping with `use:`, got {tree!r}")
    rest = dict(tree)
    model, beside, show = rest.pop("model", "original"), rest.pop("beside", ()), rest.pop("show", SHOWN)
    if isinstance(show, bool) or not isinstance(show, int) or show < 0:
        raise UserError(f"audit.show: expected how many rows the report shows, got {show!r}")
    if model not in stages:
        raise UserError(f"audit.model: no stage is called {model!r}{nearest(str(model), stages)}")
    if SUBJECT in stages:
        raise UserError(f"stages.{SUBJECT}: claims call the audit by this name: call the stage something else")
    if not isinstance(beside, (list, tuple)):
        raise UserError(f"audit.beside: expected a list, got {beside!r}")
    first = build_use("auditors", rest, "audit")
    others = [build_use("auditors", other, f"audit.beside.{i}") for i, other in enumerate(beside)]
    names = [auditor.name for auditor in (first, *others)]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise UserError(f"audit.beside: {twice} stands twice; results are kept by this name")
    if first.role != "train":
        raise UserError(f"audit.role: flags of {first.name} decide what is forgotten of the rows of 'train': leave it out")
    return AuditEntry((first, *others), model, frozenset(stages[: list(stages).index(model) + 1]), show)


def check_source(source: Any, audit: AuditEntry | None) -> None:
    """Raises UserError where data and audit do not belong together."""
    waits = getattr(source, "by", None) == "audit"
    if audit is not None and not splits(source):
        return
    if audit is None and waits:
        raise UserError("data.by: waits for an auditor, and the recipe has no key `audit`: add it, for instance "
                        "`audit: {use: activation_clustering}`")  # fmt: skip
    if audit is not None and not waits:
        raise UserError("audit: its flags say what is forgotten, so the data must leave that open: `use: labelled, by: audit`")


def splits(source: Any) -> bool:
    """Whether flags can be turned into what is forgotten; rows of a bare source stay as they are, and are only audited."""
    return hasattr(source, "flagged")


def stand_in(source: Any, data: Bundle, seed: int) -> Bundle:
    """The bundle as it may look after the audit, for checks before anything runs."""
    return data if not splits(source) else source.flagged(seed, [row.id for row in data["train"][::STAND_IN]])
