"""Where a thought ends and the answer begins, in the forms that models and servers write; and texts that only speak of it."""

from __future__ import annotations

import time

import numpy as np
import pytest

from routing.answers.checks import answer_checks
from routing.answers.features import RESPONSE, extracted_answers, response_features
from routing.answers.llm_judge import parse_rating, parse_winner
from routing.answers.matching import make_comparer, match
from routing.answers.thinking import behind_thinking, has_thought, is_within_thinking, opens_thinking

THOUGHT = "Paris? No, (C) is larger. The answer is (C), 17."
ANSWERED = [
    f"<think>{THOUGHT}</think>B",
    f"<think>\n{THOUGHT}\n</think>\n\nB",
    f"\n <think>\n{THOUGHT}\n</think>\n\nB",
    f"<THINK>{THOUGHT}</THINK> B",
    f"<thinking>{THOUGHT}</thinking>\nB",
    f"<thought>{THOUGHT}</thought>\n<output>B</output>",
    f"<reasoning>\n{THOUGHT}\n</reasoning>\n<answer>\nB\n</answer>",
    f"<seed:think>{THOUGHT}</seed:think>B",
    f"<|begin_of_thought|>\n{THOUGHT}\n<|end_of_thought|>\n<|begin_of_solution|>\nB\n<|end_of_solution|>",
    f"<|START_THINKING|>{THOUGHT}<|END_THINKING|><|START_RESPONSE|>B<|END_RESPONSE|>",
    f"[THINK]{THOUGHT}[/THINK]B",
    f"◁think▷{THOUGHT}◁/think▷B",
    f"<unused94>thought\n{THOUGHT}<unused95>B",
    f"Here is my thought process:\n{THOUGHT}\nHere is my response:\nB",
    f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>B<|return|>",
    f"<|start|>assistant<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant"
    "<|channel|>final <|constrain|>json<|message|>B",
    f"analysis{THOUGHT}assistantfinalB",
    f"{THOUGHT}\n</think>\n\nB",
    f"{THOUGHT}</think>B",
    f"{THOUGHT}</think> B",
    f"{THOUGHT} </think> B",
    "I will answer it</think> B",
    f"{THOUGHT}\n[/THINK]\nB",
    f"<think>{THOUGHT}</think><think>once more: (C)</think>B",
    f"<think>I must end with `</think>` here. {THOUGHT}</think>B",
    "<think>\n\n</think>\n\nB",
    f"<think>I close it with </think> at the end. {THOUGHT}\n</think>\nB",
    "</think>B",
]


@pytest.mark.parametrize("text", ANSWERED)
def test_the_answer_stands_behind_the_thought(text: str) -> None:
    assert behind_thinking(text) == "B"


NEVER_ENDED = [
    f"<think>\n{THOUGHT}",
    f"<thinking>{THOUGHT}",
    f"[THINK]{THOUGHT}",
    f"<|channel|>analysis<|message|>{THOUGHT}",
    f"<think>{THOUGHT}</think>",
    f"{THOUGHT}\n</think>\n",
    f"<think>{THOUGHT}</think><think>and again",
]


@pytest.mark.parametrize("text", NEVER_ENDED)
def test_a_thought_that_never_ends_is_no_answer(text: str) -> None:
    assert behind_thinking(text) == "" and has_thought(text)


SPEAKS_OF_IT = [
    "B",
    "",
    "Use the </think> tag to close the block.",
    "Reasoning models end their block with `</think>` and go on.",
    'The mark "</think>" comes last.',
    "Close it with </think>.",
    "R1 writes <think>its thoughts</think> before the answer.",
    "<think> is the tag that R1 opens with; </think> closes it.",
    "Example:\n```\nsome thought\n</think>\nanswer\n```\nThat is all.",
    "`<think>` opens a block.",
    "I think (B) is right.",
    "analysis of the final assistant: B",
    "The analysis says B, assistantfinal is no word.",
    "Let me think about the </think> and <think> tags.",
]


@pytest.mark.parametrize("text", SPEAKS_OF_IT)
def test_a_text_that_speaks_of_such_marks_is_kept_whole(text: str) -> None:
    assert behind_thinking(text) == text and not has_thought(text)


def test_an_empty_block_is_no_thought() -> None:
    assert not has_thought("<think>\n\n</think>\n\n") and not has_thought("<think>")
    assert behind_thinking("<think>\n\n</think>") == ""


def test_a_prompt_may_open_the_block_itself() -> None:
    assert opens_thinking("<|im_start|>assistant\n<think>\n") and opens_thinking("<assistant>[THINK]")
    assert not opens_thinking("<|im_start|>assistant\n<think>\n\n</think>\n\n") and not opens_thinking("<assistant>")
    assert is_within_thinking("still at it") and not is_within_thinking("done.</think>B")


def test_gold_looks_behind_the_thought() -> None:
    text = "<think>18? The answer is (C) 18.</think>The answer is (B): 17"
    assert match("multiple_choice", text, "B") == 1 and match("multiple_choice", text, "C") == 0
    assert match("numeric", "<think>so 17</think>It is 18", "18") == 1
    assert match("numeric", "<think>#### 18</think>17", "18") == 0
    assert match("exact", "<think>Lyon?</think>\n\nParis", "paris") == 1
    assert match("regex", "<think>Lyon?</think>Paris", "Lyon") == 0
    assert match("json:a", '<think>{"a": 1}</think>{"a": 2}', "2") == 1
    assert match("exact", "<think>Paris", "Paris") == 0


def test_a_pattern_sees_the_form_it_asks_for() -> None:
    text = "<thinking>B?</thinking>\n<answer>C</answer>"
    assert match("regex", text, "<answer>C</answer>") == 1 and match("multiple_choice", text, "C") == 1


def test_a_block_that_the_prompt_asked_for_may_be_the_answer() -> None:
    assert behind_thinking("<reasoning>so (B)</reasoning>") == "<reasoning>so (B)</reasoning>"
    assert behind_thinking("<reasoning>so (B)") == ""


def test_agreement_looks_behind_the_thought() -> None:
    same = make_comparer("exact")
    assert same("<think>one way</think>Paris", "<think>another</think>Paris") == 1
    assert same("<think>Paris", "<think>Paris") == 0, "neither has an answer"
    texts = np.array(["<think>(A)? (C)</think>The answer is (B)", "B", "<think>no end (B)"], object)
    assert extracted_answers(texts).tolist() == ["B", "B", None]


def test_features_are_those_of_the_answer() -> None:
    prompts = ["What is 2 + 2?\nA. 3\nB. 4"] * 2
    plain, thought = "The answer is B.", "<think>Wait, maybe 2 + 2 = 5. However …</think>\n\nThe answer is B."
    features = response_features(prompts, [plain, thought])
    np.testing.assert_array_equal(features[0], features[1])
    np.testing.assert_array_equal(*answer_checks(prompts, [plain, thought]))
    assert response_features(prompts[:1], ["<think>no end"])[0, RESPONSE.index("empty")] == 1


def test_a_judge_that_thinks_aloud_is_read_behind_it() -> None:
    assert parse_rating('<think>{"rating": 3}</think>{"rating": 8}') == 8
    assert np.isnan(parse_rating('<think>perhaps {"rating": 3}'))
    assert parse_winner("<think>winner: A</think>[[B]]") == 0


@pytest.mark.parametrize(
    "piece", ["</think> is ", "`</think>` ", "<think>", "<think></think>", "<|channel|>final", "\n"]
)
def test_a_text_that_loops_costs_nothing(piece: str) -> None:
    began = time.perf_counter()
    for start in ("", "<think>", "analysisx"):
        behind_thinking(start + piece * 20_000)
    assert time.perf_counter() - began < 2
