"""Chats in Parquet and in JSON lines are one chat: what a struct fills up with nulls was never said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.jobs.route.carried import Carried, carried, write_jsonl

CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern", "unit": null}'}}
CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "hello"}],
    [{"role": "system", "content": "Be short.", "name": "rules"}, {"role": "user", "content": "hello"}],
    [
        {"role": "user", "content": "how is the weather?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
    ],
    [{"content": "fields in another order", "role": "user"}],
    [{"role": "assistant", "content": "a", "refusal": None}, {"role": "user", "content": "b"}],
]  # fmt: skip
PARTS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": "data:x"}}]}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:y", "detail": "low"}}]}],
    [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}}]}],
    [{"role": "user", "content": [{"text": "what is it?", "type": "text"}]}],
]  # fmt: skip


def both(tmp_path: Path, chats: list[Any], kind: pa.DataType | None = None) -> tuple[Carried, Carried]:
    """The chats read from JSON lines and from Parquet."""
    ids = [str(i) for i in range(len(chats))]
    write_jsonl(
        tmp_path / "lines/in/a.jsonl", [{"id": i, "messages": chat} for i, chat in zip(ids, chats, strict=True)]
    )
    (tmp_path / "table/in").mkdir(parents=True)
    pq.write_table(pa.table({"id": ids, "messages": pa.array(chats, kind)}), tmp_path / "table/in/a.parquet")
    lines, table = (carried(tmp_path / name, {"id": "id"}) for name in ("lines", "table"))
    return lines, table


@pytest.mark.parametrize("chats", [CHATS, PARTS], ids=["tools", "parts"])
def test_twins_have_one_content_key(tmp_path: Path, chats: list[Any]) -> None:
    lines, table = both(tmp_path, chats)
    assert lines.errors == table.errors == [""] * len(chats)
    assert lines.scored["content_key"].to_pylist() == table.scored["content_key"].to_pylist()
    sent = [[json.loads(text) for text in each.scored["messages"].to_pylist()] for each in (lines, table)]
    assert sent[0] == sent[1] and "null" not in json.dumps(sent).replace('\\"unit\\": null', "")


def test_a_lines_own_nulls_are_dropped_too_and_its_text_is_not_touched(tmp_path: Path) -> None:
    full = {"type": "text", "text": "null", "image_url": None, "input_audio": {"data": None}}
    lean = {"type": "text", "text": "null"}
    chats = [[{"role": "user", "content": [part], "name": None}] for part in (full, lean)]
    keys = both(tmp_path, chats)[0].scored["content_key"].to_pylist()
    assert keys[0] == keys[1]


def test_fields_in_another_order_are_the_same_chat(tmp_path: Path) -> None:
    chats = [
        [{"content": "a", "role": "user", "name": None}],
        [{"role": "user", "content": "a"}],
        [{"content": "a", "role": "user"}],
    ]
    for made in both(tmp_path, chats):
        assert len(set(made.scored["content_key"].to_pylist())) == 1


def test_a_call_without_arguments_stays_one(tmp_path: Path) -> None:
    calls = [{"function": {"name": name, "arguments": arguments}} for name, arguments in (("a", {"x": 1}), ("b", {}))]
    chat = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "tool_calls": calls},
        {"role": "user", "content": "b"},
    ]
    lines, table = both(tmp_path, [chat])
    assert json.loads(table.scored["messages"][0].as_py()) == chat == json.loads(lines.scored["messages"][0].as_py())


def test_lists_keep_their_nulls(tmp_path: Path) -> None:
    calls = [{"function": {"name": "a", "arguments": {"xs": [1, None]}}}]
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "tool_calls": calls}]
    assert json.loads(both(tmp_path, [chat])[1].scored["messages"][0].as_py())[1]["tool_calls"] == calls


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.map_(pa.string(), pa.string())),
        pa.large_list(pa.struct([("role", pa.dictionary(pa.int8(), pa.string())), ("content", pa.binary())])),
        pa.list_(pa.struct([("role", pa.large_string()), ("content", pa.string()), ("name", pa.string())])),
    ],
    ids=["map", "bytes", "large"],
)
def test_other_ways_to_hold_a_chat_are_the_chat(tmp_path: Path, kind: pa.DataType) -> None:
    chats = [
        [{"role": "user", "content": "zwölf"}],
        [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}],
    ]
    as_kind = [[list(m.items()) for m in chat] for chat in chats] if pa.types.is_map(kind.value_type) else chats
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"messages": pa.array(as_kind, kind)}), tmp_path / "in/a.parquet")
    made = carried(tmp_path, {})
    assert [json.loads(text) for text in made.scored["messages"].to_pylist()] == chats


def test_batch_lines_have_twins_as_well(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "string"}}}}}
    other = {"type": "function", "function": {"name": "g", "parameters": {"properties": {"b": {"type": "string"}}}}}
    bodies = [{"model": "m", "messages": CHATS[0], "tools": [each], "top_p": 0.5} for each in (tool, other)]
    lines = [{"custom_id": str(i), "body": body} for i, body in enumerate(bodies)]
    write_jsonl(tmp_path / "lines/in/a.jsonl", lines)
    (tmp_path / "table/in").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(lines), tmp_path / "table/in/a.parquet")
    made = [carried(tmp_path / name, {}).scored for name in ("lines", "table")]
    assert made[0]["content_key"].to_pylist() == made[1]["content_key"].to_pylist()
    assert json.loads(made[1]["body"][1].as_py()) == {"tools": [other], "top_p": 0.5}


def test_a_null_in_the_schema_of_a_batch_line_stays(tmp_path: Path) -> None:
    shape = {
        "type": "json_schema",
        "json_schema": {"schema": {"properties": {"a": {"enum": ["x", None], "default": None}}}},
    }
    write_jsonl(tmp_path / "in/a.jsonl", [{"custom_id": "a", "body": {"messages": CHATS[0], "response_format": shape}}])
    assert json.loads(carried(tmp_path, {}).scored["body"][0].as_py()) == {"response_format": shape}


def test_what_json_has_not_is_the_rows_error(tmp_path: Path) -> None:
    parts = [[{"type": "text", "text": "a", "weight": value}] for value in (float("inf"), 1.0, float("nan"))]
    lines, table = both(tmp_path, [[{"role": "user", "content": each}] for each in parts])
    assert lines.errors == table.errors == ["the messages hold a value that is no JSON", "", ""]
