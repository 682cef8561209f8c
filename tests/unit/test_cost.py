"""What a method costs, as listings say it: from what its terms need, and as the engine does it."""

from __future__ import annotations

from typing import Any

import pytest

from amends.core.protocols import Need
from amends.runs import about
from amends.runs.methods import find_method


class Term:
    """What the cost is read from."""

    def __init__(self, role: str, *needs: Need) -> None:
        self.role, self.needs = role, frozenset(needs)


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ([Term("f")], (1, 1, 0, 0, ())),
        ([Term("f"), Term("r")], (2, 2, 0, 0, ())),
        ([Term("f"), Term("f")], (1, 1, 0, 0, ())),
        ([Term("f", Need.REFERENCE), Term("r")], (2, 2, 0, 0, ("1 pass over the f rows",))),
        ([Term("f", Need.REFERENCE, Need.ALTERNATIVE)], (2, 2, 0, 0, ("2 passes over the f rows",))),
        ([Term("f"), Term("r", Need.REFERENCE_DIST)], (3, 2, 0, 1, ())),
        ([Term("f", Need.REFERENCE), Term("r", Need.REFERENCE_DIST)], (4, 2, 0, 1, ())),
        ([Term("f", Need.HIDDEN), Term("r", Need.HIDDEN, Need.REFERENCE_HIDDEN)], (3, 2, 3, 1, ())),
    ],
)
def test_the_cost_follows_from_what_terms_need(terms: list[Any], expected: tuple[Any, ...]) -> None:
    found = about.cost(terms)
    assert (found.forwards, found.backwards, found.partial, found.copies, found.once) == expected
    assert found.factor == pytest.approx((expected[0] + 2 * expected[1]) / 3)


def test_the_cost_is_what_the_engine_does(monkeypatch: pytest.MonkeyPatch, lm_world: Any) -> None:
    """Counted on a real stage: rows that go through the model in the steps, against a fine-tuning of as many steps."""
    from amends.core.context import Memory
    from amends.core.spec import build_use
    from amends.engine.fit import fit
    from amends.subjects.causal_lm import CausalLM

    rows: list[int] = []
    plain = CausalLM.likelihood
    monkeypatch.setattr(CausalLM, "likelihood", lambda self, batch: (rows.append(len(batch)), plain(self, batch))[1])

    def forwarded(method: str, steps: int) -> int:
        rows.clear()
        terms = tuple(build_use("terms", t, "t") for t in find_method(method).objective)
        fit(lm_world.make(), terms, lm_world.data, steps=steps, optim=build_use("optim", "adamw", "o"), batch=4,
            reference="start", run=Memory())  # fmt: skip
        return sum(rows)

    for name in ("graddiff", "npo", "graddiff-kl", "npo-kl", "dpo", "idk"):
        cost = about.cost_of(find_method(name))
        assert cost is not None
        assert (forwarded(name, 3) - forwarded(name, 1)) / (2 * 4) == cost.forwards, name
