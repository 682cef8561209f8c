"""The sentences of a request in which its writer speaks to the answerer, without what is only shown to them.

Code, quotations, pasted mails and texts that are to be summarised, rewritten or judged may hold demands ("at most 60 words"),
which are none on the answer. They are masked here by form alone: fences, quotation marks, quoted lines, what stands behind a
colon, and paragraphs beside one that says "summarise this". What may be either is taken for material: a demand that is missed
may still be found by a model, one that is invented spoils a good answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LONGEST = 20_000
"""Characters of a request that are looked at."""
LONGEST_QUOTE = 12
"""Words of a quotation that may be a keyword or a phrase to begin or end with; a longer one is material."""
MOST_TAGS = 200
"""Angle brackets; a request with more of them speaks up to the first."""
MATERIAL = "\ue002"
"""Stands where material was."""

_PRIVATE = re.compile(r"[\ue000-\uf8ff]")
_QUOTE = re.compile(r"\"([^\"]*)\"|(?<!\w)'((?:[^'\n]|(?<=\w)'(?=\w))+)'(?!\w)")
_HELD = re.compile("\ue000(\\d+)\ue001")
_SHOWN = (
    re.compile(r"```.*?(?:```|\Z)", re.DOTALL), re.compile(r"`[^`\n]+`"),
    re.compile(r"^[ \t]*(?:-{3,}|={3,}|\"\"\"|_{3,})[ \t]*$.*\Z", re.DOTALL | re.MULTILINE),
    re.compile(r"^[ \t]*>.*$", re.MULTILINE),
    re.compile(r"^(?:hi|hello|dear|hey|from:|subject:|to:)\b[^.!?\n]{0,40}(?:,|:.*)$.*\Z",
               re.DOTALL | re.MULTILINE | re.IGNORECASE),
)  # fmt: skip
_TAGGED = re.compile(r"<([a-z_]\w*)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_WORKED_ON = re.compile(
    r"\b(?:summari[sz]e|summary of|rewrite|rephrase|reword|paraphrase|translate|proof-?read|edit|fix|correct|shorten"
    r"|expand|continue"
    r"|reply to|respond to|review|explain|analy[sz]e|critique|check|assess|grade|classify|compare|turn|convert|clean"
    r"|improve|answer"
    r"|is this|are these|does this|do these|what (?:does|do|is)|tell me)\b",
    re.IGNORECASE,
)
_POINTED_AT = re.compile(
    r"\b(?:this|these|that|those|the following|following|below|above|pasted|attached|(?:the|my|our|a) (?:text|draft"
    r"|email|mail|paragraph"
    r"|passage|article|letter|note|notes|essay|review|prompt|message|rules?))\b",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"(?:^|[.!?\n]\s*)(?:the |some |my |with |follow |please follow |observe )?(?:(?:these"
    r"|the following) )?(?:requirements?|constraints?"
    r"|rules|conditions|guidelines|instructions|format|length|style|please|make sure(?: that)?|keep in mind|remember|so"
    r"|(?:it|you|your \w+|the (?:answer|response|reply)) (?:must|should))\s*:\s*$",
    re.IGNORECASE,
)  # fmt: skip
_ABBREVIATIONS = re.compile(r"\b(?:i\.e|e\.g|etc|vs|mr|mrs|ms|dr|st|no|p\.s|p\.p\.s|a\.m|p\.m)\.(?=\s|\Z)", re.IGNORECASE)
_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|(?<=[.!?]\ue001)\s+|\n+")
_BULLET = re.compile(r"^\s*(?:[-*•–]|\(?\d{1,2}[.)]|\(?[a-z][.)])\s+")


@dataclass(frozen=True, slots=True)
class Spoken:
    """A request's own sentences, with short quotations held back so that no rule looks into them."""

    sentences: tuple[str, ...]
    quotes: tuple[str, ...]

    def whole(self, text: str) -> str:
        """A text with its quotations put back."""
        return _HELD.sub(lambda m: self.quotes[int(m[1])], text)


def spoken(prompt: str, context: str = "") -> Spoken:
    """The sentences in which the writer of a request speaks to the answerer.

    >>> spoken("Summarise: 'He said no commas.' Use at most 9 words.").sentences
    ('Summarise:', 'Use at most 9 words.')
    """
    text = prompt[:LONGEST]
    text = text.replace(context, f"\n\n{MATERIAL}\n\n") if context.strip() else text
    text = re.sub(r"[“”„«»]", '"', re.sub(r"[‘’]", "'", _PRIVATE.sub(lambda m: m[0] if m[0] == MATERIAL else " ", text)))
    if text.count("</"):
        text = _TAGGED.sub(MATERIAL, text) if text.count("<") <= MOST_TAGS else text.partition("<")[0]
    for pattern in _SHOWN:
        text = pattern.sub(MATERIAL, text)
    quotes: list[str] = []
    text = _QUOTE.sub(lambda m: _held(m, quotes), text)
    text = re.sub(r"\".*\Z", MATERIAL, text, flags=re.DOTALL)  # a quotation that does not end
    return Spoken(tuple(s for p in _own(re.split(r"\n\s*\n", text)) for s in _sentences(p)), tuple(quotes))


def _held(found: re.Match[str], quotes: list[str]) -> str:
    inside = found[1] if found[1] is not None else found[2]
    if "\n" in inside or len(inside.split()) > LONGEST_QUOTE or not inside.strip():
        return MATERIAL
    quotes.append(f'"{inside}"')
    return f"\ue000{len(quotes) - 1}\ue001"


def _own(paragraphs: list[str]) -> list[str]:
    """The paragraphs that are not material; where one works on something shown, it alone speaks."""
    worked = [p for p in paragraphs if _WORKED_ON.search(p) and _POINTED_AT.search(p)]
    own: list[str] = []
    for paragraph in paragraphs:
        if len(paragraphs) == 1 or not worked or paragraph in worked:
            own.append(paragraph)
        if paragraph.rstrip().endswith(":") and not _HEADER.search(paragraph):
            break  # what is announced by a colon goes on to the end
    return own


def _sentences(paragraph: str) -> list[str]:
    text = _ABBREVIATIONS.sub(lambda m: m[0].replace(".", "\ue003"), paragraph)
    found = []
    for piece in _END.split(text):
        said = _BULLET.sub("", piece).strip()
        head, colon, rest = said.partition(":")
        if colon and not re.match(r"\d\d", rest) and not _HEADER.search(f"{head}:"):
            shown = re.match(r"\s*(?:\ue000\d+\ue001|[*\ue002]+)[.!?]?\s*", rest)
            found.append(head + ":")
            if shown is None:  # what is announced by a colon, up to the end of the paragraph
                break
            said = rest[shown.end() :]
        elif colon and rest:
            said = rest.strip()
        if said and not said.startswith(MATERIAL):
            found.append(said)
    return [s.replace("\ue003", ".") for s in found]
