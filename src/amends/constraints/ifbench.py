"""IFBench's 58 types (Pyatkin et al. 2025, arXiv 2507.02833), decided by the package if-verifiable, without a download.

That package tries to download data for NLTK while it is imported, needs them for sentences and words, and loads a library of
data sets. Here its modules are loaded as private copies that see a stand-in for nltk: no download, sentences by Punkt and
word tokens from `text.py`, everything else NLTK's own. Neither nltk nor `sys.modules` is changed for others, but for the
moment of loading. Two types need data of NLTK that no package holds, `ratio:stop_words` (stop words) and `words:start_verb`
(a tagger): they are refused unless the data are on this machine. Keywords that are missing are refused, not drawn at random.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from amends.constraints.text import sentences, tokens
from amends.core.errors import UserError, nearest

NEEDS_DATA = {
    "ratio:stop_words": ("corpora/stopwords", "stopwords"),
    "words:start_verb": ("taggers/averaged_perceptron_tagger_eng", "averaged_perceptron_tagger_eng"),
}
"""Types that need data of NLTK: where they are looked for, and what they are called."""
_FROM_ONE = frozenset({"n", "m", "n_start", "n_end"})
"""Keywords of which published code takes a 0 for a wish to draw."""
_LOADING = threading.Lock()


class _Punkt:
    """What published code takes for NLTK's sentence splitter."""

    def tokenize(self, text: str) -> list[str]:
        """The sentences."""
        return [text[a:b] for a, b in sentences(text)]


def _stand_in() -> ModuleType:
    """A module `nltk` for the private copies alone."""
    nltk: Any = importlib.import_module("nltk")
    module: Any = ModuleType("nltk")
    module.download = lambda *_, **__: True
    module.data = SimpleNamespace(find=lambda *_, **__: "", load=lambda *_, **__: _Punkt())
    module.word_tokenize = lambda text: [text[a:b] for a, b in tokens(text)]
    module.tokenize, module.ngrams, module.pos_tag, module.corpus = nltk.tokenize, nltk.ngrams, nltk.pos_tag, nltk.corpus
    return module


@cache
def registry(benchmark: str) -> Mapping[str, Any]:
    """Id -> class of the package's checkers, for `ifbench` or `ifeval`."""
    found = importlib.util.find_spec("if_verifiable")
    if found is None or not found.submodule_search_locations:
        raise _needs("if-verifiable")
    folder = Path(next(iter(found.submodule_search_locations)))
    try:
        return _private(folder, benchmark, _stand_in())
    except ImportError as error:
        raise _needs(str(error.name)) from None


def _needs(package: str) -> UserError:
    return UserError(f"IFBench needs the package {package}: pip install 'amends[ifbench]'")


def _private(folder: Path, benchmark: str, stand_in: ModuleType) -> Mapping[str, Any]:
    """Loads the package's modules under a bare parent that runs none of its start-up, then puts `sys.modules` back."""
    parent = ModuleType("if_verifiable")
    parent.__path__ = [str(folder)]
    with _LOADING:
        before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in ("nltk", "if_verifiable")}
        for name in before:
            if name == "nltk" or name.startswith("if_verifiable"):
                del sys.modules[name]
        sys.modules.update({"nltk": stand_in, "if_verifiable": parent})
        try:
            return importlib.import_module(f"if_verifiable.{benchmark}.instructions_registry").INSTRUCTION_DICT
        finally:
            for name in [n for n in sys.modules if n == "nltk" or n.partition(".")[0] == "if_verifiable"]:
                del sys.modules[name]
            sys.modules.update(before)


def prepared(kind: str, kwargs: Mapping[str, Any], benchmark: str = "ifbench") -> Any:
    """One of the package's checkers, built with its keywords; UserError on an unknown type or keyword, or a missing one."""
    types = registry(benchmark)
    if kind not in types:
        raise UserError(f"type: {benchmark} has no type {kind!r}{nearest(kind, types)}")
    checker = types[kind](kind)
    known = list(checker.get_instruction_args_keys())
    given = {key: value for key, value in kwargs.items() if value is not None}
    for key in given:
        if key not in known:
            raise UserError(f"kwargs.{key}: {kind} has no such keyword{nearest(key, known) or ' (it has none)'}")
    missing = [key for key in known if key not in given]
    if missing:
        raise UserError(f"kwargs: {kind} needs {', '.join(missing)}, and none is drawn at random")
    for key, value in given.items():
        if value == "" or (isinstance(value, (int, float)) and (value < 0 or (value == 0 and key in _FROM_ONE))):
            raise UserError(f"kwargs.{key}: published code draws at random in place of {value!r}; give another value")
    _data_for(kind)
    checker.build_description(**given)
    return checker


def _data_for(kind: str) -> None:
    if kind in NEEDS_DATA:
        place, name = NEEDS_DATA[kind]
        data: Any = importlib.import_module("nltk.data")
        try:
            data.find(place)
        except LookupError:
            raise UserError(
                f"type: {kind} needs NLTK's data {name}, which are not here: python -m nltk.downloader {name}"
            ) from None
