"""Whatever a recipe file says, the outcome is a recipe or one sentence: never another exception, never two lines."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from amends.core import yamls
from amends.core.errors import UserError
from amends.runs import overrides
from amends.runs.recipe import Recipe, Resolved, build_recipe, locate, read

FACTS = {k: v for k, v in read(locate("facts")).items() if k != "profiles"}
WORDS = st.sampled_from([
    "use", "from", "once", "kind", "role", "steps", "objective", "npo", "nll", "original", "retrain", "forget", "adamw", "name",
    "gradient", "train", "probability", "utility", "relearn", "facts", "tiny_lm", "weight", "seeds", "expect", "measure", "on",
    "a\nb", "\u2028", "", "npo\x85",
])  # fmt: skip
TEXTS = st.text(st.characters(exclude_categories=[]), max_size=8) | WORDS
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXTS | st.integers() | st.none() | st.booleans(), v, max_size=3),
    max_leaves=8,
)
Path_ = tuple[Any, ...]


def places(node: Any, at: Path_ = ()) -> Iterator[Path_]:
    """The path of every value of a tree."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*at, key)
        yield from places(value, (*at, key))


PLACES = list(places(FACTS))


def recipe_or_one_sentence(tree: Any) -> Recipe | None:
    """Builds a tree, and then does with the recipe what every command does first."""
    try:
        recipe = build_recipe(tree)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        assert str(error).strip()
        return None
    assert isinstance(recipe, Recipe)
    assert recipe.stages
    assert len(Resolved(recipe, tree, None).hash) == 16
    return recipe


def mutated(tree: Any, at: Path_, how: str, value: Any) -> Any:
    """A copy with one place dropped, renamed, replaced, or repeated."""
    tree = copy.deepcopy(tree)
    node = tree
    for key in at[:-1]:
        node = node[key]
    last = at[-1]
    if how == "replace":
        node[last] = value
    elif how == "drop":
        del node[last]
    elif how == "rename" and isinstance(node, dict):
        node[value if value.__hash__ else str(value)] = node.pop(last)
    elif isinstance(node, list):
        node.insert(last, copy.deepcopy(node[last]))
    return tree


def test_the_recipe_that_is_mutated_is_sound() -> None:
    assert recipe_or_one_sentence(FACTS) is not None
    assert len(PLACES) > 100


@settings(max_examples=200)
@given(tree=st.dictionaries(WORDS | st.sampled_from(["data", "subject", "stages"]), VALUES, max_size=6))
def test_any_tree(tree: dict[str, Any]) -> None:
    recipe_or_one_sentence(tree)


@settings(max_examples=200)
@given(stages=st.dictionaries(TEXTS, st.dictionaries(WORDS, VALUES, max_size=4) | VALUES, max_size=3))
@example(stages={"npo": {"use": "gradient", "from": ["original"]}})
@example(stages={"a": {"use": "train", "on": ["forget"], "steps": 1}, "npo": {"use": "gradient", "from": {"a": 1}}})
@example(stages={"a": {"use": "train", "on": ["forget"], "steps": 1, "optim": None}})
@example(stages={1: {"use": "train"}})
def test_any_stages(stages: dict[Any, Any]) -> None:
    recipe_or_one_sentence({**FACTS, "stages": stages})


@settings(max_examples=250)
@given(
    changes=st.lists(
        st.tuples(st.sampled_from(PLACES), st.sampled_from(["replace", "drop", "rename", "repeat"]), VALUES),
        min_size=1,
        max_size=2,
    )
)
@example(changes=[(("measure",), "replace", None)])
@example(changes=[(("attack",), "replace", None)])
@example(changes=[(("seeds",), "replace", [])])
@example(changes=[(("expect",), "replace", 0)])
@example(changes=[(("stages", "original"), "rename", "base")])
@example(changes=[(("stages", "npo", "steps"), "replace", 10**400)])
def test_any_mutation_of_a_sound_recipe(changes: list[tuple[Path_, str, Any]]) -> None:
    tree: Any = FACTS
    for at, how, value in changes:
        try:
            tree = mutated(tree, at, how, value)
        except (KeyError, IndexError, TypeError):  # the place went with the change before
            continue
    recipe_or_one_sentence(tree)


@settings(max_examples=200)
@given(path=st.lists(TEXTS | st.sampled_from(["stages", "npo", "objective", "0", "1"]), min_size=1, max_size=4), value=TEXTS)
@example(path=["stages", "npo", "objective", "\N{SUPERSCRIPT TWO}"], value="1")
@example(path=["seeds", "0", "0"], value="1")
def test_any_override(path: list[str], value: str) -> None:
    try:
        tree = overrides.apply(FACTS, dict([overrides.parse(f"{'.'.join(path)}={value}")]), "--set")
    except UserError as error:
        assert str(error).startswith("--set ")
        return
    recipe_or_one_sentence(tree)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file, which all examples write over and over."""
    return tmp_path_factory.mktemp("recipes") / "any.yaml"


def tree_or_one_sentence(file: Path, content: bytes) -> None:
    """Reads a file, and builds what it says."""
    file.write_bytes(content)
    try:
        tree = read(file)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        assert str(error).startswith(str(file))
        return
    assert isinstance(tree, dict)
    recipe_or_one_sentence(tree)


@settings(max_examples=200)
@given(content=st.binary(max_size=60))
@example(content=b"? [a]\n: 1")
@example(content=b"a: &b [*b]")
@example(content=b"&a {b: *a}")
@example(content=b"when: 2001-99-99")
@example(content=b"!!int x: 1")
@example(content=b"a: !!bool maybe")
@example(content=b"a: !!timestamp x")
@example(content=b"x: 0b_")
@example(content=b"[" * 1500)
@example(content=b"a: " + b"9" * 5000)
@example(content=b"a: 1\na: 2")
@example(content=b"\xff\xfe")
@example(content=b"a: \x00")
def test_any_bytes(file: Path, content: bytes) -> None:
    tree_or_one_sentence(file, content)


PIECES = st.sampled_from([
    *'{}[]:,-?&*!|>%@`"#\n \t', "a", "b: ", "- ", "\n  ", "<<: ", "*a", "&a ", "!!int ", "!!set ", "!!binary ",
    "!!python/name:os ", "!!omap ", "---\n", "...\n", "1:30", "0x_", "stages: ", "use: npo",
])  # fmt: skip


@settings(max_examples=400)
@given(pieces=st.lists(PIECES, max_size=15))
def test_any_pieces_of_syntax(file: Path, pieces: list[str]) -> None:
    tree_or_one_sentence(file, "".join(pieces).encode())


@given(value=st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
    | st.sampled_from(["1e5", "on", ".5", "0o7", "=", "~", "<<"]),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(["on", "1e5", "a", "no"]), v, max_size=3), max_leaves=6,
))  # fmt: skip
def test_what_is_dumped_comes_back(value: Any) -> None:
    assert yamls.load(yamls.dump(value)) == value


def test_no_text_makes_an_object_of_python() -> None:
    for text in ("!!python/object/apply:os.getcwd []", "!!python/name:os.system", "!!python/object:dict {}"):
        with pytest.raises(yaml.YAMLError):
            yamls.load(text)
