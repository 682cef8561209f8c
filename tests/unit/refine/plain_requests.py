"""Requests, and what plain rules have to find in each: demands on the whole answer, and nothing that is only shown or told."""

from __future__ import annotations

from typing import Any

Use = dict[str, Any]


def words(n: int, relation: str = "at most") -> Use:
    """A limit on words."""
    return {"use": "number_words", "num_words": n, "relation": relation}


def sentences(n: int, relation: str = "exactly") -> Use:
    """A number of sentences."""
    return {"use": "number_sentences", "num_sentences": n, "relation": relation}


def never(*forbidden: str) -> Use:
    """Words that may not be used."""
    return {"use": "forbidden_words", "forbidden_words": list(forbidden)}


def has(*there: str) -> Use:
    """Words that have to be there."""
    return {"use": "mentions", "words": list(there), "how": "all"}


def language(code: str) -> Use:
    """The answer's language."""
    return {"use": "response_language", "language": code}


COMMA: Use = {"use": "no_comma"}
CAPITALS: Use = {"use": "english_capital"}
SMALL: Use = {"use": "english_lowercase"}
JSON: Use = {"use": "json_format"}

DEMANDS: dict[str, list[Use]] = {
    "Write two sentences about tea. At most 60 words, no commas.": [sentences(2), words(60), COMMA],
    "Write a poem about tea in at most 60 words.": [words(60)],
    "Can you explain inflation in fewer than 50 words?": [words(50, "less than")],
    "what is inflation? one sentence": [sentences(1)],
    "In two sentences, explain why the sky is blue.": [sentences(2)],
    "Feedback for our intern. 120 to 150 words, no commas please.": [words(120, "at least"), words(150), COMMA],
    "A bedtime story. between 150 and 200 words. use her name": [words(150, "at least"), words(200)],
    "Explain MRI scans. Under 110 words.": [words(110, "less than")],
    "Explain MRI scans.\n\nRequirements:\n- at most 110 words\n- no commas\n": [words(110), COMMA],
    "Explain MRI scans:\n1. Do not use any commas.\n2. Use at least 50 words.": [],
    "Your entire response should be in Spanish. Do not use commas in your reply.": [language("es"), COMMA],
    "Your answer must have at least 300 words and should not contain any commas.": [words(300, "at least"), COMMA],
    "Write a riddle without using any commas.": [COMMA],
    "Write an essay about slavery. Refrain from using commas in your essay.": [COMMA],
    "Write an ad. You are not allowed to use any commas.": [COMMA],
    "Write a song in all capital letters.": [CAPITALS],
    "Write a song. Your response should be in all lowercase letters.": [SMALL],
    "Why is praying good? Please wrap your entire response in JSON format.": [JSON],
    'Write a haiku. Include the keywords "forests" and "riddle".': [has("forests", "riddle")],
    'A note. Please avoid the words "hard-working" and "passionate" - everyone gets those.': [
        never("hard-working", "passionate")
    ],
    "Write a parody. Do not include the word 'parody' throughout your response.": [never("parody")],
    'A letter. Don\'t say "unforeseen circumstances".': [never("unforeseen circumstances")],
    'A letter. Use the word "bees" at least twice.': [
        {"use": "keyword_frequency", "keyword": "bees", "frequency": 2, "relation": "at least"},
    ],
    "Write a template. The template should include the letter q at least 5 times.": [
        {"use": "letter_frequency", "letter": "q", "frequency": 5, "relation": "at least"},
    ],
    'Write a poem about two people who meet and end your entire response with the exact phrase "The end."': [
        {"use": "end_checker", "end_phrase": "The end."},
    ],
    "Draft an email. At the end of your response, please explicitly add a postscript starting with P.P.S": [
        {"use": "postscript", "marker": "P.P.S"},
    ],
    "Write an email. The email must contain a title wrapped in double angular brackets, i.e. <<title>>.": [{"use": "title"}],
    "Write a pitch. Your answer must include exactly 2 bullet points in markdown format.": [
        {"use": "number_bullet_lists", "num_bullets": 2},
    ],
    "Sell it. Make sure to wrap your entire response with double quotation marks.": [{"use": "quotation"}],
    "Write a rant. It can have up to 80 words.": [words(80)],
    'Rewrite this leaflet so my grandad gets it. Max 2 sentences.\n\n"Adults should ingest 400 mg. Use no commas."': [
        sentences(2, "at most"),
    ],
}
"""Requests that hold demands."""

QUIET: tuple[str, ...] = (
    # quoted, pasted and worked on
    "Summarise: 'He said at most 60 words were spoken'",
    "Summarise: 'He said so. At most 60 words. No commas.'",
    "Summarise: he said so. At most 60 words. No commas.",
    'Translate "At most 60 words, no commas." into French.',
    "Summarise the text below.\n\nUse no commas. At most 60 words. Answer in Spanish.",
    "At most 60 words. Use no commas. Answer in Spanish.\n\nTranslate the above into French.",
    "Proofread this email for me.\n\nDear Ann,\nat most 60 words please. No commas.",
    "Reply to this mail for me\n\n> At most 60 words. No commas.\n> Answer in Spanish.",
    "What does this mean?\n```\nUse no commas. At most 60 words.\n```",
    "What does this mean?\n<rules>\nUse no commas. At most 60 words.\n</rules>",
    "Here is a prompt. What is wrong with it?\n---\nUse at most 60 words. No commas.\n---",
    'Explain what my teacher meant by "no commas, at most 60 words, in Spanish".',
    'He wrote: "Use at most 60 words. And no commas, in Spanish, all lower case.',
    "Below is a system prompt. Tell me 3 problems with it.\n\nAlways answer in French. Use no commas.",
    "is this normal for a forum?\n\nRULES: No commas. At most 60 words. Answer in Spanish.",
    "Write a dialogue in which a teacher says: no commas. Use at most 60 words.",
    # an example
    "Suggest rules for a forum, for example no commas, at most 60 words.",
    "Suggest limits, such as at most 60 words, no commas.",
    # of something else
    "Write a poem about a town with no commas on its map.",
    "Write a story about a letter with at most 60 words.",
    "Write a story about a teacher who tells pupils to sit, use no commas, and write in Spanish.",
    "Write a story about a man who spoke in at most 60 words.",
    "My teacher wants at most 60 words and no commas. Is that normal?",
    "My essay has at most 60 words. No commas. Is that enough?",
    "The story starts with \"Once\". What is it called?",
    "The text contains \"oven\". Why?",
    "This is in English. What does it say?",
    "Write a Python function that parses dates. Return JSON. No commas.",
    "I need a regex for a form field. At most 60 characters, no commas.",
    "Build a form. At most 60 words. It validates user input.",
    # of a part, or of each of several
    "Write a letter. Use at most 20 words in the title.",
    "Give me a title, at most 10 words, and a story.",
    "Write a letter. Each sentence has at most 10 words.",
    "Write five slogans. At most 6 words.",
    "Write a poem and a letter. The poem must have at most 20 lines.",
    "3 bullets under each, at most 12 words each",
    "Write a mail. The subject line is under 50 characters, no commas.",
    # conditions, exceptions, alternatives, permissions, wishes
    "If it gets longer than a page, use no commas.",
    "Write in all capital letters but the word free has to be lower case.",
    "Write a poem. No commas. Except in the first line.",
    "Write a poem. No commas, unless they are needed.",
    "There is no limit of 100 words. Write about tea.",
    "It doesn't have to be under 100 words. Write about tea.",
    "Write about tea. It may be in Spanish.",
    "Write about tea, ideally at most 60 words.",
    "Write about tea, at most roughly 60 words.",
    "Write about 80 words on tea.",
    # words that look like a demand
    "Translate hello into French, German and Spanish.",
    "What is the word for dog in Spanish?",
    'Translate "good morning", "good night" and "hello".',
    "List the countries of Europe, capitals, and rivers.",
    "Write me a poem, small, about tea.",
    "Keep it small.",
    "How do I find files that contain the word oven?",
    "Is at most 60 words enough?",
    "Why do some poets use no commas?",
    "What are the benefits of all lowercase?",
    "", " \n", "?", '"', "At most", "\ue0000\ue001", "no",
)  # fmt: skip
"""Requests in which nothing may be found."""
