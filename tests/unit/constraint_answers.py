"""Answers made to satisfy and to violate IFEval's constraints, a few dozen a row, the same each time."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

PROSE = (
    "The old oven stood in the kitchen, and nobody used it any more. Dr. Lee bought it in 1987 for $1,200.50! Was it worth it?",
    "I can't say. NASA wasn't involved; THE RESULT IS CLEAR and it's the students' own. They'll rock the rocket (so they say).",
    "WE CANNOT GO, JOHN'S HERE. I'M NOT SURE -- ARE YOU? \"YES,\" SHE SAID: ‘NO’ AND “MAYBE” IT’S FINE... E.G. THE U.S. ARMY.",
    "First we wash the rice.\n\nThen we cook it. * Not a bullet *here* or **there**.\n\nAt last, we eat [food] with [name].",
    "* one\n* two\n- three\n  - four\n---\n**bold** and *em* and ** **\n*\n* after a lone star",
    "Section 1\nText.\nSECTION 2 more text PARAGRAPH 3\nSection II\nDay 4 Audience 5\n[a][b] [c\n] [[d]]",
    '{"name": "oven", "price": 12}',
    '```json\n["a", "b"]\n```',
    "<<A title>>\nText and <<>> and <<x\n>> P.S. I love you. P. P. S too.",
    "One answer.\n******\nAnother answer.",
    "My answer is maybe. weekend is here\n\nweekend, she said.\n\n'weekend' it is",
)
LANGUAGES = {
    "de": "Das ist ein einfacher deutscher Satz, der lang genug ist.",
    "it": "Questa è una frase italiana abbastanza lunga da riconoscere.",
    "pt": "Esta é uma frase portuguesa que não é muito curta.",
    "vi": "Đây là một câu tiếng Việt đủ dài để nhận ra.",
    "ru": "Это достаточно длинное русское предложение.",
    "bg": "Това е достатъчно дълго българско изречение, което може да се познае.",
    "ko": "이것은 충분히 긴 한국어 문장입니다.",
    "hi": "यह एक पर्याप्त लंबा हिंदी वाक्य है जिसे पहचाना जा सकता है।",
    "mr": "हे एक पुरेसे लांब मराठी वाक्य आहे जे ओळखता येते.",
    "fi": "Tämä on riittävän pitkä suomenkielinen lause tunnistettavaksi.",
    "sw": "Hii ni sentensi ya Kiswahili ambayo ni ndefu ya kutosha kutambulika.",
    "th": "นี่คือประโยคภาษาไทยที่ยาวพอสมควร",
    "ar": "هذه جملة عربية طويلة بما يكفي للتعرف عليها.",
    "fa": "این یک جمله فارسی است که به اندازه کافی طولانی است.",
    "ta": "இது போதுமான நீளமான தமிழ் வாக்கியம்.",
    "bn": "এটি একটি যথেষ্ট দীর্ঘ বাংলা বাক্য।",
}


def answers(row: Mapping[str, Any], num: int = 6) -> Iterator[str]:
    """`num` answers: prose as it is, then prose that obeys or breaks each constraint by chance, at times wrapped."""
    draw = random.Random(row["key"])
    yield draw.choice(PROSE)
    for i in range(num - 1):
        text = "\n\n".join(draw.choices(PROSE, k=draw.randint(1, 3)))
        pairs = list(zip(row["instruction_id_list"], row["kwargs"], strict=True))
        draw.shuffle(pairs)
        for name, kwargs in pairs:
            if draw.random() < 0.8:
                text = obeyed(text, name, kwargs, draw)
        yield ("Sure, here it is:\n" + text + "\nI hope that helps!", text, f"**{text}**", text)[i % 4].strip()


def obeyed(text: str, name: str, kwargs: Mapping[str, Any], draw: random.Random) -> str:
    """A text that has about as many of what is asked for; often one too few or too many."""
    kind = name.split(":")[1]
    number = next((v for v in kwargs.values() if isinstance(v, int)), 1)
    few = kwargs.get("relation", kwargs.get("let_relation", kwargs.get("capital_relation", ""))) == "less than"
    times = max(number - few + draw.choice((-1, 0, 0, 0, 1)), 0)
    match kind:
        case "existence":
            return f"{text} {' '.join(kwargs['keywords'][: draw.randint(1, 9)]).upper()}"
        case "forbidden_words":
            return text + draw.choice((" fine", f" {kwargs['forbidden_words'][0]}", f" {kwargs['forbidden_words'][-1]}s"))
        case "frequency":
            return "Fine" + f" {kwargs['keyword'].title()}x" * times
        case "letter_frequency":
            return "-" * draw.randint(0, 1) + kwargs["letter"].upper() * times
        case "response_language":
            return " ".join([LANGUAGES.get(kwargs["language"], PROSE[0])] * draw.randint(1, 3))
        case "number_sentences":
            return " ".join(["It is so."] * times)
        case "number_words":
            return " ".join(["word"] * times)
        case "number_paragraphs":
            return "\n***\n".join(["Some text."] * times) + draw.choice(("", "\n***", "\n******\nMore"))
        case "nth_paragraph_first_word":
            return "\n\n".join([draw.choice(("{}", "'{}, he said", "The {}")).format(kwargs["first_word"].title())] * number)
        case _:
            return _marked(text, kind, kwargs, times, draw)


def _marked(text: str, kind: str, kwargs: Mapping[str, Any], times: int, draw: random.Random) -> str:
    match kind:
        case "number_placeholders":
            return "Dear " + "[name] " * times
        case "postscript":
            return f"{text}\n\n{draw.choice((kwargs['postscript_marker'], 'p. s. ', 'PS:'))} Bye"
        case "number_bullet_lists":
            return "A list:\n" + "\n".join(draw.choice(("* a", "- b", "  * c")) for _ in range(times))
        case "constrained_response":
            return draw.choice(("My answer is yes.", "I think so. My answer is no.", "my answer is no.", "Yes."))
        case "number_highlighted_sections":
            return "Look: " + " ".join(draw.choice(("*a b*", "**c**")) for _ in range(times))
        case "multiple_sections":
            return "\n".join(f"{kwargs['section_spliter']} {i + 1}\nText." for i in range(times))
        case "json_format":
            return draw.choice(('{"a": 1}', '```json\n{"a": [1, 2]}\n```', '"text"', "{a: 1}", "12"))
        case "title":
            return draw.choice(("<<My day>>\n", "<< >>\n", "<<>>>", "")) + text
        case "two_responses":
            return draw.choice(("One.\n******\nTwo.", "One.\n******\nOne.", "A\n***\nB", "******A******B******", "A*******B"))
        case "repeat_prompt":
            return draw.choice((kwargs["prompt_to_repeat"].upper(), kwargs["prompt_to_repeat"][1:])) + "\n" + text
        case "end_checker":
            return text + draw.choice((" ", '"', ". ")) + kwargs["end_phrase"].upper() + draw.choice(("", '"', " ", "."))
        case "quotation":
            return f'"{text}' + draw.choice(('"', "”", ""))
        case "capital_word_frequency":
            return "so " + " ".join(draw.choice(("NASA", "I", "DON'T", "A,1")) for _ in range(times))
        case "english_capital":
            return draw.choice((text.upper(), text.title(), "12", "IT IS A NICE DAY TODAY AND THE SUN IS SHINING"))
        case "english_lowercase":
            return draw.choice((text.lower(), text, "1", "it is a nice day today and the sun is shining"))
        case "no_comma":
            return text.replace(",", draw.choice(("", ",", "，")))
    return text
