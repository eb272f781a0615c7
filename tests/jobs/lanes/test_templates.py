"""Chat templates that do not take every role, that think, or that take variables: what the model reads, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.lanes.base import RowHead
from jobs.lanes.local.doubts import Doubts
from jobs.lanes.local.gpu_clock import GpuClock
from jobs.lanes.local.model_source import prompt_token_counter
from jobs.lanes.local.rows import AnswerWriter, RequestReader
from jobs.lanes.local.templates import ChatTemplate
from jobs.lanes.local.transformers import TransformersLane
from jobs.lanes.replies import Completion
from jobs.lanes.usage import Usage
from jobs.money.governor import GovernorService
from tests.local_governor import local_governor
from tests.tiny_models import ask_rows, char_tokenizer, lane_context, tiny_checkpoint

TURNS = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% endfor %}"
    + TURNS
)
MISTRAL = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% endfor %}"
    + TURNS
)
SILENT = "{% for m in messages if m['role'] != 'system' %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
QWEN = TURNS + "{% if enable_thinking is defined and not enable_thinking %}[/off]{% else %}<think>\n{% endif %}"
PARTS = (
    "{% for m in messages %}<{{ m['role'] }}>{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% endfor %}<assistant>"
)
DEAF = "{% for m in messages %}<{{ m['role'] }}>{{ m['text'] }}{% endfor %}<assistant>"
REFUSES = "{{ raise_exception('Only for tools') }}"
TRIPS = "{{ messages[0]['content'].nothing.there }}"

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Why?"}
SAID = {"role": "assistant", "content": "So."}


def template(text: str, **variables: Any) -> ChatTemplate:
    tokenizer = char_tokenizer()
    tokenizer.chat_template = text
    return ChatTemplate(tokenizer, variables)


@pytest.mark.parametrize(
    ("text", "why"), [(GEMMA, "refuses"), (MISTRAL, "refuses"), (SILENT, "ignores"), (TURNS, "takes")]
)
def test_a_system_text_reaches_the_model_whatever_its_template_takes(text: str, why: str) -> None:
    made = template(text)
    assert made.system == why
    wanted = "<system>Be brief.<user>Why?" if why == "takes" else "<user>Be brief.\n\nWhy?"
    assert made.render([SYSTEM, USER]) == wanted + "<assistant>"
    assert made.render([{**SYSTEM, "role": "developer"}, USER]) == wanted + "<assistant>"
    assert made.render([USER]) == "<user>Why?<assistant>"
    parts = [{**SYSTEM, "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]}, USER]
    assert made.render(parts) == wanted + "<assistant>"


def test_a_template_that_reads_parts_gets_parts() -> None:
    made = template(PARTS)
    assert made.system == "takes" and made.notes([[SYSTEM, USER]]) == []
    assert made.render([SYSTEM, USER]) == "<system>Be brief.<user>Why?<assistant>"


def test_later_system_texts_and_empty_ones() -> None:
    made = template(GEMMA)
    assert made.render([SYSTEM, USER, SAID, {**SYSTEM, "content": "Now in French."}, USER]) == (
        "<user>Be brief.\n\nWhy?<assistant>So.<user>Now in French.\n\nWhy?<assistant>"
    )
    assert made.render([{**SYSTEM, "content": ""}, USER]) == "<user>Why?<assistant>"
    assert made.render([USER, {**SYSTEM, "content": "In French."}]) == "<user>Why?\n\nIn French.<assistant>"


def test_messages_of_one_role_in_a_row_are_joined_where_the_template_wants_turns() -> None:
    chat = [USER, {"role": "user", "content": "And how?"}]
    assert template(GEMMA).render(chat) == "<user>Why?\n\nAnd how?<assistant>"
    assert template(TURNS).render(chat) == "<user>Why?<user>And how?<assistant>", "and nowhere else"
    with pytest.raises(ValueError, match="must alternate"):
        template(GEMMA).render([SAID, USER])


def test_what_is_done_otherwise_is_said() -> None:
    assert template(TURNS).notes([[SYSTEM, USER]]) == []
    assert template(GEMMA).notes([[USER]]) == []
    (note,) = template(GEMMA).notes([[USER], [SYSTEM, USER]])
    assert note == "its chat template takes no system message: the text stands in front of the next user turn"
    (note,) = template(SILENT).notes([[SYSTEM, USER]])
    assert "leaves a system message out" in note
    (note,) = template(GEMMA).notes([[USER, USER]])
    assert "in a row are joined" in note
    (note,) = template(GEMMA).notes([[USER], [SAID, USER]])
    assert note.startswith(
        "1 of the first 2 requests would be errors: the model's chat template refuses these messages:"
    )
    (note,) = template(QWEN, enable_thnking=False).notes([[USER]])
    assert note.startswith("sampling.chat_template_kwargs.enable_thnking changes nothing")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DEAF, "leaves the user's text out"),
        (REFUSES, "Only for tools"),
        (TRIPS, "chat template"),
        (GEMMA, "must alternate"),
    ],
    ids=str,
)
def test_a_template_that_refuses_every_request_ends_the_job_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    context = lane_context(
        "transformers", checkpoint(tmp_path, text), tmp_path, examples=([SAID, USER], [SAID, SYSTEM])
    )
    found = TransformersLane().check(context)
    assert not found.ok and said in found.detail and found.detail.startswith("models.weak.source: ")
    assert "use a model whose template" in found.detail and "\n" not in found.detail


def checkpoint(folder: Path, text: str) -> Path:
    made = tiny_checkpoint(folder / "model")
    (made / "chat_template.jinja").write_text(text)
    return made


def test_the_look_before_the_run_says_it_and_the_rows_are_asked(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, GEMMA)
    context = lane_context("transformers", source, tmp_path, examples=([SYSTEM, USER],))
    found = TransformersLane().check(context)
    assert found.ok and found.notes == (
        "its chat template takes no system message: the text stands in front of the next user turn",
    )
    rows = ask_rows(["", ""], messages=[json.dumps([SYSTEM, USER]), json.dumps([USER])])
    first, second = RequestReader(context).read(rows.to_pylist())
    assert not first.error and not second.error
    assert len(first.token_ids) == len(second.token_ids) + len("Be brief.\n\n")
    counter = prompt_token_counter(context.model)
    assert counter is not None and counter([[SYSTEM, USER], [USER]]) == [len(first.token_ids), len(second.token_ids)]


def test_variables_reach_the_template_the_counts_and_the_answer_key(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, QWEN)
    keys, lengths = set(), []
    for variables in ({}, {"chat_template_kwargs": {"enable_thinking": False}}):
        context = lane_context("transformers", source, tmp_path, sampling={"max_tokens": 16} | variables)
        assert TransformersLane().check(context).ok
        (request,) = RequestReader(context).read(ask_rows(["Why?"]).to_pylist())
        keys.add(request.head.answer_key)
        lengths.append(len(request.token_ids))
        assert request.opened == (not variables)
        counter = prompt_token_counter(context.model, context.sampling.get("chat_template_kwargs"))
        assert counter is not None and counter([[USER]]) == lengths[-1:]
    assert len(keys) == 2 and lengths[0] - lengths[1] == len("<think>\n") - len("[/off]")


def test_a_rows_own_variables_win_and_wrong_ones_are_its_error(tmp_path: Path) -> None:
    context = lane_context("transformers", checkpoint(tmp_path, QWEN), tmp_path)
    bodies = [{"enable_thinking": False}, "off", {"tokenize": True}]
    rows = ask_rows(["a", "a", "a"], body=[json.dumps({"chat_template_kwargs": body}) for body in bodies])
    off, text, wrong = RequestReader(context).read(rows.to_pylist())
    assert not off.error and not off.opened
    assert "chat_template_kwargs is no variable" in text.error and "chat_template_kwargs.tokenize" in wrong.error


def test_an_unknown_parameter_may_be_a_templates(tmp_path: Path) -> None:
    sampling = {"max_tokens": 4, "enable_thinking": False}
    found = TransformersLane().check(
        lane_context("transformers", checkpoint(tmp_path, QWEN), tmp_path, sampling=sampling)
    )
    assert not found.ok and "sampling.enable_thinking is no parameter" in found.detail
    assert "sampling.chat_template_kwargs" in found.detail


def test_an_engine_here_knows_a_thought_that_never_ends(tmp_path: Path) -> None:
    """The template opens the block, so that nothing in the text tells."""
    context = lane_context("transformers", checkpoint(tmp_path, QWEN), tmp_path)
    (request,) = RequestReader(context).read(ask_rows(["Why?"]).to_pylist())
    writer = AnswerWriter(context, GpuClock(0))
    head, usage = RowHead(7, 0, False, bytes(16)), Usage(10, 16)
    thinks, told = (
        writer.answered(head, Completion(text, reason, usage, opened=request.opened), 1.0)
        for text, reason in (("I wonder", "length"), ("I wonder</think>So.", "stop"))
    )
    assert thinks.is_empty and thinks.error.startswith(
        "empty answer, 16 reasoning tokens: max_tokens went on reasoning"
    )
    assert thinks.cost_usd == pytest.approx((10 * 1.0 + 16 * 2.0) / 1e6)
    assert told.kind == "answered" and told.generated_text == "I wonder</think>So."
    service = GovernorService(context.output, "s1", None, {"weak": context.model.limits})
    doubts = Doubts(replace(context, governor=local_governor(service)), "a1")
    assert doubts.sift([thinks]) == [thinks], (
        "it has answered, if with nothing: no refusal that could be the form's fault"
    )
    progress = writer.settle([thinks, told]).to_pylist()[0]
    assert (progress["settled"], progress["errors"], progress["empty"]) == (2, 1, 1)
