"""Tokens against NLTK's own, languages that do not change, and what is said when a package is not there."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator

import pytest
from constraint_answers import LANGUAGES, PROSE

from amends.constraints import text as module
from amends.constraints.text import language, sentences, tokens

BITS = [
    "A", "B'S", "CAN'T", "CANNOT", "I", "'", '"', "''", "``", ",", ":", ".", "...", "--", "-", "!", "?", "(", ")", "*", "$",
    "1", " ", " ", " ", " ", "\n", "’", "“", "GONNA", " 'TIS", "WANNA ", "D'YE", "U.S.", "MORE'N", "é", "&", "'LL", "N'T", "<",
]  # fmt: skip


def odd_texts(num: int) -> Iterator[str]:
    """Strings of what the Treebank's rules are about, far odder than any answer."""
    draw = random.Random(0)
    for _ in range(num):
        yield "".join(draw.choices(BITS, k=draw.randint(1, 14)))


def both(text: str) -> tuple[list[str], list[str]]:
    """NLTK's tokens and ours; NLTK writes quotation marks as `` and ''."""
    nltk = pytest.importorskip("nltk.tokenize.destructive")
    theirs = [t for a, b in sentences(text) for t in nltk.NLTKWordTokenizer().tokenize(text[a:b])]
    ours = [text[a:b] for a, b in tokens(text)]
    return [['"' if t in ("``", "''") else t for t in some] for some in (theirs, ours)]  # type: ignore[return-value]


def test_tokens_are_nltks_on_prose() -> None:
    for text in [*PROSE, *(t.upper() for t in PROSE), *LANGUAGES.values()]:
        theirs, ours = both(text)
        assert ours == theirs


def test_tokens_are_nltks_on_almost_all_odd_strings() -> None:
    """What differs: `B'S'`, which NLTK cuts or not by what stands behind, and `U.S. "` at an end; 5 in 2000 strings at most."""
    different = [text for text in odd_texts(2000) if (pair := both(text))[0] != pair[1]]
    assert len(different) <= 5


def test_the_language_is_the_same_in_any_order_and_whatever_langdetect_was_told() -> None:
    langdetect = pytest.importorskip("langdetect")
    short = ["hello world", "ok", "VOTE NOW", *LANGUAGES.values()]
    first = [language(text) for text in short]
    state, seed = random.getstate(), langdetect.DetectorFactory.seed
    assert [language(text) for text in reversed(short)] == first[::-1]
    langdetect.detect("something else")
    assert [language(text) for text in short] == first
    assert random.getstate() == state
    assert langdetect.DetectorFactory.seed is seed is None
    assert first[3:] == list(LANGUAGES)
    assert language("1 2 3") == "unknown"


@pytest.mark.parametrize(("package", "call"), [("punkt", "sentences('a')"), ("langdetect.detector_factory", "language('a')")])
def test_a_package_that_is_missing_is_named_with_what_brings_it(package: str, call: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None\nfrom amends.constraints.text import *\n{call}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("amends.core.errors.UserError: checking this needs the package ")
    assert last.endswith("pip install 'amends[refine]'")


def test_sentences_have_spans_of_the_original() -> None:
    text = "  Dr. Lee came. He sat!  Did he?"
    assert [text[a:b] for a, b in sentences(text)] == ["  Dr. Lee came.", "He sat!", "Did he?"]
    assert module.language("") == module.UNKNOWN
