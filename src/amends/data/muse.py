"""Text to forget as in MUSE (arXiv 2407.06460): folders of plain text become passages, beginnings and questions.

Four splits of text, from `.txt` files: `forget`; `retain`, on which the model is measured; `retain_train` (MUSE's R_reg), on
which unlearning may train; `holdout`, which no model sees. Original and retrained model are trained on both retain splits.
Since utility is measured on text that no unlearning step has seen, no passage may stand in two splits: that is checked,
wherever a passage begins. Files are cut every `passage` words, a remainder of less than half of that being joined to the last
passage, so that text added at a file's end moves no passage but the last. An id is split, file and number.

Rows of the bundle: `text` in the four splits; `prompt` and `answer`, a passage's first words and the rest as it stands, in
`forget_verbatim`; `question` and `answer` in `forget_qa` and `retain_qa`; examples to show before a question, in
`examples_forget` and `examples_retain`. MUSE's own questions were written by a model and have their answer verbatim in the
text; here they come from a file of yours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from amends.core.errors import UserError
from amends.core.spec import Count, spec
from amends.core.types import Role, Sample
from amends.data.bundle import Bundle
from amends.data.rows import read_text, shown
from amends.data.text import FilePath, read_rows, resolve

SPLITS = ("forget", "retain", "retain_train", "holdout")
QUESTIONS = ("forget_qa", "retain_qa", "examples_forget", "examples_retain")


class Document(NamedTuple):
    """One file's text; `name` is its path below the folder without the ending."""

    name: str
    text: str


@spec
class Folders:
    """Your own text: a folder of .txt files (or one file) a split, and questions about them; MUSE's shape."""

    forget: FilePath
    """Folder or .txt file with the text that is to go."""
    retain: FilePath
    """Folder or file with text that must stay and is measured; unlearning does not train on it."""
    retain_train: FilePath
    """Folder or file with text that must stay and that unlearning may train on (MUSE's R_reg); none of retain's passages."""
    holdout: FilePath | None = None
    """Folder or file with text of the same kind that no model ever trains on, for membership inference."""
    forget_qa: FilePath | None = None
    """JSON Lines of question and answer about the forget text."""
    retain_qa: FilePath | None = None
    """JSON Lines of question and answer about the retain text."""
    examples_forget: FilePath | None = None
    """JSON Lines of question and answer to show before each question about the forget text."""
    examples_retain: FilePath | None = None
    """The same for questions about the retain text; may be the same file."""
    passage: Count = 200
    """Words of a passage; the last one of a file has up to one and a half times that."""
    prefix: Count = 100
    """Words of a passage that are given when the rest is to be recited."""

    def load(self, seed: int) -> Bundle:
        """Reads and cuts every file. Raises UserError for a split without text and for passages that two splits share."""
        texts = {role: read_documents(resolve(path), role) for role in SPLITS if (path := getattr(self, role)) is not None}
        asked = {role: self._questions(role, path) for role in QUESTIONS if (path := getattr(self, role)) is not None}
        check_disjoint(texts, self.passage)
        return bundle_of(texts, asked, self.passage, self.prefix)

    def _questions(self, role: Role, path: str) -> tuple[Sample, ...]:
        rows = read_rows(resolve(path), role)
        odd = next((row.id for row in rows if "question" not in row.data), None)
        if odd is not None:
            raise UserError(f"{path}: row {odd}: a question about the text needs 'question' and 'answer'")
        return rows


def bundle_of(
    texts: Mapping[Role, Sequence[Document]], asked: Mapping[Role, Sequence[Sample]], passage: int, prefix: int
) -> Bundle:
    """The bundle of texts and questions."""
    cut = {role: tuple(_rows(role, documents, passage)) for role, documents in texts.items()}
    recited = tuple(row for s in cut["forget"] if (row := recital(s, prefix)) is not None)
    short = len(cut["forget"]) - len(recited)
    notes = [f"{short} of {len(cut['forget'])} forget passages have no more than {prefix} words: not recited"] if short else []
    verbatim = {"forget_verbatim": recited} if recited else {}
    return Bundle({**cut, **verbatim, **{role: tuple(rows) for role, rows in asked.items()}}, notes=tuple(notes)).check()


def read_documents(path: Path, role: Role) -> list[Document]:
    """The .txt files below a folder in the order of their paths, or one file."""
    if not path.exists():
        raise UserError(f"data.{role}: {path}: no such folder or file")
    files = [path] if path.is_file() else sorted(path.rglob("*.txt"))
    if not files or files[0].suffix.lower() != ".txt":
        raise UserError(f"data.{role}: {path}: text is read from files that end in .txt, and there are none")
    root = path if path.is_dir() else path.parent
    found = [Document(f.relative_to(root).with_suffix("").as_posix(), read_text(f)) for f in files]
    empty = next((d.name for d in found if not d.text.strip()), None)
    if empty is not None:
        raise UserError(f"data.{role}: {path}: {empty}.txt holds no text: remove the file")
    return found


def passages(text: str, size: int) -> list[str]:
    """The text in pieces of `size` words, the space between two words left as it was; see the module's first lines.

    >>> passages("a b c d  e f g", 3), passages("a b c d", 3)
    (['a b c', 'd  e f g'], ['a b c d'])
    """
    words = [match.span() for match in re.finditer(r"\S+", text)]
    starts = list(range(0, len(words), size))
    if len(starts) > 1 and 2 * (len(words) - starts[-1]) < size:
        starts.pop()
    return [text[words[a][0] : words[b - 1][1]] for a, b in zip(starts, [*starts[1:], len(words)], strict=True)]


def recital(sample: Sample, prefix: int) -> Sample | None:
    """The row's first words as a prompt and the rest as its answer; None where there is no rest.

    >>> recital(Sample("x", {"text": "a b c d"}), 2).data
    {'prompt': 'a b', 'answer': ' c d'}
    """
    text = sample.data["text"]
    words = list(re.finditer(r"\S+", text))
    if len(words) <= prefix:
        return None
    end = words[prefix - 1].end()
    return Sample(f"{sample.id}/recital", {"prompt": text[:end], "answer": text[end:]})


def _rows(role: Role, documents: Sequence[Document], size: int) -> Iterator[Sample]:
    for document in documents:
        for number, text in enumerate(passages(document.text, size)):
            yield Sample(f"{role}-{document.name}-{number:04d}", {"text": text})


def check_disjoint(texts: Mapping[Role, Sequence[Document]], size: int) -> None:
    """Raises UserError where two splits share `size` words in a row, wherever they begin; less than half goes unnoticed.

    Every second half-passage of one split is looked for at every place of the others; a shorter document is compared whole.
    """
    half = (size + 1) // 2
    known: dict[str, tuple[Role, str]] = {}
    for role, documents in texts.items():
        for document in documents:
            known |= {w: (role, document.name) for w in _windows(document.text, half, half) if w not in known}
    for role, documents in texts.items():
        for document in documents:
            for window in _windows(document.text, half, 1):
                other, name = known.get(window, (role, ""))
                if other != role:
                    raise UserError(
                        f"data: '{role}' ({document.name}) and '{other}' ({name}) share a passage, {shown(window)}: "
                        "give each split text of its own, or its numbers mean nothing"
                    )


def _windows(text: str, size: int, step: int) -> Iterator[str]:
    """Runs of `size` words, one every `step` words; the whole of a shorter text."""
    words = text.split()
    for start in range(0, max(len(words) - size, 0) + 1, step):
        yield " ".join(words[start : start + size])
