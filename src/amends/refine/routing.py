"""Which checker decides a constraint, where its words are plain enough to say so; a judge gets every other.

Rules match the *whole* sentence of a constraint, so that "at most 100 words per section" is no limit on the answer. Unsure
means judge: "about 100 words", "three paragraphs" (divided how?) and "mention your experience" have no rule. A wrong route
would be worse than none, for a checker's verdict is believed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from amends.core.errors import UserError
from amends.core.spec import build_use

_UNITS = (  # noqa: SIM905
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen"
).split()
_TENS = {name: 10 * i for i, name in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}  # noqa: SIM905
_ORDINALS = "zeroth first second third fourth fifth sixth seventh eighth ninth tenth".split()  # noqa: SIM905
WORDS = (
    {name: i for i, name in enumerate(_UNITS)} | _TENS | {name: i for i, name in enumerate(_ORDINALS) if i > 1}
    | {"hundred": 100, "thousand": 1000, "dozen": 12, "couple": 2, "pair": 2, "twice": 2, "double": 2, "both": 2,
       "thrice": 3, "half": 2}
)  # fmt: skip
"""Numbers as they are spelt; "one", "once" and "single" say too little to be a quantity."""
_LANGUAGES = {
    "arabic": "ar", "bengali": "bn", "bulgarian": "bg", "chinese": "zh", "czech": "cs", "danish": "da", "dutch": "nl",
    "english": "en", "finnish": "fi", "french": "fr", "german": "de", "greek": "el", "hebrew": "he", "hindi": "hi",
    "hungarian": "hu", "italian": "it", "japanese": "ja", "korean": "ko", "persian": "fa", "polish": "pl",
    "portuguese": "pt", "romanian": "ro", "russian": "ru", "spanish": "es", "swahili": "sw", "swedish": "sv",
    "tamil": "ta", "thai": "th", "turkish": "tr", "ukrainian": "uk", "urdu": "ur", "vietnamese": "vi",
}  # fmt: skip

_THING = (
    r"(?:it|this|(?:the|your)(?: (?:whole|entire|full|final))? "
    r"(?:answer|response|reply|text|output|message|letter|email|story|poem))"
)
_LEAD = (
    rf"(?:please )?(?:(?:make sure|ensure) (?:that )?)?(?:{_THING} )?(?:(?:must|should|has to|needs to|is to|shall|can|may) )?"
    rf"(?:(?:be|have|contain|contains|include|use|write|give|provide|keep|limit|stay|answer|respond|reply|format|make"
    rf"|limited|written"
    rf"|formatted|structured|present|return|output|consist of|with)(?: {_THING})? )?(?:written |formatted |limited )?"
    r"(?:(?:to|in|with|at|as|of) )?"
)
_TAIL = rf"(?: (?:long|in length|in total|overall|only|please|for the whole answer))*(?: (?:in|for|to|throughout|of) {_THING})?"
_N = r"(?P<n>\d[\d,]*|[a-z]+(?:[- ][a-z]+)?)"
_BEFORE = {
    "less than": r"(?:under|less than|fewer than|below)",
    "at most": r"(?:at most|no more than|not more than|up to|a maximum of|maximum|max|within)",
    "at least": r"(?:at least|no fewer than|no less than|not less than|a minimum of|minimum)",
    "more than": r"(?:more than|over|above)",
    "exactly": r"(?:exactly|precisely)",
}  # fmt: skip
_BEHIND = {"at most": r"(?:or (?:less|fewer)|at most|maximum|max|or under)", "at least": r"(?:or more|at least|minimum)"}
_COUNTED = {
    "words?": ("number_words", "num_words", "length"), "sentences?": ("number_sentences", "num_sentences", "length"),
    "(?:characters?|chars)": ("number_characters", "num_characters", "length"),
    "(?:non-blank )?lines?": ("number_lines", "num_lines", "length"),
}  # fmt: skip
_QUOTED = r'"(?P<q>[^"]+)"'
_SEVERAL = r'(?P<many>"[^"]+"(?:(?:,| and| or|, and|, or) "[^"]+")*)'
_WORD = r"(?:the )?(?:exact )?(?:key)?(?:word|words|keywords|term|terms|phrase|phrases|name)"
_LINE = r"(?:the )?(?:exact )?(?:word|words|phrase|sentence|line|text)?\s*:?\s*"

_ALLOWED = re.compile(rf"^(?:{_THING} |you )?(?:can|may)\b(?! not)")
"""A permission, which is no demand unless it is a limit: "it can have up to 80 words"."""

LONGEST = 300
"""Characters of a constraint that are looked at; a longer one is not plain."""
Use = dict[str, Any]


def routed(text: str) -> tuple[Any, str]:
    """(checker or None, category) of a constraint; a checker that is not installed, or refuses the values, is none."""
    found = plain(text)
    if found is None:
        return None, ""
    use, category = found
    try:
        return build_use("checkers", use, "constraint"), category
    except UserError:
        return None, category


def plain(text: str) -> tuple[Use, str] | None:
    """What a recipe would say (`{"use": "number_words", ...}`) and the category, where the whole sentence is plain.

    >>> plain("Use under 80 words.")
    ({'use': 'number_words', 'num_words': 80, 'relation': 'less than'}, 'length')
    >>> plain("Write about 80 words.") is None
    True
    """
    said = _normal(text) if len(text) <= LONGEST else ""
    for rule in (_counted, _bullets, _times, _marks, _keywords, _ends, _language):
        if found := rule(said):
            limit = found[0].get("relation") in ("at most", "less than")
            return found if limit or not _ALLOWED.match(said) else None
    return None


def number(word: str) -> int | None:
    """A number in digits or words below a thousand; None where it is none.

    >>> number("twenty-five"), number("1,000"), number("a hundred"), number("several")
    (25, 1000, 100, None)
    """
    word = word.strip().lower()
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+|\d{1,9}", word):
        return int(word.replace(",", ""))
    parts = [p for p in re.split(r"[- ]", word) if p]
    if parts in (["one"], ["a"], ["single"], ["a", "single"]):
        return 1
    if len(parts) == 2 and parts[1] in ("hundred", "thousand", "dozen") and (first := number(parts[0])):
        return first * WORDS[parts[1]]
    if len(parts) == 2 and parts[0] in _TENS and parts[1] in _UNITS[1:10]:
        return _TENS[parts[0]] + WORDS[parts[1]]
    return WORDS.get(parts[0]) if len(parts) == 1 and (parts[0] in _UNITS or parts[0] in _TENS) else None


def invented(text: str, request: str) -> frozenset[str]:
    """The quantities of a constraint that its request does not name, in digits or in words; 0 and 1 are no quantities."""
    return frozenset(str(n) for n in _quantities(text) - _quantities(request))


def key_of(text: str) -> str:
    """What repeated constraints have in common: their words, without lead, case and marks."""
    said = re.sub(rf"^{_LEAD}", "", _normal(text)) or _normal(text)
    return " ".join(re.findall(r"\w+", said))


def _quantities(text: str) -> set[int]:
    text = text.lower()
    found = {int(d.replace(",", "")) for d in re.findall(r"\d{1,3}(?:,\d{3})+(?!\d)|\d{1,9}", text)}
    tokens = re.findall(r"[a-z]+", text)
    found |= {WORDS[t] for t in tokens if t in WORDS}
    found |= {n for a, b in pairwise(tokens) if (n := number(f"{a} {b}"))}
    return found - {0, 1}


def _normal(text: str) -> str:
    text = re.sub(r"[“”„«»]", '"', re.sub(r"[‘’]", "'", " ".join(text.split())))
    text = re.sub(r"(?<!\w)'([^'\"]+)'(?!\w)", r'"\1"', text)
    quotes = [m.group() for m in re.finditer(r'"[^"]*"', text)]
    lowered = re.sub(r'"[^"]*"', '"\x00"', text).lower().strip().rstrip(".!;")
    for quote in quotes:  # case and stops inside quotation marks are the user's
        lowered = lowered.replace('"\x00"', quote, 1)
    return lowered.strip()


def _whole(pattern: str, said: str) -> re.Match[str] | None:
    return re.fullmatch(rf"{_LEAD}(?:{pattern}){_TAIL}", said)


def _related(noun: str, said: str) -> tuple[str, int] | None:
    """(relation, number) of "at most 5 words" or "5 words or fewer"."""
    for relation, words in _BEFORE.items():
        if (m := _whole(rf"{words} {_N} (?:{noun})", said)) and (n := number(m["n"])) is not None:
            return ("at least", n + 1) if relation == "more than" else (relation, n)
    for relation, words in _BEHIND.items():
        if (m := _whole(rf"{_N} (?:{noun}) {words}|(?P<n2>\d[\d,]*|[a-z]+) {words} (?:{noun})", said)) and (
            n := number(m["n"] or m["n2"])
        ) is not None:
            return relation, n
    return None


def _counted(said: str) -> tuple[Use, str] | None:
    for noun, (use, key, category) in _COUNTED.items():
        if found := _related(noun, said):
            return {"use": use, key: found[1], "relation": found[0]}, category
    m = _whole(rf"{_N} sentences?", said)  # a bare number of sentences is exact; of words it is a rough wish
    if m and (n := number(m["n"])) is not None:
        return {"use": "number_sentences", "num_sentences": n, "relation": "exactly"}, "length"
    return None


def _bullets(said: str) -> tuple[Use, str] | None:
    bullets = r"bullet points?|bullets|bulleted (?:items|points)"
    m = _whole(
        rf"(?:exactly )?{_N} (?:{bullets})"
        rf"|(?:a )?(?:bulleted |bullet )?list (?:of|with) (?:exactly )?(?P<n2>\S+) (?:{bullets})",
        said,
    )
    n = number(m["n"] or m["n2"]) if m else None
    return ({"use": "number_bullet_lists", "num_bullets": n}, "format") if n else None


def _times(said: str) -> tuple[Use, str] | None:
    """How often a word or a letter stands."""
    for what, use, key in (
        (rf"{_WORD} ", "keyword_frequency", "keyword"),
        (r"the (?:letter|character) ", "letter_frequency", "letter"),
    ):
        for relation, words in (*_BEFORE.items(), ("at least", "")):
            times = rf"{words + ' ' if words else ''}(?:{_N} times|(?P<few>once|twice))"
            m = _whole(
                rf'(?:mention |repeat )?{what}(?:"(?P<q>[^"]+)"|(?P<w>[\w#!?]+))(?: (?:appears?|occurs?|appearing))? {times}',
                said,
            )
            m = m or re.fullmatch(
                rf'{what}(?:"(?P<q>[^"]+)"|(?P<w>[\w#!?]+)) (?:must|should|has to) (?:appear|occur) {times}', said
            )
            n = ({"once": 1, "twice": 2}[m["few"]] if m["few"] else number(m["n"])) if m else None
            if m is None or n is None or (not words and use == "letter_frequency"):
                continue
            relation, n = ("at least", n + 1) if relation == "more than" else (relation, n)
            relation = "exactly" if not words else relation
            return {"use": use, key: m["q"] or m["w"], "frequency": n, "relation": relation}, "content"
    return None


def _marks(said: str) -> tuple[Use, str] | None:
    return next((({"use": use}, category) for pattern, use, category in _FLAGS if _whole(pattern, said)), None)


_FLAGS = (
    (r"(?:do not use|don't use|use no|no|avoid|avoid using|without|without using|not contain|not use)(?: any)? commas?",
     "no_comma", "exclusion"),
    (r"(?:no commas|commas are not allowed|no commas at all)", "no_comma", "exclusion"),
    (r"(?:all |only )?(?:in )?(?:all |only )?(?:lower ?-?case(?: letters)?|small letters)(?: only)?",
     "english_lowercase", "format"),
    (r"(?:all |only )?(?:in )?(?:all |only )?(?:capital letters|upper ?-?case(?: letters)?)(?: only)?",
     "english_capital", "format"),
    (r"(?:in |all |only |in all |in only )(?:capitals|caps)(?: only)?", "english_capital", "format"),
    (r"(?:a )?(?:valid )?(?:single )?json(?: (?:format|object))?(?: only)?(?: and nothing else)?", "json_format", "format"),
    (r"(?:wrap(?:ped)?|enclosed?|put|surround(?:ed)?)(?: .{0,40})? (?:in|with|by) (?:straight )?double quot(?:ation mark|e)s",
     "quotation", "format"),
    (r"(?:a )?title,? (?:wrapped|enclosed|written|put)? ?(?:in|by) double ang(?:ular|le) brackets.{0,30}", "title", "format"),
    (r"(?:give )?two (?:different )?(?:answers|responses),? (?:separated|divided) by (?:six|6) asterisks(?: symbols)?.{0,12}",
     "two_responses", "format"),
)  # fmt: skip


def _keywords(said: str) -> tuple[Use, str] | None:
    """Words that have to be there or may not; unquoted ones only where "the word" stands before a single one."""
    bare = rf"{_WORD} (?P<w>\w+)"
    there = rf"(?:mention |use |include |contain )?(?:(?:{_WORD} )?{_SEVERAL}|{bare})"
    never = (
        rf"(?:do not|don't|never|must not|should not|not|avoid|without)"
        rf"(?: (?:use|using|include|including|mention|mentioning|contain|containing|say|saying))?"
        rf"(?: any of)? (?:(?:{_WORD} )?{_SEVERAL}|{bare})"
    )
    if m := _whole(never, said):
        return {"use": "forbidden_words", "forbidden_words": _several(m)}, "exclusion"
    if m := _whole(there, said):
        return {"use": "mentions", "words": _several(m), "how": "any" if '" or "' in said else "all"}, "content"
    return None


def _several(m: re.Match[str]) -> list[str]:
    return re.findall(r'"([^"]+)"', m["many"]) if m["many"] else [m["w"]]


def _ends(said: str) -> tuple[Use, str] | None:
    tail = r"(?:,? and (?:let )?nothing (?:else )?(?:should |may |must )?(?:follow|after it|comes? after(?: it)?))?"
    rules: tuple[tuple[str, Callable[[str], Use]], ...] = (
        (rf"(?:start|begin|open)s? with {_LINE}{_QUOTED}", lambda q: {"use": "starts_with", "start": q}),
        (rf"(?:end|finish|close|conclude)s? with {_LINE}{_QUOTED}{tail}", lambda q: {"use": "end_checker", "end_phrase": q}),
    )
    for pattern, use in rules:
        if m := _whole(pattern, said):
            return use(m["q"]), "format"
    marked = r"(?: (?:starting|beginning|that starts|that begins) with)? \"?(?P<ps>p\.(?:p\.)?s\.?)\"?"
    m = _whole(rf"(?:(?:end|close) with |add |at the end )?(?:a )?postscript{marked}", said.lower())
    return ({"use": "postscript", "marker": "P.P.S" if m["ps"].count("p") > 1 else "P.S."}, "content") if m else None


def _language(said: str) -> tuple[Use, str] | None:
    names: Mapping[str, str] = _LANGUAGES
    m = _whole(
        rf"(?:in )?(?:the )?(?P<l>{'|'.join(names)})(?: language)?(?: only)?(?:,? (?:and )?no other language(?: is allowed)?)?",
        said,
    )
    return ({"use": "response_language", "language": names[m["l"]]}, "language") if m else None
