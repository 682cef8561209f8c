"""What the refiner is told, what of its reply is taken, and the signs that an answer has degenerated."""

from __future__ import annotations

import pytest
from refine_world import KIND, LOWER, OVEN, SHORT, constraint, request

from amends.chat.client import Message
from amends.constraints.constraint import Constraint, Verdict
from amends.refine.frame import delimiter
from amends.refine.guard import apologises, guard, repetition
from amends.refine.repairing import repaired
from amends.refine.rewrite import answer_in, cleaned, recites, rewrite_messages

ASK = request(SHORT, LOWER, KIND)


def violation(asked: Constraint, text: str) -> tuple[Constraint, Verdict]:
    return asked, Verdict.of(asked, asked.checker.check(text))


def test_the_refiner_sees_the_request_the_answer_and_only_what_is_broken() -> None:
    text = "one two three four five six seven"
    prompt = rewrite_messages(ASK, text, [violation(SHORT, text)], [LOWER], ["broke: Be kind."])[0].content
    assert ASK.prompt in prompt and f"{delimiter(text)}\n{text}\n{delimiter(text)}" in prompt
    broken, held = prompt.split("Constraints that hold")
    assert "- Use at most 6 words. - 7 words (found: 7; asked: at most 6 words)" not in broken  # the reason has the number
    assert "- Use at most 6 words. - 7 words" in broken and "Use no capitals." not in broken
    assert "- Use no capitals." in held and "broke: Be kind." in held and held.count("Be kind.") == 1


def test_numbers_stand_in_the_prompt_where_the_reason_has_none() -> None:
    said = Verdict("short", False, "checker", "too long", measured=213, target="fewer than 150")
    assert "too long (found: 213; asked: fewer than 150)" in rewrite_messages(ASK, "x", [(SHORT, said)], [])[0].content


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("Here is the revised answer:\n\nBake it.", "Bake it."),
        ("Sure! Here's the improved version:\nBake it.", "Bake it."),
        ("**Revised answer:**\nBake it.", "Bake it."),
        ("Certainly, below is a response that meets them:\nBake it.", "Bake it."),
        ("```\nBake it.\n```", "Bake it."),
        ("<think>\nhow?\n</think>\n\nBake it.", "Bake it."),
        ("\n\nBake it.\n", "Bake it."),
        ("  - indented\n  - list", "  - indented\n  - list"),
        ("Here is how bread is baked:\nBake it.", "Here is how bread is baked:\nBake it."),
        ("Here is the revised answer:", "Here is the revised answer:"),
        ("Bake it.\n```\ncode\n```", "Bake it.\n```\ncode\n```"),
        ("```\na\n```\nand\n```\nb\n```", "```\na\n```\nand\n```\nb\n```"),
        ("   \n", ""),
    ],
)
def test_a_reply_is_cleaned_only_where_it_is_safe(reply: str, text: str) -> None:
    assert cleaned(reply, "Old answer.", ASK) == text


def test_what_the_request_or_the_answer_has_already_is_left() -> None:
    preface = "Here is the revised answer:\nBake it."
    assert cleaned(preface, preface, ASK) == preface
    assert cleaned(preface, "x", request(prompt='Begin with "Here is the revised answer:"')) == preface
    assert cleaned("```\nx\n```", "```\ny\n```", ASK) == "```\nx\n```"
    assert cleaned("```\nx\n```", "y", request(prompt="Answer in a code block.")) == "```\nx\n```"


def test_delimiter_lines_that_were_copied_are_dropped() -> None:
    line = delimiter("Old answer.")
    assert cleaned(f"{line}\nBake it.\n{line}", "Old answer.", ASK) == "Bake it."


# ---------------------------------------------------------------------- repairs


def test_repairs_go_in_order_and_break_nothing() -> None:
    assert repaired("Bake IT", [LOWER], [LOWER, SHORT]) == "bake it"
    assert repaired("bake it", [LOWER], [LOWER]) is None
    assert repaired("Bake it in one two three four", [SHORT], [SHORT, LOWER]) is None  # code cannot mend a length
    capital = constraint("capital", type(OVEN.checker)(word="Bake"))
    assert repaired("Bake IT", [LOWER], [LOWER, capital]) is None
    assert repaired("Bake it now and then if you like", [LOWER, SHORT], [LOWER, SHORT]) == "bake it now and then if you like"


# ---------------------------------------------------------------------- the guard

FIRST = "Sourdough bread rises overnight because wild yeast makes gas, which stretches the dough until the oven sets it."
BREAD = request(prompt="Explain why sourdough bread rises overnight before the oven.")


def test_an_answer_like_the_first_one_is_not_warned_of() -> None:
    looked = guard(FIRST.lower(), FIRST, BREAD)
    assert (looked.warnings, looked.quality, looked.length_ratio, looked.kept) == ((), 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("", "empty"), ("Sourdough bread rises overnight.", "0.22 times"), (f"{FIRST} And {FIRST} And {FIRST}", "3.1 times"),
        ("the bread rises and " * 8, "repeats itself"), ("I'm sorry, but I cannot help with that.", "apology"),
        ("Trains leave from platform nine every hour of the day and night.", "holds 0%"),
    ],
)  # fmt: skip
def test_each_sign_is_seen(text: str, sign: str) -> None:
    looked = guard(text, FIRST, BREAD)
    assert any(sign in warning for warning in looked.warnings), looked
    assert looked.quality < 1


def test_what_was_asked_for_is_no_sign() -> None:
    sorry = request(prompt="Write an apology to a guest.")
    assert not any("apology" in w for w in guard("I am sorry for the noise.", "I am sorry.", sorry).warnings)
    spanish = request(constraint("es", text="In Spanish.", category="language"), prompt=BREAD.prompt)
    assert guard("El pan de masa madre crece de noche por la levadura salvaje que hace gas.", FIRST, spanish).kept == 1


def test_repetition_and_apologies_by_themselves() -> None:
    assert repetition("a b c d " * 10) == pytest.approx(1 - 4 / 37)
    assert repetition(" ".join(str(i) for i in range(50))) == 0
    assert apologises("I’m afraid I cannot do that") and not apologises("The sorry state of bread")
    assert not apologises("x " * 200 + "I'm sorry")


def test_a_reply_that_recites_what_was_sent_is_no_answer() -> None:
    text = "one two three four five six seven"
    sent = rewrite_messages(ASK, text, [violation(SHORT, text)], [LOWER])
    last = sent[0].content.rsplit("\n\n", 1)[1]
    assert answer_in(last, sent, text, ASK) == "" and answer_in(sent[0].content, sent, text, ASK) == ""
    assert answer_in(f"{text}\n\n{last}", sent, text, ASK) == ""
    assert answer_in(text, sent, text, ASK) == text  # the answer itself was sent too
    assert answer_in(ASK.prompt, sent, text, ASK) == ASK.prompt  # some requests ask for themselves
    own = "Bread is baked in an oven that somebody has heated well before, and nothing else."
    assert answer_in(own, sent, text, ASK) == own
    advice = "Say more of the oven and of what is baked in it."
    assert recites(advice, [Message("user", advice)]) and not recites(advice, [Message("user", advice)], advice)
