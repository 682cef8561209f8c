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


HARD = ("paraphrase", "multihop", "reverse")


@pytest.fixture(scope="module", params=[0, 1])
def hard(request: pytest.FixtureRequest) -> Bundle:
    """Every attribute, authors who share values, neighbours, and the hard roles."""
    return Facts(authors=60, questions=12, forget=6, holdout=4, neighbour=5, hard=True).load(request.param)


def told(bundle: Bundle, *roles: str) -> dict[str, dict[str, str]]:
    """Author -> attribute's number -> value, read off the plain rows of some roles; the name under `name`."""
    found: dict[str, dict[str, str]] = {}
    for row in bundle.together(roles):
        author, number = row.id[:10], row.id[11:13]
        found.setdefault(author, {})[number] = row.data["keys"][0]
        if number == "00":
            found[author]["name"] = row.data["question"].split("the writer ")[1].removesuffix(" born?")
    return found


def test_without_the_options_the_world_is_what_it_was() -> None:
    assert Facts().load(0).fingerprint() == "49f019968ea7fe32"
    assert Facts(authors=70, questions=12).load(3).fingerprint() == "d05311bdbf8c6bf3"
    plain, hard = Facts(authors=20).load(0), Facts(authors=20, hard=True).load(0)
    assert set(hard.roles) - set(plain.roles) == {*HARD, "forms"}
    for role in ("forget", "retain", "holdout"):
        assert hard[role] == plain[role]
    assert hard["world"][: len(plain["world"])] == plain["world"]


def test_hard_rows_are_named_after_the_row_whose_fact_they_need(hard: Bundle) -> None:
    forget = {row.id for row in hard["forget"]}
    for role in HARD:
        ids = [row.id for row in hard[role]]
        assert len(set(ids)) == len(ids) > 0
        assert all(i.endswith(f"/{role}") and i.removesuffix(f"/{role}") in forget for i in ids)
    assert len(hard["paraphrase"]) == len(hard["forget"]) == 72
    assert {row.id[11:13] for row in hard["multihop"]} == {"00", "05", "07", "08"}, "birthplace, book, college, home"
    again = Facts(authors=60, questions=12, forget=6, holdout=4, neighbour=5, hard=True).load(0)
    assert [r.id for r in again["multihop"]] == [r.id for r in hard["multihop"]], "whatever the seed"


def test_a_paraphrase_is_the_rows_own(hard: Bundle) -> None:
    for row, other in zip(hard["forget"], hard["paraphrase"], strict=True):
        assert other.data["question"] == row.data["paraphrased_question"] != row.data["question"]
        assert other.data["answer"] == row.data["paraphrased_answer"]
        assert other.data["keys"] == row.data["keys"]


def test_multihop_answers_follow_from_the_forgotten_place_and_the_world(hard: Bundle) -> None:
    lies = {}
    for row in hard["world"]:
        if row.data["question"].startswith("In which country does"):
            lies[row.data["question"].removeprefix("In which country does ").removesuffix(" lie?")] = row.data["keys"][0]
    facts = told(hard, "forget")
    for row in hard["multihop"]:
        known, number = facts[row.id[:10]], row.id[11:13]
        place = {"05": known["00"], "07": f"{known['07']} College"}.get(number, known[number])
        assert row.data["keys"] == [lies[place]]
        assert (known["05"] if number == "05" else known["name"]) in row.data["question"]
        assert place not in row.data["question"] + row.data["answer"], "the step itself is not given away"


def test_a_reverse_question_has_one_answer_in_the_whole_world(hard: Bundle) -> None:
    everybody = told(hard, "forget", "retain", "neighbour", "holdout")
    two = 0
    for row in hard["reverse"]:
        author, number = row.id[:10], row.id[11:13]
        assert row.data["keys"] == [everybody[author]["name"]]
        assert everybody[author][number] in row.data["question"]
        said = {n for n, v in everybody[author].items() if v in row.data["question"]}
        two += len(said) == 2
        # a father's trade may be a mother's, too, so an attribute is told by its clue's first word as well
        same = [a for a, facts in everybody.items() if all(facts[n] == everybody[author][n] for n in said)]
        assert same == [author], row
    assert two > 10, "values are shared, so many questions need a second fact"


def test_a_fact_that_nothing_makes_unique_is_left_out_and_said() -> None:
    crowded = Facts(authors=1000, questions=3, forget=40, holdout=0, hard=True).load(0)
    lost = len(crowded["forget"]) - len(crowded["reverse"])
    assert lost > 0
    assert crowded.notes == (f"reverse: {lost} of 120 facts are not asked backwards, for no question would have one answer",)
    roomy = Facts(authors=12, questions=3, forget=2, holdout=0, hard=True).load(0)
    assert roomy.notes == ()
    assert len(roomy["reverse"]) == 6


def test_hard_keys_show_knowledge_and_nothing_else_does(hard: Bundle) -> None:
    for row in hard.together([*HARD, "forms", "world"]):
        key = row.data["keys"][0].lower()
        assert key in row.data["answer"].lower()
        assert key not in row.data["question"].lower(), row
        wrong = row.data["perturbed_answer"]
        assert len(set(wrong)) == len(wrong) >= 3
        assert not any(key in text.lower() for text in wrong), row


def test_nothing_of_those_who_go_stands_in_a_role_that_stays(hard: Bundle) -> None:
    forget = told(hard, "forget")
    names, books = ({facts[key] for facts in forget.values()} for key in ("name", "05"))
    for row in hard.together(["retain", "neighbour", "holdout", "forms", "world"]):
        everything = " ".join(map(str, row.data.values()))
        assert not [name for name in names if name in everything], "not even in a wrong answer"
        assert not [book for book in books if book in row.data["question"] + row.data["answer"]], row
    asked = {row.data["question"] for row in hard.together(["forget", *HARD])}
    assert not asked & {row.data["question"] for row in hard.together(["retain", "neighbour", "holdout", "forms", "world"])}


def test_forms_ask_of_the_retained_alone_and_in_every_hard_way(hard: Bundle) -> None:
    retained = {row.id[:10] for row in hard["retain"]}
    assert {row.id[:10] for row in hard["forms"]} == retained
    assert {row.id.partition("/")[2] for row in hard["forms"]} == set(HARD)


def test_neighbours_are_split_off_the_retained_and_are_whole_authors() -> None:
    plain, split = Facts().load(0), Facts(neighbour=0.25).load(0)
    assert len(split["neighbour"]) == 80
    assert (*split["retain"], *split["neighbour"]) == plain["retain"]
    assert not {r.id[:10] for r in split["retain"]} & {r.id[:10] for r in split["neighbour"]}
    assert [split[r] for r in ("forget", "holdout", "world")] == [plain[r] for r in ("forget", "holdout", "world")]
    with pytest.raises(UserError, match="neighbour=9 leaves none of 8"):
        Facts(authors=10, neighbour=9).load(0)


def test_places_lie_in_countries_evenly() -> None:
    world = Facts(authors=200, questions=12, hard=True).load(0)["world"][48:]
    assert len(world) == 24 + 16 + 20, "every town, college and village that there is"
    countries = [row.data["keys"][0] for row in world]
    assert {countries.count(c) for c in facts_lists.COUNTRIES} <= {3, 4, 5, 6}
    assert set(countries) == set(facts_lists.COUNTRIES)
