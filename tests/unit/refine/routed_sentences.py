"""Constraints in plain words, and what a recipe would say for each."""

from __future__ import annotations

from typing import Any

USES: dict[str, dict[str, Any]] = {
    "Use under 80 words.": {"use": "number_words", "num_words": 80, "relation": "less than"},
    "The answer must have at most twenty-five words": {"use": "number_words", "num_words": 25, "relation": "at most"},
    "100 words or fewer": {"use": "number_words", "num_words": 100, "relation": "at most"},
    "more than 1,000 words": {"use": "number_words", "num_words": 1001, "relation": "at least"},
    "Answer in one sentence.": {"use": "number_sentences", "num_sentences": 1, "relation": "exactly"},
    "Use three bullet points.": {"use": "number_bullet_lists", "num_bullets": 3},
    "Do not use any commas.": {"use": "no_comma"},
    "Write in all lowercase letters.": {"use": "english_lowercase"},
    "Answer in capital letters only.": {"use": "english_capital"},
    "Your response should be in Spanish.": {"use": "response_language", "language": "es"},
    "Include the word “Oven”.": {"use": "mentions", "words": ["Oven"], "how": "all"},
    "Mention 'salt' and 'pepper'": {"use": "mentions", "words": ["salt", "pepper"], "how": "all"},
    'Mention "salt" or "pepper"': {"use": "mentions", "words": ["salt", "pepper"], "how": "any"},
    "Do not use the word rose.": {"use": "forbidden_words", "forbidden_words": ["rose"]},
    'The word "rock" should appear at least three times.': {
        "use": "keyword_frequency",
        "keyword": "rock",
        "frequency": 3,
        "relation": "at least",
    },
    "Return valid JSON only.": {"use": "json_format"},
    'Begin with "Dear Ann,"': {"use": "starts_with", "start": "Dear Ann,"},
    'Close with the line "See you."': {"use": "end_checker", "end_phrase": "See you."},
    "Add a postscript starting with P.S.": {"use": "postscript", "marker": "P.S."},
    "Include a title wrapped in double angular brackets, such as <<x>>": {"use": "title"},
}
