"""Every term on every kind of subject, and every edit: whatever the catalog lists must keep the engine's promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from amends.core import catalog
from amends.core.context import Memory
from amends.core.errors import NeedsReference, UserError
from amends.core.protocols import Need, Term
from amends.core.spec import Weighted
from amends.core.types import Mean
from amends.data.bundle import Bundle
from amends.edits.clip import Clip
from amends.edits.freeze import Freeze
from amends.engine.fit import COMPARES, fit
from amends.engine.loader import Loader
from amends.engine.optim import SGD, AdamW
from amends.engine.view import RoleView
from amends.subjects.reference import frozen_copy
from amends.terms.nll import NLL
from amends.terms.npo import NPO

VARIANTS: dict[str, dict[str, Any]] = {
    "npo:logits": {"inside": "logits"}, "simnpo:logits": {"inside": "logits"}, "lga:flooding": {"form": "flooding"},
}  # fmt: skip
"""Settings that make a term ask for something else: they must keep the same promises."""
TERMS = [*(entry.name for entry in catalog.list_kind("terms")), *VARIANTS]
EDITS = [entry.name for entry in catalog.list_kind("edits")]
UNBOUNDED = {"ascent", "ugradsl"}
WEIGHED = {"wga", "satimp"}
"""Their weights are held constant, so their value is no measure of progress: what they raise is the NLL."""
WRAPPERS = {"constraint", "during"}
KINDS = ("causal_lm", "classifier", "denoiser")
REACHED = {
    "causal_lm": ("model.embed_tokens.", "model.layers.0."), "classifier": ("0.",), "denoiser": ("told.",),
}  # fmt: skip
"""What the first quarter of each kind's blocks is made of, with whatever lies before it."""


def term_of(name: str, **fields: Any) -> Any:
    cls = catalog.find("terms", name.split(":")[0], "objective").load()
    if name in WRAPPERS:
        return cls(term=Weighted(term=NLL(role="forget")), **fields)
    return cls(role="forget", **VARIANTS.get(name, {}), **fields)


PAIRS = [(kind, name) for kind in KINDS for name in TERMS if kind != "denoiser" or Need.CLASSES not in term_of(name).needs]
REFUSED = [(kind, name) for kind in KINDS for name in TERMS if (kind, name) not in PAIRS]
each_term = pytest.mark.parametrize(("world", "name"), PAIRS, indirect=["world"])


def test_the_catalog_was_enumerated() -> None:
    assert len(TERMS) >= 15 and len(EDITS) >= 3
    assert set(TERMS) >= UNBOUNDED | WEIGHED | WRAPPERS
    assert len(PAIRS) > 2 * len(TERMS) and len(PAIRS) + len(REFUSED) == 3 * len(TERMS)
    assert {name for _, name in REFUSED} >= {"undial", "ceu", "logit_flattening"}


def few(world: Any) -> Bundle:
    """Five rows to forget: one batch."""
    return world.data.with_role("forget", world.data["forget"][:5])


def whole_batch(world: Any, subject: Any) -> tuple[Any, int]:
    """The first step's batch of those five rows, followed by their alternatives."""
    micro = Loader(subject, "forget", few(world)["forget"], world.data.alternatives, rows=5, seed=0).at(0)[0]
    return micro.batch, micro.num_rows


def mean_of(world: Any, term: Any, subject: Any, reference: Any) -> Mean:
    batch, num_rows = whole_batch(world, subject)
    return term(RoleView(subject, batch, num_rows, reference))


@pytest.mark.parametrize("name", TERMS)
def test_a_term_is_a_term(name: str) -> None:
    assert isinstance(term_of(name), Term)


@each_term
def test_three_steps_run_and_are_finite(world: Any, name: str) -> None:
    subject, run = world.make(), Memory()
    outcome = fit(
        subject, [Weighted(term=term_of(name))], world.data, steps=3, optim=AdamW(lr=1e-3), batch=4, reference="start", run=run
    )
    assert outcome.steps == 3 and outcome.stopped is None
    assert [line["step"] for line in run.logged] == [1, 2, 3]
    assert all(torch.tensor(list(line.values())).isfinite().all() for line in run.logged)
    assert all(p.isfinite().all() for p in subject.module.parameters())


@each_term
def test_the_count_is_what_per_says_and_depends_on_the_batch_alone(world: Any, name: str) -> None:
    term, subject = term_of(name), world.make(seed=0)
    batch, num_rows = whole_batch(world, subject)
    here = mean_of(world, term, subject, frozen_copy(world.make(seed=1)))
    there = mean_of(world, term, world.make(seed=2), frozen_copy(world.make(seed=3)))
    assert here.total_B.shape == here.count_B.shape == (num_rows,)
    assert here.count_B.tolist() == there.count_B.tolist()
    if term.per == "row":
        assert here.count_B.tolist() == [1] * num_rows
    else:
        tokens = subject.count(batch).tolist()
        own = tokens[num_rows:] if Need.ALTERNATIVE in term.needs else tokens[:num_rows]
        assert here.count_B.tolist() == own


@each_term
@pytest.mark.parametrize("micro", [None, 2])
def test_the_engine_divides_by_the_terms_own_global_count(world: Any, name: str, micro: int | None) -> None:
    """The value logged at step 1 is sum(total) / sum(count) over the whole batch, however it is cut."""
    term, run, start = term_of(name), Memory(), frozen_copy(world.make(seed=1))
    expected = mean_of(world, term, world.make(seed=0), start).value.item()
    weighted = [Weighted(term=term, weight=0.5)]
    fit(world.make(seed=0), weighted, few(world), steps=1, optim=SGD(), batch=5, micro=micro, reference=start, run=run)
    assert run.logged[0][f"0.{catalog.normal(name.split(':')[0])}.forget"] == pytest.approx(0.5 * expected, rel=1e-4)


@pytest.mark.parametrize(("world", "name"), REFUSED, indirect=["world"])
def test_a_term_on_words_or_classes_refuses_a_model_that_predicts_none(world: Any, name: str) -> None:
    term, run = term_of(name), Memory()
    with pytest.raises(UserError, match="needs a prediction over words or classes, and this model gives a Gaussian"):
        fit(world.make(), [Weighted(term=term)], world.data, steps=1, optim=SGD(), reference="start", run=run)
    assert run.logged == []


@each_term
def test_the_gradient_reaches_every_parameter_that_the_term_depends_on(world: Any, name: str) -> None:
    subject, term = world.make(seed=0), term_of(name)
    mean_of(world, term, subject, frozen_copy(world.make(seed=1))).total_B.sum().backward()
    reached = {n for n, p in subject.module.named_parameters() if p.grad is not None and p.grad.any()}
    every = {n for n, _ in subject.module.named_parameters()}
    assert reached == ({n for n in every if n.startswith(REACHED[world.kind])} if Need.HIDDEN in term.needs else every)


def test_activations_are_known_of_every_kind() -> None:
    assert set(REACHED) == set(KINDS)
    assert {name for name in TERMS if Need.HIDDEN in term_of(name).needs} >= {"rmu", "embed_diff"}


@each_term
def test_a_reference_gets_no_gradient_and_is_not_changed(world: Any, name: str) -> None:
    subject, start = world.make(seed=0), frozen_copy(world.make(seed=1))
    before = {n: p.clone() for n, p in start.subject.module.named_parameters()}
    weighted = [Weighted(term=term_of(name))]
    fit(subject, weighted, world.data, steps=2, optim=SGD(lr=0.1), batch=4, reference=start, run=Memory())
    for n, p in start.subject.module.named_parameters():
        assert p.grad is None and torch.equal(p, before[n])


@each_term
def test_descending_a_term_reduces_it(world: Any, name: str) -> None:
    term, subject, start = term_of(name), world.make(seed=0), frozen_copy(world.make(seed=1))
    batch, num_rows = whole_batch(world, subject)

    def value() -> float:
        if name in WEIGHED:
            return -subject.likelihood(batch).nll_B[:num_rows].sum().item()
        return mean_of(world, term, subject, start).value.item()

    before, data = value(), few(world)
    fit(subject, [Weighted(term=term)], data, steps=15, optim=AdamW(lr=3e-3), batch=5, reference=start, run=Memory())
    after = value()
    assert after < before
    if name not in UNBOUNDED | WEIGHED:
        assert after >= 0


@each_term
def test_a_missing_reference_is_named_before_anything_runs(world: Any, name: str) -> None:
    term, run = term_of(name), Memory()

    def without_reference() -> None:
        fit(world.make(), [Weighted(term=term)], world.data, steps=1, optim=SGD(), reference=None, run=run)

    if COMPARES & term.needs:
        with pytest.raises(NeedsReference, match=type(term).__name__):
            without_reference()
        assert run.logged == []
    else:
        without_reference()


@each_term
def test_a_missing_alternative_is_named_before_anything_runs(world: Any, name: str) -> None:
    term, run, data = term_of(name), Memory(), Bundle(world.data.roles)

    def without_alternatives() -> None:
        fit(world.make(), [Weighted(term=term)], data, steps=1, optim=SGD(), reference="start", run=run)

    if Need.ALTERNATIVE in term.needs:
        with pytest.raises(UserError, match="role 'forget': 12 row.s. have no alternative answer .forget-000"):
            without_alternatives()
        assert run.logged == []
    else:
        without_alternatives()


@each_term
def test_a_term_asks_for_no_more_than_it_needs(world: Any, name: str) -> None:
    """A view raises for what a term did not declare, so a term that works here declared all it uses."""
    term, subject = term_of(name), world.make()
    loader = Loader(
        subject, "forget", world.data["forget"], world.data.alternatives if Need.ALTERNATIVE in term.needs else None,
        rows=5, seed=0,
    )  # fmt: skip
    micro = loader.at(0)[0]
    reference = frozen_copy(world.make(seed=1)) if COMPARES & term.needs else None
    assert term(RoleView(subject, micro.batch, micro.num_rows, reference)).value.isfinite()


def test_a_view_raises_for_what_it_has_not(world: Any) -> None:
    subject = world.make()
    loader = Loader(subject, "forget", world.data["forget"], None, rows=4, seed=0)
    view = RoleView(subject, loader.at(0)[0].batch, 4, None)
    with pytest.raises(UserError, match="no alternative"):
        _ = view.alternative
    with pytest.raises(NeedsReference):
        _ = view.reference


def test_npo_and_ascent_have_one_gradient_at_the_start(world: Any) -> None:
    """In the sum form: NPO's is that of the mean over rows of log p(y)."""
    npo, ascent = world.make(seed=0), world.make(seed=0)
    mean_of(world, NPO(), npo, frozen_copy(world.make(seed=0))).value.backward()
    batch, num_rows = whole_batch(world, ascent)
    (-ascent.likelihood(batch).nll_B[:num_rows].mean()).backward()
    for p, q in zip(npo.module.parameters(), ascent.module.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------- edits


@pytest.mark.parametrize("name", EDITS)
def test_every_edit_with_its_defaults_survives_a_fit(world: Any, name: str) -> None:
    edit = catalog.find("edits", name, "edits").load()()
    run = Memory()
    fit(world.make(), [Weighted(term=NLL())], world.data, steps=2, optim=AdamW(lr=1e-3), batch=4, edits=[edit], run=run)
    assert len(run.logged) == 2


def test_clip_bounds_the_norm_and_keeps_the_direction(world: Any) -> None:
    def first_step(edits: list[Any]) -> tuple[float, torch.Tensor]:
        subject, run = world.make(), Memory()
        before = torch.cat([p.detach().flatten().clone() for p in subject.module.parameters()])
        fit(subject, [Weighted(term=NLL())], world.data, steps=1, optim=SGD(lr=1.0), batch=4, edits=edits, run=run)
        after = torch.cat([p.detach().flatten() for p in subject.module.parameters()])
        return run.logged[0]["grad_norm"], before - after

    free, free_move = first_step([])
    bound = free / 3
    clipped, clipped_move = first_step([Clip(norm=bound)])
    assert clipped == pytest.approx(bound, rel=1e-3)
    torch.testing.assert_close(clipped_move, free_move / 3, rtol=1e-2, atol=1e-5)
    assert first_step([Clip(norm=10 * free)])[0] == pytest.approx(free)


def test_freeze_leaves_the_others_bit_identical_even_with_weight_decay(world: Any) -> None:
    subject = world.make()
    names = [n for n, _ in subject.module.named_parameters()]
    chosen = names[-1]
    before = {n: p.detach().clone() for n, p in subject.module.named_parameters()}
    optim = AdamW(lr=1e-2, weight_decay=0.1)
    fit(
        subject, [Weighted(term=NLL())], world.data, steps=3, optim=optim, batch=4, edits=[Freeze(only=(chosen,))], run=Memory()
    )
    moved = [n for n, p in subject.module.named_parameters() if not torch.equal(p, before[n])]
    assert moved == [chosen]
    assert all(p.requires_grad for p in subject.module.parameters()), "a fit gives the subject back as it was"


def test_freeze_but_wins_over_only(world: Any) -> None:
    subject = world.make()
    first = next(n for n, _ in subject.module.named_parameters())
    before = {n: p.detach().clone() for n, p in subject.module.named_parameters()}
    fit(subject, [Weighted(term=NLL())], world.data, steps=2, optim=AdamW(lr=1e-2), edits=[Freeze(but=(first,))], run=Memory())
    same = [n for n, p in subject.module.named_parameters() if torch.equal(p, before[n])]
    assert same == [first]


def test_freeze_names_a_pattern_that_matches_nothing(world: Any) -> None:
    with pytest.raises(UserError, match="freeze: no weight is called 'nothing.at.all'"):
        fit(
            world.make(),
            [Weighted(term=NLL())],
            world.data,
            steps=1,
            optim=SGD(),
            edits=[Freeze(only=("nothing.at.all",))],
            run=Memory(),
        )


def test_freezing_everything_is_an_error_that_gives_the_subject_back(world: Any) -> None:
    subject = world.make()
    with pytest.raises(UserError, match="every parameter is frozen"):
        fit(subject, [Weighted(term=NLL())], world.data, steps=1, optim=SGD(), edits=[Freeze(but=("*",))], run=Memory())
    assert all(p.requires_grad for p in subject.module.parameters())
