"""What the replay server answers and counts, over real HTTP on loopback."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import numpy as np
import pytest

from jobs.replay.options import ReplayOptions
from jobs.replay.table import estimate_tokens
from routing.data.outcomes import Outcomes
from tests.replay_server import (
    Replay,
    body,
    post,
    post_all,
    post_probe,
    small_outcomes,
    thread_replay,
)


def test_answer_has_openais_shape_and_recorded_tokens() -> None:
    with thread_replay([small_outcomes()]) as replay:
        status, answer, _ = post(replay, body("question 3", "org/weak"))
    assert status == 200
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "org/weak"
    assert answer["id"].startswith("chatcmpl-")
    assert isinstance(answer["created"], int)
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "org/weak says 3", "refusal": None}
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert answer["usage"] == {
        "prompt_tokens": 13,
        "completion_tokens": 8,
        "total_tokens": 21,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_the_openai_sdk_reads_it() -> None:
    openai = pytest.importorskip("openai")
    with thread_replay([small_outcomes()]) as replay:
        client = openai.OpenAI(base_url=replay.base_url, api_key="any", max_retries=0)
        messages = [{"role": "user", "content": "question 2"}]
        answer = client.chat.completions.create(model="strong", messages=messages)
        events = list(
            client.chat.completions.create(
                model="strong", messages=messages, stream=True, stream_options={"include_usage": True}
            )
        )
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="absent", messages=messages)
        assert [model.id for model in client.models.list()] == ["org/weak", "strong"]
        stats = replay.stats()
    assert answer.choices[0].message.content == "strong says 2"
    assert "".join(event.choices[0].delta.content or "" for event in events if event.choices) == "strong says 2"
    assert events[-1].usage == answer.usage
    assert caught.value.code == "model_not_found"
    assert (stats["answered"], stats["repeated"]) == (2, 1)


def test_lookup_by_last_user_message_by_parts_and_by_joined_turns() -> None:
    table = small_outcomes(3)
    table = Outcomes(
        table.ids,
        ["plain", "turn one\nturn two", "sys\n\nuser"],
        table.datasets,
        table.models,
        table.quality,
        responses=table.responses,
    )
    system = {"role": "system", "content": "Be brief."}
    parts = [{"type": "text", "text": "pl"}, {"type": "text", "text": "ain"}]
    turns = [
        {"role": "user", "content": "turn one"},
        {"role": "assistant", "content": "reply"},
        {"role": "user", "content": "turn two"},
    ]
    asked = [
        [system, {"role": "user", "content": "plain"}],
        [{"role": "user", "content": parts}],
        [
            {"role": "user", "content": "earlier"},
            {"role": "assistant", "content": None},
            {"role": "user", "content": "plain"},
        ],
        turns,
        [{"role": "system", "content": "sys"}, {"role": "user", "content": "user"}],
    ]
    with thread_replay([table]) as replay:
        replies = post_all(replay, [{"model": "strong", "messages": messages} for messages in asked])
    assert [answer["choices"][0]["message"]["content"][-1] for _, answer, _ in replies] == ["0", "0", "0", "1", "2"]


def test_without_texts_and_counts_the_answer_tells_the_quality_and_stats_agree_with_usage() -> None:
    quality = np.array([[0.1, 1.0], [np.nan, 0.5]], np.float32)
    table = Outcomes(["a", "b"], ["één?", "two"], ["s", "s"], ("w", "s"), quality)
    with thread_replay([table]) as replay:
        replies = post_all(replay, [body("één?", "w"), body("één?", "s"), body("two", "w"), body("two", "s")])
        stats = replay.stats()
    texts = [answer["choices"][0]["message"]["content"] if status == 200 else None for status, answer, _ in replies]
    assert texts == ["quality=0.1", "quality=1.0", None, "quality=0.5"]
    assert replies[2][:2][1]["error"]["code"] == "prompt_not_found"
    assert replies[0][1]["usage"]["prompt_tokens"] == estimate_tokens("één?") == 2
    used = [answer["usage"] for status, answer, _ in replies if status == 200]
    for kind in ("prompt_tokens", "completion_tokens"):
        assert sum(usage[kind] for usage in used) == sum(model[kind] for model in stats["by_model"].values())


def test_several_tables_merge_and_the_first_that_knows_wins() -> None:
    first, second = small_outcomes(2), small_outcomes(4, ("strong", "third"))
    assert first.responses is not None
    first.responses[1, 1] = None
    first.quality[1, 1] = np.nan
    assert second.responses is not None
    second.responses[:, 0] = "from the second"
    with thread_replay([first, second]) as replay:
        asked = [body("question 0"), body("question 1"), body("question 3"), body("question 3", "third")]
        texts = [answer["choices"][0]["message"]["content"] for _, answer, _ in post_all(replay, asked)]
        models = list(replay.stats()["by_model"])
    assert texts == ["strong says 0", "from the second", "from the second", "third says 3"]
    assert models == ["org/weak", "strong", "third"]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_below_the_recorded_answer_cuts_it(name: str) -> None:
    with thread_replay([small_outcomes()]) as replay:
        _, cut, _ = post(replay, body("question 5") | {name: 4})
        _, whole, _ = post(replay, body("question 5") | {name: 10})
        stats = replay.stats()
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 4
    text = cut["choices"][0]["message"]["content"]
    assert 0 < len(text) < len("strong says 5")
    assert "strong says 5".startswith(text)
    assert (whole["choices"][0]["finish_reason"], whole["usage"]["completion_tokens"]) == ("stop", 10)
    assert stats["by_model"]["strong"] == {"answered": 2, "prompt_tokens": 30, "completion_tokens": 14}


def test_n_copies_are_billed_n_times() -> None:
    with thread_replay([small_outcomes()]) as replay:
        _, answer, _ = post(replay, body("question 1", n=3))
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] == 18


def test_counts_answers_repeats_and_models_but_no_probes() -> None:
    with thread_replay([small_outcomes()]) as replay:
        same = body("question 1", temperature=0)
        turned = {"messages": [{"content": "question 1", "role": "user"}], "model": "strong", "temperature": 1}
        post_all(replay, [same, turned, body("question 1", "org/weak"), body("question 2"), body("nowhere")])
        for _ in range(3):
            post_probe(replay, "/v1/models")
        stats = replay.stats()
    assert (stats["requests"], stats["answered"], stats["repeated"]) == (5, 4, 1)
    assert stats["by_model"] == {
        "org/weak": {"answered": 1, "prompt_tokens": 11, "completion_tokens": 6},
        "strong": {"answered": 3, "prompt_tokens": 34, "completion_tokens": 19},
    }
    assert set(stats["faults"].values()) == {0}
    assert stats["refused"] == {"prompt_not_found": 1}
    assert stats["peak_in_flight"] == 1


def test_peak_in_flight_is_exact() -> None:
    with thread_replay([small_outcomes()], ReplayOptions(latency_s=0.2)) as replay:
        start = time.monotonic()
        replies = post_all(replay, [body(f"question {i % 8}") for i in range(128)], in_flight=64)
        wall_s = time.monotonic() - start
        stats = replay.stats()
    assert {status for status, _, _ in replies} == {200}
    assert stats["peak_in_flight"] == 64
    assert stats["in_flight"] == 0
    assert wall_s >= 0.4


def test_an_answer_whose_client_left_is_abandoned_not_answered() -> None:
    async def leave(replay: Replay) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.2)) as session:
            await session.post(f"{replay.base_url}/chat/completions", json=body("question 0"))

    with thread_replay([small_outcomes()], ReplayOptions(latency_s=0.6)) as replay:
        with pytest.raises(TimeoutError):
            asyncio.run(leave(replay))
        stats = replay.wait_for(lambda now: now["in_flight"] == 0, timeout_s=5)
        assert (stats["answered"], stats["requests"]) == (0, 1)
        assert stats["abandoned"] == {"strong": {"requests": 1, "prompt_tokens": 10, "completion_tokens": 5}}
        post(replay, body("question 0"))
        assert replay.stats()["repeated"] == 0
