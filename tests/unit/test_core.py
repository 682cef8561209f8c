"""Specs, the catalog, named streams and fingerprints: what recipes rest on, none of it touching torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch

import amends
from amends.core import catalog, fingerprint
from amends.core.errors import UserError, nearest
from amends.core.rng import rng, stream_seed
from amends.core.spec import Count, Fraction, NonNegative, Part, Positive, Weighted, build, build_use, describe, spec
from amends.core.types import Batch, Likelihood, Mean, Sample
from amends.data.bundle import Bundle
from amends.engine.optim import AdamW
from amends.terms.npo import NPO


@spec
class Recipe:
    """A spec with a part of each sort."""

    steps: Count
    """How many steps."""
    drop: Fraction = 0.5
    """A share."""
    lr: Positive = 1.0
    """A rate."""
    decay: NonNegative = 0.0
    """A decay."""
    objective: Annotated[Any, Part("terms", many=True)] = ()
    """Terms."""
    optim: Annotated[Any, Part("optim")] = None
    """An optimiser."""


# ---------------------------------------------------------------------- specs


def test_yaml_and_python_build_the_same_value() -> None:
    from_yaml = build_use("terms", {"use": "npo", "beta": 0.2, "weight": 3}, "objective.0")
    assert from_yaml == Weighted(term=NPO(beta=0.2), weight=3.0)
    assert build_use("optim", "adamw", "optim") == AdamW()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 3, "setps": 4}, r"stages\.npo\.setps: Recipe has no such key \(did you mean 'steps'\?\)"),
        ({"steps": 0}, r"stages\.npo\.steps: Input should be greater than or equal to 1, got 0"),
        ({"steps": "many"}, r"stages\.npo\.steps: Input should be a valid integer.*, got 'many'"),
        ({}, r"stages\.npo\.steps: Field required$"),
        ({"steps": 1, "drop": 1.5}, r"stages\.npo\.drop: .*less than or equal to 1, got 1.5"),
        ({"steps": 1, "lr": 0}, r"stages\.npo\.lr: .*greater than 0, got 0"),
        ({"steps": 1, "lr": float("inf")}, r"stages\.npo\.lr: .*finite number, got inf"),
        ({"steps": 1, "decay": float("nan")}, r"stages\.npo\.decay: .*, got nan"),
        ({"steps": 1, "objective": {"use": "npo"}}, r"stages\.npo\.objective: expected a list"),
        (
            {"steps": 1, "objective": [{"use": "nll"}, {"use": "npoo"}]},
            r"stages\.npo\.objective\.1\.use: no term is called 'npoo' \(did you mean 'npo'\?\)",
        ),
        (
            {"steps": 1, "objective": [{"use": "npo", "betta": 1}]},
            r"stages\.npo\.objective\.0\.betta: NPO has no such key \(did you mean 'beta'\?\)",
        ),
        ({"steps": 1, "objective": [{"use": "npo", "beta": -1}]}, r"stages\.npo\.objective\.0\.beta: .*greater than 0, got -1"),
        ({"steps": 1, "objective": [{"use": "npo", "weight": "x"}]}, r"stages\.npo\.objective\.0\.weight: .*, got 'x'"),
        ({"steps": 1, "objective": [{"beta": 1}]}, r"stages\.npo\.objective\.0: expected a mapping with `use:`"),
        (
            {"steps": 1, "optim": {"use": "adam"}},
            r"stages\.npo\.optim\.use: no optimiser is called 'adam' \(did you mean 'adam_?w'\?\)",
        ),
        ([1, 2], r"stages\.npo: expected a mapping of keys, got \[1, 2\]"),
    ],
)  # fmt: skip
def test_an_error_names_the_dotted_path_and_the_nearest_name(values: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(Recipe, values, "stages.npo")


def test_an_error_is_one_line() -> None:
    with pytest.raises(UserError) as caught:
        build(Recipe, {"steps": "many"}, "stages.npo")
    assert "\n" not in str(caught.value)


def test_parts_are_built_in_place() -> None:
    recipe = build(
        Recipe, {"steps": 2, "objective": ["nll", {"use": "NPO", "beta": 1}], "optim": {"use": "sgd", "lr": 0.5}}, "r"
    )
    assert [type(w.term).__name__ for w in recipe.objective] == ["NLL", "NPO"]
    assert [w.weight for w in recipe.objective] == [1, 1] and recipe.optim.lr == 0.5


def test_specs_are_frozen_hashable_values() -> None:
    assert NPO(beta=0.1) == NPO() and hash(NPO()) == hash(NPO(beta=0.1)) and NPO(beta=0.2) != NPO()
    with pytest.raises(AttributeError):
        NPO().beta = 0.3  # type: ignore[misc]


def test_describe_has_the_fields_with_defaults_and_meaning() -> None:
    rows = {row["field"]: row for row in describe(Recipe)}
    assert rows["steps"] == {"field": "steps", "default": "required", "meaning": "How many steps."}
    assert rows["drop"]["default"] == "0.5"


@pytest.mark.parametrize("kind", sorted(catalog.PLACES))
def test_every_field_of_every_spec_says_what_it_means(kind: str) -> None:
    for entry in catalog.list_kind(kind):
        silent = [row["field"] for row in describe(entry.load()) if not row["meaning"]]
        assert not silent, f"{entry.name}: {silent}"


# ---------------------------------------------------------------------- the catalog


def test_the_catalog_finds_what_lies_in_the_folders() -> None:
    names = {kind: [e.name for e in catalog.list_kind(kind)] for kind in ("terms", "edits", "optim", "guards", "models")}
    assert {"ascent", "dpo", "idk", "kl", "nll", "npo", "simnpo"} <= set(names["terms"])
    assert {"clip", "freeze"} <= set(names["edits"])
    assert {"adamw", "sgd"} <= {catalog.normal(n) for n in names["optim"]}
    assert {"utility_budget", "forgotten", "repetition"} <= set(names["guards"])
    assert {"tinylm", "tinyclassifier", "tinydenoiser"} <= {catalog.normal(n) for n in names["models"]}
    assert all(found == sorted(found) for found in names.values())


def test_every_entry_has_a_summary_that_fits_a_line_of_a_table() -> None:
    entries = [entry for kind in catalog.PLACES for entry in catalog.list_kind(kind)]
    assert len(entries) >= 16
    for entry in entries:
        assert entry.summary and len(entry.summary) <= 160, entry


@pytest.mark.parametrize("name", ["simnpo", "SimNPO", "sim_npo", "Sim-NPO"])
def test_a_name_is_found_however_it_is_written(name: str) -> None:
    assert catalog.find("terms", name, "x").load().__name__ == "SimNPO"


def test_an_unknown_name_offers_the_nearest_or_all() -> None:
    with pytest.raises(UserError, match=r"^x\.use: no guard is called 'forgoten' \(did you mean 'forgotten'\?\)$"):
        catalog.find("guards", "forgoten", "x.use")
    with pytest.raises(UserError, match=r"no edit is called 'zzzz' \(known: .*clip, freeze"):
        catalog.find("edits", "zzzz", "x.use")


PLUGIN = '''
from typing import ClassVar
from amends.core.spec import spec
{kind}

@spec
class MyOwnTerm:
    """Pushes in a way of its own.

    More words.
    """

    strength: float = 1.0
    """How hard."""


class NotASpec:
    """Not listed."""
'''


@pytest.fixture
def nothing_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that a test adds are gone after it."""
    monkeypatch.setattr(catalog, "_added", {})


@pytest.mark.usefixtures("nothing_added")
def test_a_file_joins_the_catalog(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN.format(kind='kind = "terms"'))
    (entry,) = catalog.add_file(file)
    assert (entry.kind, entry.name, entry.summary) == ("terms", "my_own_term", "Pushes in a way of its own.")
    assert build_use("terms", {"use": "my_own_term", "strength": 2, "weight": 0.5}, "x").term.strength == 2
    assert "my_own_term" in [e.name for e in catalog.list_kind("terms")]


@pytest.mark.usefixtures("nothing_added")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PLUGIN.format(kind=""), r'mine\.py: needs a line such as kind = "terms"'),
        (PLUGIN.format(kind='kind = "term"'), r"did you mean 'terms'"),
        ('kind = "terms"\n', r"mine\.py: holds no class decorated with @spec"),
        (None, r"mine\.py: no such file"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_join_says_why(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "mine.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message):
        catalog.add_file(file)


def test_nearest_is_silent_when_nothing_is_known() -> None:
    assert nearest("x", []) == ""
    assert nearest("npoo", ["npo", "nll"]) == " (did you mean 'npo'?)"
    assert nearest("qqq", ["b", "a"]) == " (known: a, b)"


# ---------------------------------------------------------------------- streams and fingerprints


def test_a_stream_depends_on_seed_and_every_name_in_order() -> None:
    streams = [(0, "a", 1), (1, "a", 1), (0, "a", 2), (0, "b", 1), (0, 1, "a"), (0, "a1"), (0, "a", "1", "")]
    assert len({stream_seed(*s) for s in streams}) == len(streams)
    assert stream_seed(0, "a", 1) == stream_seed(0, "a", 1)
    assert all(0 <= stream_seed(*s) < 2**63 for s in streams)
    assert torch.equal(torch.rand(3, generator=rng(0, "a")), torch.rand(3, generator=rng(0, "a")))


def test_streams_are_what_they_always_were() -> None:
    """Published results rest on these numbers; whoever changes the hash changes every result."""
    assert stream_seed(0, "order", "forget", 0) == 2833723764361814048


def test_fingerprints_tell_values_apart_and_forget_key_order() -> None:
    assert fingerprint.of(NPO()) == fingerprint.of(NPO(beta=0.1)) != fingerprint.of(NPO(beta=0.2))
    assert (
        fingerprint.of({"a": 1, "b": [2, 3]}) == fingerprint.of({"b": [2, 3], "a": 1}) != fingerprint.of({"a": 1, "b": [3, 2]})
    )
    assert fingerprint.of(1) != fingerprint.of("1") != fingerprint.of(True)
    assert len(fingerprint.of(None)) == 16 and int(fingerprint.of(None), 16) >= 0


def test_fingerprints_of_weights_see_names_shapes_types_and_every_byte() -> None:
    base = torch.arange(6, dtype=torch.float32)
    nudged = base.clone()
    nudged[5] = torch.nextafter(nudged[5], torch.tensor(9.0))
    variants = [
        [("w", base)], [("v", base)], [("w", base.reshape(2, 3))], [("w", base.to(torch.float64))], [("w", nudged)],
        [("w", base), ("b", base)], [("w", base.to(torch.bfloat16))], [("w", torch.tensor(1.0))],
    ]  # fmt: skip
    assert len({fingerprint.of_weights(v) for v in variants}) == len(variants)
    assert fingerprint.of_weights([("w", base.reshape(2, 3).t().contiguous().t().reshape(6))]) == fingerprint.of_weights(
        variants[0]
    )


def test_the_fingerprint_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert fingerprint.of_file(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# ---------------------------------------------------------------------- values


def test_batches_are_cut_and_picked() -> None:
    batch = Batch(("a", "b", "c"), {"x": torch.tensor([1, 2, 3])})
    assert len(batch) == 3 and batch["x"].tolist() == [1, 2, 3]
    assert batch.take([2, 0]).ids == ("c", "a") and batch.take([2, 0])["x"].tolist() == [3, 1]
    assert batch.rows(1, 3).ids == ("b", "c") and batch.rows(1, 3)["x"].tolist() == [2, 3]


def test_a_likelihood_is_cut_by_rows_with_its_terms() -> None:
    from amends.subjects.distributions import Categorical

    dist = Categorical(torch.arange(8.0).reshape(4, 2), torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 1, 2]))
    part = Likelihood(torch.tensor([1.0, 2, 3]), torch.tensor([1, 2, 1]), dist).rows(1, 3)
    assert part.nll_B.tolist() == [2, 3] and part.n_B.tolist() == [2, 1]
    assert part.dist.row_N.tolist() == [0, 0, 1] and part.dist.logits_NV.tolist() == [[2, 3], [4, 5], [6, 7]]


def test_the_mean_of_tokens_is_not_the_mean_of_rows() -> None:
    sums, n = torch.tensor([2.0, 30.0]), torch.tensor([2, 10])
    assert float(Mean.average(sums, n, "token").value) == pytest.approx(32 / 12)
    assert float(Mean.average(sums, n, "row").value) == pytest.approx((1 + 3) / 2)


def test_a_derived_sample_shows_where_it_comes_from() -> None:
    sample = Sample("forget-001", {"question": "q", "answer": "a"})
    assert sample.with_("perturbed-0", answer="b") == Sample("forget-001/perturbed-0", {"question": "q", "answer": "b"})
    assert sample.data["answer"] == "a"


def test_a_bundle_is_checked_and_told_apart() -> None:
    a, b = Sample("a", {"text": "one"}), Sample("b", {"text": "two"})
    data = Bundle({"forget": (a,), "retain": (b,)})
    assert data.check() is data and "forget" in data and "holdout" not in data
    assert data.together(["forget", "retain", "forget"]) == (a, b)
    assert data.fingerprint() != data.with_role("retain", [a]).fingerprint()
    with pytest.raises(UserError, match="the forget set is empty"):
        data.with_role("forget", []).check()
    with pytest.raises(UserError, match="both the forget and the retain set .a = c"):
        data.with_role("retain", [Sample("c", {"text": " one "})]).check()
    with pytest.raises(UserError, match="role 'retain': id 'b' stands on 2 rows"):
        data.with_role("retain", [b, b]).check()


# ---------------------------------------------------------------------- imports


def run_python(code: str) -> str:
    source = str(Path(amends.__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {source!r})\n{code}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


HEAVY = "print(sorted({'torch', 'transformers', 'accelerate', 'peft', 'numpy'} & set(sys.modules)))"


def test_importing_amends_imports_no_torch() -> None:
    assert (
        run_python(f"import amends, amends.core.catalog, amends.core.spec, amends.core.types, amends.core.rng\n{HEAVY}") == "[]"
    )


def test_listing_every_method_imports_no_torch() -> None:
    code = f"from amends.core import catalog\nprint(len([e for k in catalog.PLACES for e in catalog.list_kind(k)]))\n{HEAVY}"
    num, heavy = run_python(code).splitlines()
    assert int(num) >= 16 and heavy == "[]"
