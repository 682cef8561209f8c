"""One way to use every checker, small numbers and odd words."""

from __future__ import annotations

from typing import Any

USES: list[dict[str, Any]] = [
    {"use": "keyword_existence", "keywords": ["oven", "a"]},
    {"use": "keyword_frequency", "keyword": "a", "frequency": 2, "relation": "at most"},
    {"use": "forbidden_words", "forbidden_words": ["a", "I"]},
    {"use": "letter_frequency", "letter": "i", "frequency": 1, "relation": "exactly"},
    {"use": "mentions", "words": ["a", "b"], "how": "any"},
    {"use": "number_sentences", "num_sentences": 2, "relation": "less than"},
    {"use": "number_words", "num_words": 3, "relation": "at least"},
    {"use": "number_characters", "num_characters": 9, "relation": "at most"},
    {"use": "number_lines", "num_lines": 2, "relation": "less than"},
    {"use": "number_paragraphs", "num_paragraphs": 2},
    {"use": "nth_paragraph_first_word", "num_paragraphs": 2, "nth_paragraph": 2, "first_word": "a"},
    {"use": "number_placeholders", "num_placeholders": 1},
    {"use": "postscript", "marker": "P.S."},
    {"use": "postscript", "marker": "NB:"},
    {"use": "number_bullet_lists", "num_bullets": 2},
    {"use": "constrained_response"},
    {"use": "number_highlighted_sections", "num_highlights": 1},
    {"use": "multiple_sections", "section_splitter": "Section", "num_sections": 1},
    {"use": "json_format"},
    {"use": "title"},
    {"use": "two_responses"},
    {"use": "repeat_prompt", "prompt_to_repeat": "A b."},
    {"use": "starts_with", "start": "İa"},
    {"use": "end_checker", "end_phrase": "the end."},
    {"use": "quotation"},
    {"use": "capital_word_frequency", "frequency": 1, "relation": "at most"},
    {"use": "english_capital"},
    {"use": "english_lowercase"},
    {"use": "no_comma"},
    {"use": "response_language", "language": "en"},
    {"use": "matches", "pattern": "a.c|^$", "where": "whole"},
]
