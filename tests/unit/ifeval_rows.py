"""A few dozen rows of our own in IFEval's form: every type, with the arguments that matter."""

from __future__ import annotations

from typing import Any

SMALL: list[list[tuple[str, dict[str, Any]]]] = [
    [("keywords:existence", {"keywords": ["oven", "rocket"]})],
    [("keywords:existence", {"keywords": ["a b"]}), ("punctuation:no_comma", {})],
    [("keywords:frequency", {"keyword": "rock", "frequency": 3, "relation": "at least"})],
    [("keywords:frequency", {"keyword": "word", "frequency": 2, "relation": "less than"})],
    [("keywords:forbidden_words", {"forbidden_words": ["rock", "oven"]})],
    [("keywords:letter_frequency", {"letter": "o", "let_frequency": 5, "let_relation": "at least"})],
    [("keywords:letter_frequency", {"letter": "Q", "let_frequency": 2, "let_relation": "less than"})],
    *[[("language:response_language", {"language": code})] for code in ("de", "hi", "ko", "th", "sw", "en")],
    [("length_constraints:number_sentences", {"num_sentences": 3, "relation": "at least"})],
    [("length_constraints:number_sentences", {"num_sentences": 4, "relation": "less than"})],
    [("length_constraints:number_paragraphs", {"num_paragraphs": 2})],
    [("length_constraints:number_paragraphs", {"num_paragraphs": 4}), ("detectable_format:title", {})],
    [("length_constraints:number_words", {"num_words": 40, "relation": "at least"})],
    [("length_constraints:number_words", {"num_words": 30, "relation": "less than"})],
    [("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "weekend"})],
    [("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "Fine"})],
    [("detectable_content:number_placeholders", {"num_placeholders": 3})],
    [("detectable_content:postscript", {"postscript_marker": "P.S."})],
    [("detectable_content:postscript", {"postscript_marker": "P.P.S"}), ("startend:quotation", {})],
    [("detectable_format:number_bullet_lists", {"num_bullets": 3})],
    [("detectable_format:constrained_response", {})],
    [("detectable_format:number_highlighted_sections", {"num_highlights": 3})],
    [("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2})],
    [("detectable_format:multiple_sections", {"section_spliter": "Day", "num_sections": 3})],
    [("detectable_format:json_format", {})],
    [("detectable_format:title", {}), ("keywords:existence", {"keywords": ["text"]})],
    [("combination:two_responses", {})],
    [("combination:repeat_prompt", {"prompt_to_repeat": "Write about an oven."})],
    [("startend:end_checker", {"end_phrase": "Is that all?"})],
    [("startend:quotation", {}), ("change_case:english_lowercase", {})],
    [("change_case:capital_word_frequency", {"capital_frequency": 4, "capital_relation": "at least"})],
    [("change_case:capital_word_frequency", {"capital_frequency": 3, "capital_relation": "less than"})],
    [("change_case:english_capital", {})],
    [("change_case:english_lowercase", {})],
    [("punctuation:no_comma", {})],
]
ROWS: list[dict[str, Any]] = [
    {
        "key": i, "prompt": f"Request {i}.", "instruction_id_list": [name for name, _ in pairs],
        "kwargs": [kwargs for _, kwargs in pairs],
    }
    for i, pairs in enumerate(SMALL)
]  # fmt: skip
PADDING = ("num_words", "relation", "keywords", "language", "letter", "num_bullets")


def padded(row: dict[str, Any]) -> dict[str, Any]:
    """As the hub's copy writes rows: every keyword that there is, None where it does not belong."""
    return {**row, "kwargs": [dict.fromkeys(PADDING) | kwargs for kwargs in row["kwargs"]]}
