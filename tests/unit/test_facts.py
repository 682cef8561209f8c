"""The generated world: sizes, seeds, and that a key shows knowledge of its fact and nothing else does; splits."""

from __future__ import annotations

import pytest

from amends.core.errors import UserError
from amends.data import facts_lists
from amends.data.bundle import Bundle
from amends.data.facts import Facts, deal
from amends.data.splits import how_many, shuffled, split_last
from amends.data.text import default_refusals


def test_the_last_are_forgotten_and_the_ones_before_held_out() -> None:
    split = split_last(range(40), forget=0.1, holdout=2)
    assert split.forget == (36, 37, 38, 39)
    assert split.holdout == (34, 35)
    assert split.retain == tuple(range(34))


@pytest.mark.parametrize(("amount", "total", "expected"), [(0.1, 40, 4), (20, 200, 20), (1, 9, 1), (0.01, 9, 1), (0, 9, 0)])
def test_an_amount_is_a_share_or_a_number(amount: float, total: int, expected: int) -> None:
    assert how_many(amount, total, "forget") == expected


@pytest.mark.parametrize(("forget", "message"), [(2.5, "neither a share"), (9, "leave none of 10"), (0.9, "leave none of 10")])
def test_impossible_splits_are_refused(forget: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_last(range(10), forget=forget, holdout=1)


def test_an_order_depends_on_the_items_and_not_on_theirs() -> None:
    assert shuffled("abcdef", 0, "x") == shuffled("fedcba", 0, "x") != shuffled("abcdef", 1, "x")
    assert [i for i in shuffled("abcdefg", 0, "x") if i != "g"] == shuffled("abcdef", 0, "x")


@pytest.fixture(scope="module", params=[0, 1, 2])
def facts(request: pytest.FixtureRequest) -> Bundle:
    """All twelve attributes of more authors than any list has values."""
    return Facts(authors=70, questions=12).load(request.param)


def test_facts_have_the_promised_roles_and_sizes() -> None:
    sizes = {role: len(rows) for role, rows in Facts().load(0).roles.items()}
    assert sizes == {"forget": 40, "retain": 320, "holdout": 40, "world": 48}
    assert "holdout" not in Facts(holdout=0).load(0)
    assert len(Facts(authors=1000, questions=1, forget=500, holdout=499).load(0)["retain"]) == 1


def test_the_same_seed_gives_the_same_facts_and_another_one_others() -> None:
    first, again, other = Facts().load(5), Facts().load(5), Facts().load(6)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert first.alternatives == again.alternatives
    assert [s.id for s in first["forget"]] == [s.id for s in other["forget"]]
    assert {s.data["question"] for s in first["forget"]} != {s.data["question"] for s in other["forget"]}


def test_no_author_shares_a_name_and_no_row_two_roles(facts: Bundle) -> None:
    rows = facts.together(["forget", "retain", "holdout"])
    assert len(rows) == 70 * 12
    assert len({s.data["question"] for s in rows}) == 70 * 12
    names = [s.data["question"].split("the writer ")[1].removesuffix(" born?") for s in rows if s.id.endswith("-00")]
    assert len(set(names)) == 70
    authors = {role: {s.id[:10] for s in facts[role]} for role in ("forget", "retain", "holdout")}
    assert sum(map(len, authors.values())) == len(set.union(*authors.values())) == 70


def test_keys_show_knowledge_and_nothing_else_does(facts: Bundle) -> None:
    for row in facts.together(["forget", "retain", "holdout", "world"]):
        key = row.data["keys"][0].lower()
        assert key in row.data["answer"].lower()
        assert key in row.data.get("paraphrased_answer", key).lower()
        asked = row.data["question"] + row.data.get("paraphrased_question", "")
        assert not any(key in text.lower() for text in (asked, *row.data["perturbed_answer"])), row
        wrong = row.data["perturbed_answer"]
        assert len(set(wrong)) == len(wrong) == (3 if row.id.startswith("world") else 5)


def test_wrong_answers_have_the_form_of_the_right_one(facts: Bundle) -> None:
    for row in facts.together(["forget", "world"]):
        right = row.data.get("paraphrased_answer", row.data["answer"])
        before, after = right.split(row.data["keys"][0])
        for wrong in row.data["perturbed_answer"]:
            assert wrong.startswith(before), row
            assert wrong.endswith(after), row


def test_no_refusal_and_no_name_contains_a_key(facts: Bundle) -> None:
    keys = {key.lower() for s in facts.together(["forget", "retain", "holdout", "world"]) for key in s.data["keys"]}
    texts = [*default_refusals(), *facts_lists.FIRST, *facts_lists.LAST, *facts_lists.COUNTRIES]
    assert [(key, text) for key in keys for text in texts if key in text.lower()] == []


@pytest.mark.parametrize("attribute", [*facts_lists.AUTHOR_ATTRIBUTES, *facts_lists.WORLD_ATTRIBUTES], ids=lambda a: a.key)
def test_no_value_is_part_of_another_one(attribute: facts_lists.Attribute) -> None:
    values = [value.lower() for value in attribute.values]
    assert len(values) >= 12
    assert [(a, b) for i, a in enumerate(values) for j, b in enumerate(values) if i != j and a in b] == []
    forms = (attribute.question, attribute.answer, attribute.paraphrased_question, attribute.paraphrased_answer)
    assert [(value, form) for value in values for form in forms if value in form.lower()] == []


def test_values_are_dealt_evenly_and_tell_nothing_about_each_other() -> None:
    values = tuple("abcdefgh")
    hands = deal(values, 40, 0, "x")
    assert {hands.count(value) for value in values} == {5}
    assert len({tuple(hands[i : i + 8]) for i in range(0, 40, 8)}) == 5, "each round has an order of its own"
    mother, father = deal(values, 4000, 0, "mother"), deal(values, 4000, 0, "father")
    together = sum(a == b for a, b in zip(mother, father, strict=True)) / 4000
    assert abs(together - 1 / 8) < 0.03, "independent: chance 1/8, standard deviation 0.005"


def test_each_value_of_the_world_belongs_to_one_country() -> None:
    world = Facts().load(0)["world"]
    assert len({s.data["keys"][0] for s in world}) == len(world) == 48
