"""Whatever bytes come in from outside, what comes out is a row, a row's error, or one line for a person: never a traceback.

Three borders: the job file, the input files (as their raw bytes, and as well-formed files full of odd values), and what
an API sends back. `test_spec`, `test_prompts` and `test_requests` look at the same borders by value.
"""

import contextlib
import datetime
import decimal
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jobs.errors import HeadgateError, SpecError
from jobs.lanes.faults import MESSAGE_CHARS, clean, diagnose
from jobs.lanes.providers.errors import read_error
from jobs.lanes.providers.waits import retry_after_s, stated_limits
from jobs.lanes.replies import Completion, ReplyError, parse_completion
from jobs.route.score.files import list_files
from jobs.route.score.stage import plan_score, read_split
from jobs.spec.loader import load_spec, parse_spec

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MODELS = {"a": {"engine": "vllm", "source": "s"}, "b": {"engine": "openai"}}
JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
SURROGATES = st.text(st.characters(min_codepoint=0xD7F0, max_codepoint=0xE010), min_size=1, max_size=4)


def read_whole(path, **more) -> list[pa.Table]:
    """The score stage up to the router. Raises HeadgateError."""
    names = {"prompt": "q", "id": "id", "keep": ["n"]}
    data = {
        "input": {"path": str(path), **names}, "output": "o", "router": "random", "models": MODELS, "weak": "a", "strong": "b",
        "policy": {"strong_share": 0.5}, "quality": {"gold": {"column": "gold", "match": "exact"}}, **more,
    }  # fmt: skip
    spec = parse_spec(data)
    files = list_files(spec.input)
    return list(read_split(0, range(len(files)), plan_score(spec, files)))


def rows_or_one_line(path, **more) -> list[dict]:
    """Rows as the stage writes them; [] where the set is refused, in one line."""
    try:
        return [row for table in read_whole(path, **more) for row in table.to_pylist()]
    except HeadgateError as refused:
        said = str(refused)
    assert said and "\n" not in said and said.encode()
    return []


@QUICK
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_job_or_a_spec_error(tmp_path, data):
    (tmp_path / "job.yaml").write_bytes(data)
    with pytest.raises(SpecError) as refused:
        load_spec(str(tmp_path / "job.yaml"))
    assert "\n" not in str(refused.value) and str(refused.value).encode()


@QUICK
@example(data=b"\x80\r\x00", suffix="csv")  # a byte that is no UTF-8 in a header that is quoted
@given(
    data=st.binary(max_size=300), suffix=st.sampled_from(["parquet", "jsonl", "csv", "jsonl.gz", "csv.zst", "csv.bz2"])
)
def test_any_bytes_as_input_are_rows_or_one_line(tmp_path, data, suffix):
    path = tmp_path / f"fuzz.{suffix}"
    path.write_bytes(data)
    rows_or_one_line(path)


@QUICK
@given(data=st.binary(max_size=120))
def test_any_bytes_below_a_csv_header_are_rows(tmp_path, data):
    path = tmp_path / "fuzz.csv"
    path.write_bytes(b"id,q,n,gold\n1,what,2,3\n" + data)
    rows = rows_or_one_line(path)
    assert not rows or rows[0]["input_error"] == ""


@QUICK
@given(
    lines=st.lists(
        st.one_of(
            st.binary(max_size=40),
            JSONISH,
            st.fixed_dictionaries({"id": JSONISH, "q": JSONISH, "n": JSONISH, "gold": JSONISH}),
        ),
        max_size=4,
    )
)
def test_any_line_of_jsonl_costs_only_itself(tmp_path, lines):
    good = {"id": "good", "q": "what is it", "n": 1, "gold": "x"}
    raw = [
        line.replace(b"\n", b" ").replace(b"\r", b" ") if isinstance(line, bytes) else json.dumps(line).encode()
        for line in lines
    ]
    path = tmp_path / "fuzz.jsonl"
    path.write_bytes(b"\n".join([json.dumps(good).encode(), *raw]))
    rows = rows_or_one_line(path)
    assert rows and rows[0]["id"] == "good" and rows[0]["input_error"] == ""


@QUICK
@given(text=SURROGATES, field=st.sampled_from(["id", "q", "n", "gold"]))
def test_half_a_surrogate_pair_costs_at_most_its_row(tmp_path, text, field):
    good = {"id": "good", "q": "what is it", "n": "1", "gold": "x"}
    path = tmp_path / "fuzz.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in (good, good | {"id": "other", field: text})))
    rows = rows_or_one_line(path)
    assert len(rows) == 2 and rows[0]["input_error"] == ""


PART = st.one_of(
    JSONISH, st.fixed_dictionaries({"type": JSONISH, "text": JSONISH}), st.fixed_dictionaries({"image_url": JSONISH})
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system", "tool"])},
    optional={"content": JSONISH | st.lists(PART, max_size=3), "name": JSONISH},
)


@QUICK
@given(
    messages=st.lists(MESSAGE, max_size=3), body=st.dictionaries(st.sampled_from(["n", "tools", "max_tokens"]), JSONISH)
)
def test_any_chat_costs_only_its_row(tmp_path, messages, body):
    good = [{"role": "user", "content": "what is it"}]
    path = tmp_path / "fuzz.jsonl"
    path.write_text(
        "\n".join(json.dumps({"id": str(i), "q": m, "n": 1, "gold": "x"}) for i, m in enumerate((good, messages)))
    )
    rows = rows_or_one_line(path, input={"path": str(path), "messages": "q", "id": "id"})
    assert len(rows) == 2 and rows[0]["input_error"] == ""
    lines = [{"custom_id": str(i), "gold": "x", "body": {"messages": m} | body} for i, m in enumerate((good, messages))]
    path.write_text("\n".join(map(json.dumps, lines)))
    rows = rows_or_one_line(path, input={"path": str(path), "format": "openai_batch"})
    assert len(rows) == 2


def test_parquet_messages_with_a_date_in_them_cost_only_their_rows(tmp_path):
    day = datetime.date(2026, 1, 1)
    chats = [[{"role": "user", "content": "what", "at": None}], [{"role": "user", "content": "what", "at": day}]]
    table = pa.table({"id": ["a", "b"], "q": chats, "n": [1, 2], "gold": ["x", "y"]})
    pq.write_table(table, tmp_path / "dated.parquet")
    rows = rows_or_one_line(
        tmp_path / "dated.parquet", input={"path": str(tmp_path / "dated.parquet"), "messages": "q"}
    )
    assert [bool(row["input_error"]) for row in rows] == [False, True]


ARROW_VALUES = {
    pa.date32(): [datetime.date(2026, 1, 1), None],
    pa.timestamp("ns"): [datetime.datetime(2026, 1, 1), None],
    pa.decimal128(10, 2): [decimal.Decimal("1.50"), None],
    pa.binary(): [b"\xff\x00", None],
    pa.list_(pa.timestamp("us")): [[datetime.datetime(2026, 1, 1)], None],
    pa.struct([("a", pa.binary())]): [{"a": b"\xff"}, None],
    pa.map_(pa.string(), pa.date32()): [[("a", datetime.date(2026, 1, 1))], None],
    pa.duration("ns"): [datetime.timedelta(1), None],
    pa.time64("ns"): [datetime.time(1), None],
    pa.null(): [None, None],
    pa.dictionary(pa.int8(), pa.string()): ["a", None],
}


@pytest.mark.parametrize("kind", ARROW_VALUES, ids=str)
@pytest.mark.parametrize("field", ["id", "q", "n", "gold"])
def test_any_type_of_a_parquet_column_is_rows_or_one_line(tmp_path, kind, field):
    columns = {"id": ["r0", "r1"], "q": ["what", "why"], "n": [1, 2], "gold": ["x", "y"]}
    columns[field] = pa.array(ARROW_VALUES[kind], kind)
    pq.write_table(pa.table(columns), tmp_path / "typed.parquet")
    rows = rows_or_one_line(tmp_path / "typed.parquet")
    assert len(rows) == 2


@pytest.mark.parametrize("field", ["id", "n", "gold"])
def test_dates_that_python_cannot_hold_cost_only_their_rows(tmp_path, field):
    days = pa.array([0, 10**7, None], pa.int32()).cast(pa.date32())
    columns = {"id": ["r0", "r1", "r2"], "q": ["what", "why", "when"], "n": [1, 2, 3], "gold": ["x", "y", "z"]}
    columns[field] = days
    pq.write_table(pa.table(columns), tmp_path / "dates.parquet")
    rows = rows_or_one_line(tmp_path / "dates.parquet")
    assert len(rows) == 3 and rows[0]["input_error"] == ""


@QUICK
@given(place=st.integers(0, 10**6), byte=st.integers(1, 255))
def test_a_damaged_parquet_file_is_rows_or_one_line(tmp_path, place, byte):
    whole = io.BytesIO()
    pq.write_table(pa.table({"id": ["a"] * 50, "q": ["what"] * 50, "n": [1] * 50, "gold": ["x"] * 50}), whole)
    data = bytearray(whole.getvalue())
    data[place % len(data)] ^= byte
    (tmp_path / "damaged.parquet").write_bytes(data)
    rows_or_one_line(tmp_path / "damaged.parquet")


@QUICK
@given(cut=st.integers(1, 400), suffix=st.sampled_from(["parquet", "jsonl.gz"]))
def test_a_file_cut_short_is_rows_or_one_line(tmp_path, cut, suffix):
    line = json.dumps({"id": "a", "q": "what", "n": 1, "gold": "x"}).encode() + b"\n"
    whole = io.BytesIO()
    if suffix == "parquet":
        pq.write_table(pa.table({"id": ["a"] * 50, "q": ["what"] * 50, "n": [1] * 50, "gold": ["x"] * 50}), whole)
    else:
        whole.write(gzip.compress(line * 50))
    (tmp_path / f"cut.{suffix}").write_bytes(whole.getvalue()[:-cut])
    rows_or_one_line(tmp_path / f"cut.{suffix}")


REQUEST = {"model": "m", "messages": [{"role": "user", "content": "what"}], "max_tokens": 8}


def completion_or_reply_error(raw: bytes) -> None:
    try:
        found = parse_completion(raw, REQUEST)
    except ReplyError as unusable:
        said = str(unusable)
    else:
        assert isinstance(found, Completion) and isinstance(found.text, str)
        assert found.usage.prompt_tokens >= 0 <= found.usage.completion_tokens
        said = "an answer"
    assert said and "\n" not in said


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | JSONISH.map(lambda value: json.dumps(value).encode()))
def test_any_reply_is_a_completion_or_a_reply_error(raw):
    completion_or_reply_error(raw)


@settings(max_examples=100, deadline=None)
@given(
    field=st.sampled_from(
        [
            "choices",
            "usage",
            "message",
            "content",
            "refusal",
            "tool_calls",
            "finish_reason",
            "service_tier",
            "prompt_tokens",
            "details",
        ]
    ),
    value=JSONISH,
)
def test_any_value_in_a_reply_is_a_completion_or_a_reply_error(field, value):
    message = {"role": "assistant", "content": "yes"}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
    body = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage, "service_tier": "default"}
    if field in message or field in ("refusal", "tool_calls"):
        message[field] = value
    elif field == "message":
        body["choices"][0]["message"] = value
    elif field == "finish_reason":
        body["choices"][0][field] = value
    elif field == "prompt_tokens":
        usage[field] = value
    elif field == "details":
        usage["prompt_tokens_details"] = value
    else:
        body[field] = value
    completion_or_reply_error(json.dumps(body).encode())


@settings(max_examples=100, deadline=None)
@given(
    status=st.integers(300, 599),
    raw=st.binary(max_size=120)
    | JSONISH.map(lambda value: json.dumps({"error": value}).encode())
    | JSONISH.map(lambda value: json.dumps(value).encode()),
    headers=st.dictionaries(
        st.sampled_from(["Retry-After", "retry-after-ms", "x-ratelimit-limit-requests", "x-ratelimit-limit-tokens"]),
        st.text(max_size=12),
    ),
)
def test_any_refusal_has_a_diagnosis_of_one_line(status, raw, headers):
    diagnosis = diagnose(status, headers, read_error(raw), "gpt", "m", "KEY")
    message = clean(diagnosis.message, "sk-secret", "what")
    assert diagnosis.kind in ("row", "lane", "limited", "retry")
    assert "\n" not in message and len(message) <= MESSAGE_CHARS
    assert (wait := retry_after_s(headers)) is None or 0 <= wait <= 600
    stated_limits(headers)
    with contextlib.suppress(UnicodeEncodeError):
        message.encode()
