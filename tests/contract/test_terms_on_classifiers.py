"""Every term on a network with running statistics and drawn shifts, and on a classifier of texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from amends.core import catalog
from amends.core.context import Memory
from amends.core.rng import stream_seed
from amends.core.spec import Weighted, build_use
from amends.data.arrays import rows_of_arrays
from amends.data.bundle import Bundle
from amends.engine.fit import fit
from amends.engine.optim import SGD
from amends.engine.score import nll_by_id
from amends.terms.nll import NLL

TERMS = [entry.name for entry in catalog.list_kind("terms")]
KINDS = {
    "images": {"use": "image_classifier", "width": 2, "augment": {"crop": 1}},
    "texts": {"use": "text_classifier", "width": 8, "depth": 1, "heads": 2, "vocab": 300},
}


@pytest.fixture(scope="module")
def worlds() -> dict[str, Bundle]:
    draws = np.random.default_rng(stream_seed(0, "contract pictures"))
    rows = {
        r: rows_of_arrays(draws.integers(0, 256, (8, 8, 8), dtype=np.uint8), np.arange(8) % 3, r, r)
        for r in ("forget", "retain")
    }
    other = {s.id: s.with_("other", label=(s.data["label"] + 1) % 3) for s in rows["forget"]}
    topics = {"use": "topics", "topics": 3, "rows": 5}
    texts = build_use("data", {"use": "labelled", "of": topics, "by": "random", "share": 6}, "data").load(0)
    return {"images": Bundle(rows, other, classes=("a", "b", "c")), "texts": texts}


def term_of(name: str) -> Any:
    cls = catalog.find("terms", name, "objective").load()
    return cls(term=Weighted(term=NLL(role="forget"))) if name in ("constraint", "during") else cls(role="forget")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TERMS)
def test_two_steps_are_finite_and_leave_a_model_that_can_be_measured(worlds: dict[str, Bundle], kind: str, name: str) -> None:
    data, run = worlds[kind], Memory()
    subject = build_use("models", KINDS[kind], "subject").load(data, 0)
    objective = [Weighted(term=term_of(name)), Weighted(term=NLL(role="retain"))]
    outcome = fit(subject, objective, data, steps=2, optim=SGD(lr=1e-2), batch=4, micro=2, reference="start", run=run)
    assert outcome.steps == 2 and outcome.stopped is None
    assert all(torch.tensor(list(line.values())).isfinite().all() for line in run.logged)
    state = subject.module.state_dict()
    assert all(t.isfinite().all() for t in state.values()) and not subject.call.training
    before = {k: v.clone() for k, v in state.items()}
    assert all(np.isfinite(nll) for nll, _ in nll_by_id(subject, data["forget"]).values())
    assert all(torch.equal(v, before[k]) for k, v in subject.module.state_dict().items())
