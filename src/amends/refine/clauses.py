"""The clauses of a request that may be demands on the whole answer, in the short form that `refine/routing.py` reads.

A clause counts if it speaks of the answer and of nothing else: no condition, exception, example, alternative, permission, wish,
report of what others say or ask, and no part of the answer ("a title of at most five words"). It is left out where that is in
doubt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from amends.refine.material import MATERIAL, spoken

_ANSWER = r"(?:answer|response|reply|output)"
_PRODUCTS = (
    r"(?:answer|response|reply|output|essay|article|(?:blog )?post|summary|poem|story|song|letter(?! (?:\ue000|\w\b))"
    r"|e-?mail|mail|message|text|note|speech"
    r"|haiku|limerick|riddle|joke|resume|review|caption|report|advertisement|description|itinerary|proposal|dialogue"
    r"|rap|template|paper"
    r"|tweet|bio|biography|pitch|script|rant|slogan|ad|thread|plan|list|explanation)"
)
_PARTS = re.compile(
    r"\b(?:titles?|headings?|headlines?|subject|subject line|paragraphs?|sections?|introduction|conclusion|each|every"
    r"|per|apiece|stanzas?"
    r"|verses?|chorus|chapters?|column|row|cell|footnote|abstract|first|second|third|last|final|opening)\b",
    re.IGNORECASE,
)
_OTHERS = re.compile(
    r"\b(?:who|whose|which|says?|said|tells?|told|asks|asked|claims?|writes|wrote|argues?|insists?"
    r"|requires|in which|where|wants|that (?!i\b))\b",
    re.IGNORECASE,
)
_UNSURE = re.compile(
    r"\b(?:if|unless|except|excepting|apart from|other than|otherwise|instead|rather than|but|preferably|ideally|maybe"
    r"|perhaps|possibly|try"
    r"|roughly|about|around|approximately|or so|may|might|could|no need|have to be|isn't|is not|was|were|had|used to"
    r"|either|neither"
    r"|beyond|first|second|last|each|every|per|than in)\b|~",
    re.IGNORECASE,
)
_YES_NO = re.compile(
    r"^(?:is|are|was|does|do|did|has|have|should|am|can i|may i|must i)\b.*\b(?:this|that|it|these|those|enough|ok|okay"
    r"|allowed|normal"
    r"|right|correct|valid|possible|fair|too|i|we)\b.*\?",
    re.IGNORECASE | re.DOTALL,
)
_SOFTWARE = re.compile(
    r"\b(?:regex(?:p)?|regular expression|function|class|method|program|validat\w+|field|database|schema|linter|parser"
    r"|api|endpoint|python"
    r"|javascript|typescript|java|rust|html|css|sql|config|unit tests?|excel|spreadsheet|formula|prompt|chatbot|bot|users?)\b",
    re.IGNORECASE,
)
_SEVERAL = re.compile(
    r"^(?:please )?(?:(?:can|could) you )?(?:(?:write|give|make|create|generate|suggest|list|draft|come up with"
    r"|i need)(?: me| us)? )?"
    r"(?:(?:exactly|at least|at most) )?(?:\d+|two|three|four|five|six|seven|eight|nine|ten|a dozen|several|some|a few) "
    r"(?!(?:\S+ ){0,3}(?:words?|sentences?|characters?|lines?|bullet|paragraphs?))(?:[\w-]+ ){0,2}[\w-]+s\b",
    re.IGNORECASE,
)
_VERB = (
    r"(?:write|give|make|create|generate|draft|compose|explain|describe|summari[sz]e|tell|answer|respond|reply|rewrite"
    r"|rephrase|translate"
    r"|discuss|list|provide|suggest|say|outline|define|compare|sketch|introduce|produce|prepare|elaborate|present"
    r"|recommend|reword)"
)
_ASKS = re.compile(
    rf"^(?:please |now |then )?(?:(?:can|could|would|will) you (?:please )?|i (?:want|need|would like) you to "
    rf"|help me (?:to )?)?{_VERB}\b",
    re.IGNORECASE,
)
_WH = re.compile(r"^(?:what|why|how|who|when|where|which)\b", re.IGNORECASE)
_TAIL = re.compile(
    r"^(?P<head>.+?)[,]?\s+(?P<tail>(?:(?:in|within|with|using|of|that (?:has|contains|is)) (?:only |just |exactly "
    r"|precisely |a total of )?"
    r"(?:(?:at (?:most|least)|no (?:more|fewer|less) than|not more than|less than|fewer than|more than|under|up to"
    r"|a (?:max|min)imum of) )?"
    r"[\w,]+(?:-\w+)? (?:words?|sentences?|characters?|lines?|bullet points?)(?: or (?:less|fewer|more))?"
    r"|under \d[\d,]* (?:words|characters|sentences)"
    r"|with(?:out (?:using )?(?:any )?| no )commas"
    r"|in (?:all )?(?:lowercase|lower case|capital|uppercase|upper case)(?: letters)?(?: only)?))$",
    re.IGNORECASE,
)
_OPENING = re.compile(
    r"^(?:please )?(?P<said>(?:write|give me|say|tell me) (?:exactly )?\w+ sentences?)"
    r" (?:about|on|describing|explaining|for|to)\b(?P<rest>.*)$",
    re.IGNORECASE | re.DOTALL,
)
_SPLIT = re.compile(
    r"\s*(?:;|,? - |,?\s*[—–]\s|, and then |, and |, then |,(?!\d)\s*|\s+and\s+(?!\ue000)(?!\w+ (?:words?|letters?)\b))\s*",
    re.I,
)
_LISTED = re.compile(r"^(?:and |or )?\ue000")
_EXAMPLE = re.compile(
    rf",?\s*\(?\b(?:i\.e\.|e\.g\.|for example|for instance|such as|like (?=[<*\[\ue000])|as in|an? example)[\s\S]*$"
    rf"|\s*\((?:excluding|i\.e|e\.g|that are)"
    rf"[^)]*\)|\s*\([^)]*{MATERIAL}?[^)]*\)$",
    re.IGNORECASE,
)
_FRONT = re.compile(
    r"^(?:also|additionally|furthermore|moreover|finally|lastly|then|and|so|but|ok|hi|please|pls|explicitly|just|only"
    r"|now|kindly"
    r"|make sure (?:that|to)|be sure to|make sure|ensure (?:that)?|remember to|don't forget to|you (?:should|must"
    r"|need to|have to|are to|will)|i want you to"
    r"|i (?:want|need) (?:it|the answer) (?:to be )?|(?:can|could|would) you(?: please)?|explain it|answer it"
    rf"|in (?:your|the) (?:entire |whole )?{_PRODUCTS}|at the end of (?:your|the) (?:entire )?{_PRODUCTS}|after your {_ANSWER}"
    r"|to make it [\w ]{1,20})[,:]?\s+",
    re.IGNORECASE,
)
_BACK = re.compile(
    rf"(?:,?\s+(?:please|pls|plz|thanks|thank you|lol|only please|or so help me|anywhere|at all|in total|at the end|markdown"
    rf"|(?:in|throughout|of|for|from) (?:your|the|this) (?:entire |whole )?{_PRODUCTS}|in (?:the )?markdown(?: format)?"
    rf"|using (?:the )?markdown(?: bullet points?)?(?: format)?|in it|whatsoever))+$",
    re.IGNORECASE,
)

LONGEST_SENTENCE = 600
"""Characters of a sentence that is looked at; a longer one is not plain."""


@dataclass(frozen=True, slots=True)
class Clause:
    """One clause that may be a demand."""

    text: str
    """In the request's own words."""
    said: str
    """Without what says nothing: polite openings, "in your answer"."""
    addressed: bool
    """Whether it names the answer or begins with an order, and is no bare phrase ("at most 60 words")."""
    software: bool
    """Whether the request is about programs, of which a demand may be one."""
    several: bool
    """Whether several things are asked for, so that a length may be that of each."""


def clauses(prompt: str, context: str = "") -> tuple[Clause, ...]:
    """The clauses in which a request may make demands on the whole of its answer, in their order."""
    own = spoken(prompt, context)
    doubted = any(_YES_NO.match(s) for s in own.sentences)
    software = any(_SOFTWARE.search(s) for s in own.sentences)
    several = any(_SEVERAL.match(s) for s in own.sentences) or _products(own.sentences) > 1
    found = []
    for i, sentence in enumerate(own.sentences):
        after = own.sentences[i + 1] if i + 1 < len(own.sentences) else ""
        if re.match(r"(?:except|unless|but|the only exception|exceptions?)\b", after, re.IGNORECASE):
            continue
        for text, said, addressed in _of(sentence):
            if addressed or not doubted:
                found.append(Clause(own.whole(text), own.whole(said), addressed, software, several))
    return tuple(found)


def _products(sentences: tuple[str, ...]) -> int:
    """How many kinds of text are asked for: "a poem and a letter" are two."""
    asked = [
        m for s in sentences if _ASKS.match(s) for m in re.findall(rf"\b(?:a|an|one) (?:\w+ ){{0,2}}?({_PRODUCTS})\b", s, re.I)
    ]
    return len({one.lower() for one in asked if not re.match(_ANSWER, one, re.I)}) if asked else 0


def _of(sentence: str) -> Iterator[tuple[str, str, bool]]:
    """(own words, short form, whether it is addressed) of the clauses of one sentence."""
    if len(sentence) > LONGEST_SENTENCE:
        return
    question = sentence.rstrip().endswith("?")
    if question and not (_ASKS.match(sentence) or _WH.match(sentence)):
        return
    if re.match(
        r"(?:if|when|unless|whenever|for each|in each|for every|in every|each|every|there (?:is|are)|suppose|imagine)\b",
        sentence,
        re.I,
    ):
        return
    body = _EXAMPLE.sub("", sentence.rstrip(" ?")).strip()
    opening = _OPENING.match(body)
    if opening and not re.search(r"\b(?:and|then|plus|each|every|another)\b", opening["rest"], re.IGNORECASE):
        yield opening["said"], re.sub(r"^(?:tell|give) me ", "write ", opening["said"], flags=re.IGNORECASE), True
    pieces = _pieces(body)
    others = part = False
    for i, piece in enumerate(pieces):
        after = pieces[i + 1] if i + 1 < len(pieces) else ""
        said, addressed = _short(piece)
        explicit = bool(re.search(rf"\byour (?:entire |whole )?{_ANSWER}\b", piece, re.IGNORECASE))
        excepted = re.match(r"(?:but|except|unless|apart from|other than|and no|or)\b", after, re.IGNORECASE) and not explicit
        if not ((others or part) and not explicit) and not excepted:
            tail = _tail(piece)
            if tail and not _UNSURE.search(tail):
                yield tail, _short(tail)[0], True
            elif not _UNSURE.search(said) and MATERIAL not in said and not (question and not addressed):
                yield piece, said, addressed
        others = others or bool(_OTHERS.search(re.sub(r"^(?:make sure|ensure|please make sure) that ", "", piece, flags=re.I)))
        part = part or bool(_PARTS.search(piece))


def _pieces(body: str) -> list[str]:
    """The coordinate clauses of a sentence; quotations in a row stay together."""
    pieces: list[str] = []
    at = 0
    for cut in _SPLIT.finditer(body):
        if _LISTED.match(body[cut.end() :]) or not body[at : cut.start()].strip():
            continue
        pieces.append(body[at : cut.start()].strip())
        at = cut.end()
    return [p.strip(" .!;:,") for p in [*pieces, body[at:]] if p.strip(" .!;:,")]


def _tail(piece: str) -> str:
    """The limit at the end of an order ("Write a poem about tea in at most 60 words"), where it is that of the whole."""
    found = _TAIL.match(re.sub(_BACK, "", piece))
    if not found or not (_ASKS.match(piece) or _WH.match(piece)):
        return ""
    head, tail = found["head"], found["tail"]
    within = re.search(
        rf"\b(?:about|on|of|from|to)\b.*\b(?:{_PRODUCTS}|book|word|sentence|sign|quote|phrase|map|language)s?\b", head, re.I
    )
    if tail.lower().startswith("of ") and not re.fullmatch(
        rf"(?:please )?{_VERB}(?: me| us)? (?:a|an)(?: [\w-]+){{0,3}} {_PRODUCTS}", head, re.I
    ):
        return ""
    if _OTHERS.search(head) or _PARTS.search(head) or within or re.search(r"\b(?:not|don't|never|no)\b", head, re.I):
        return ""
    return tail


def _short(piece: str) -> tuple[str, bool]:
    """A clause without what says nothing, and whether it is an order or names the answer."""
    said = re.sub(r"\bdont\b", "don't", piece.strip(" .!;:,"), flags=re.IGNORECASE)
    ordered = False
    while (shorter := _FRONT.sub("", said, count=1)) != said:
        ordered, said = True, shorter
    said = _BACK.sub("", said)
    said = re.sub(
        r"^you (?:are not allowed|are not permitted) to use\b|^refrain from(?: using)?\b|^avoid using\b",
        "do not use",
        said,
        flags=re.I,
    )
    subject = rf"^(?:the|your) (?:(?:entire|whole|full|final|complete) )?{_PRODUCTS}\b"
    named = bool(re.match(subject, said, re.I))
    said = re.sub(subject, "the answer", said, flags=re.I)
    said = (
        re.sub(rf"\b(?:the|your) (?:entire |whole |full |final )?{_PRODUCTS}\b", "the answer", said, flags=re.I)
        if named or ordered
        else re.sub(rf"\b(?:the|your) (?:entire |whole |full |final )?{_ANSWER}\b", "the answer", said, flags=re.I)
    )
    said = re.sub(
        rf"^(start|begin|open|end|finish|close) (?:the answer|(?:the|your) {_PRODUCTS}) with\b", r"\1 with", said, flags=re.I
    )
    said = re.sub(
        r"^(?:wrap|put|format|present|provide|give|return) (?:the answer |it )?in (?=(?:valid )?json\b)",
        "answer in ",
        said,
        flags=re.I,
    )
    said = re.sub(r"^(add a postscript) to the answer\b", r"\1", said, flags=re.I)
    order = re.match(
        r"(?:do not|don't|never|use|include|mention|avoid|write|answer|respond|reply|keep|limit|start|begin|end|finish"
        r"|add|put|wrap"
        r"|return|output|give|contain|must|should|has to|cannot|can not|can't)\b",
        said,
        re.I,
    )
    return said, bool(named or order or "the answer" in said)
