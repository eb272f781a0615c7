"""Gold as data sets write it: lists of accepted answers, floats for whole numbers, numbers of options, letters with words."""

from __future__ import annotations

import math

import pytest

from routing.answers.choices import chosen_letter, chosen_number
from routing.answers.matching import accepted_answers, make_comparer, make_matcher, match
from routing.errors import RoutingError


@pytest.mark.parametrize(
    ("kind", "answer", "gold", "equal"),
    [
        ("exact", "3", "3.0", 1),
        ("exact", "3.0", "3", 1),
        ("exact", "-3.", "-3.0", 1),
        ("exact", "3.1", "3", 0),
        ("exact", "1.10", "1.1", 0),
        ("exact", "007", "7", 0),
        ("exact", "Paris", '["Paris", "City of Paris"]', 1),
        ("exact", "city of paris.", '["Paris", "City of Paris"]', 1),
        ("exact", "Lyon", '["Paris", "City of Paris"]', 0),
        ("exact", '["a", "b"]', '["a", "b"]', 1),
        ("exact", "3", "[3.0]", 1),
        ("exact", "true", "[true]", 1),
        ("numeric", "It is 18", "[17, 18]", 1),
        ("numeric", "It is 17", '["17", "18"]', 1),
        ("numeric", "It is 19", "[17, 18]", 0),
        ("multiple_choice", "The answer is B", '["B"]', 1),
        ("multiple_choice", "The answer is B", '["A", "C"]', 0),
        ("regex", "order 66", '["order \\\\d+", "none"]', 1),
        ("regex", "7", "[0-9]", 1),
        ("json:a", '{"a": "x"}', '["x", "y"]', 1),
        ("json:a", '{"a": ["x", "y"]}', '["x", "y"]', 1),
        ("json:a", '{"a": ["x"]}', '["x", "y"]', 0),
    ],
)
def test_forms_of_gold(kind: str, answer: str, gold: str, equal: float) -> None:
    assert match(kind, answer, gold) == equal


def test_what_is_no_list_of_answers() -> None:
    for gold in ("[B]", "[", "[]", '[{"a": 1}]', '[["a"]]', "Paris", '["a"'):
        assert accepted_answers(gold) == ()
    assert math.isnan(match("exact", "x", '[""]')) or match("exact", "x", '[""]') == 0


@pytest.mark.parametrize(
    "gold", ["Option B", "option b", "Answer: B", "The answer is (B)", "Choice (B)", "b", "(b)", "[B]", "B:"]
)
def test_letters_with_words_around_them(gold: str) -> None:
    assert match("multiple_choice", "The answer is (B).", gold) == 1
    assert match("multiple_choice", "The answer is (C).", gold) == 0


@pytest.mark.parametrize(
    ("answer", "letter"), [("b) Paris", "B"), ("(b) Paris", "B"), ("The answer is (b).", "B"), ("a dog", None)]
)
def test_small_letters_in_brackets(answer: str, letter: str | None) -> None:
    assert chosen_letter(answer) == letter


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("2", "2"), ("(2)", "2"), ("2.", "2"), ("2.0", "2"), ("2. London", "2"), ("The answer is 2.", "2"),
        ("The answer is option 2", "2"), ("**Answer:** 2) London", "2"), ("\\boxed{2}", "2"), ("02", "02"),
        ("1. Paris\n2. London", None), ("The answer is 2.5", None), ("The answer is 2/3", None), ("two", None), ("B", None),
    ],
)  # fmt: skip
def test_options_with_numbers(answer: str, number: str | None) -> None:
    assert chosen_number(answer) == number
    assert match("multiple_choice", answer, "2") == (number == "2")


def test_gold_may_count_the_letters() -> None:
    for first, gold in ((0, "2"), (1, "3"), (0, "2.0")):
        assert match(f"multiple_choice:{first}", "The answer is C", gold) == 1
        assert match(f"multiple_choice:{first}", "The answer is B", gold) == 0
        assert match(f"multiple_choice:{first}", "The answer is B", "B") == 1
    assert math.isnan(match("multiple_choice:1", "A", "0")) and math.isnan(match("multiple_choice:0", "A", "26"))
    assert make_comparer("multiple_choice:0")("The answer is C", "C") == 1
    with pytest.raises(RoutingError, match="multiple_choice"):
        make_matcher("multiple_choice:2")
