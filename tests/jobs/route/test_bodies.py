"""OpenAI batch lines: every field is asked, refused or said, for each engine, as the documented table has it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import InputError, SpecError
from jobs.lanes.base import LaneContext, RowHead
from jobs.lanes.chat import IMAGE_TOKENS, build_request, max_completion_tokens, request_tokens_bound
from jobs.lanes.local.rows import RequestReader
from jobs.lanes.openai.rows import Row
from jobs.lanes.openai_batch.rows import Pending, prepare
from jobs.replay.options import ReplayOptions
from jobs.route.pipeline import plan_job, run_job
from jobs.route.score.entries import Part
from jobs.route.score.fields.bodies import NOTES, body_notes, count_noted
from jobs.route.score.files import list_files
from jobs.route.score.formats.record import Record
from jobs.route.score.prompts import Prompt, PromptReader
from jobs.route.score.stage import plan_score
from jobs.route.score.values.nulls import without_nulls
from jobs.route.start import Job
from jobs.spec.loader import parse_spec
from jobs.spec.models import ModelSpec
from routing.pricing import Price
from tests.jobs.route.body_cases import API, CASES, HERE, Case, table
from tests.replay_server import small_outcomes, thread_replay
from tests.tiny_models import lane_context, tiny_checkpoint

MESSAGES = [{"role": "user", "content": "What is 2+2?"}]
SAMPLING = {"temperature": 0, "max_tokens": 50}
MODELS = {"small": {"engine": "vllm", "source": "s"}, "gpt": {"engine": "openai", "model": "gpt-x"}}
SPEC = parse_spec(
    {
        "input": {"path": "x"}, "output": "o", "router": "random", "models": MODELS, "weak": "small", "strong": "gpt",
        "policy": {"strong_share": 0.5},
    }
)  # fmt: skip
READER = PromptReader(SPEC, ["custom_id", "method", "url", "body"])


def read(case: Case) -> Prompt:
    body = {"model": "gpt-x", "messages": MESSAGES} | case.body
    return READER.read(Record({"custom_id": "a", "body": body} | case.line))


def row_of(prompt: Prompt) -> dict[str, Any]:
    body = json.dumps(prompt.body) if prompt.body else ""
    return {"row_key": 1, "bucket": 0, "sample": False, "messages": json.dumps(prompt.messages), "body": body}


def sent_by_api(engine: str, prompt: Prompt) -> tuple[dict[str, Any], str]:
    """The request of an API's lane, or why there is none."""
    model = ModelSpec.model_validate({"engine": engine, "model": "gpt-x"})
    context = LaneContext("gpt", model, SAMPLING, None, Price(1.0, 2.0), "", "", "")
    values = row_of(prompt)
    block = pa.table({name: [value] for name, value in values.items()})
    row = Row(block, 0, RowHead(1, 0, False))
    if engine == "openai_batch":
        made = prepare(row, context)
        return (row.request(context), "") if isinstance(made, Pending) else ({}, made)
    try:
        return row.request(context), ""
    except ValueError as wrong:
        return {}, str(wrong)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RequestReader]:
    folder = tmp_path_factory.mktemp("model")
    source = tiny_checkpoint(folder / "m")
    return {engine: RequestReader(replace(lane_context(engine, source, folder), sampling=SAMPLING)) for engine in HERE}


def check(case: Case, outcome: str, prompt: Prompt, error: str, says: str) -> None:
    """What is refused says why, what is said has its note, what is passed or taken has neither."""
    if outcome == "refused":
        assert says and says in error, error
        assert "\n" not in error and len(error) <= 300
        return
    assert error == ""
    notes = body_notes([count_noted([prompt.noted])])
    assert (len(notes) == 1 and case.says in notes[0]) if outcome == "said" else notes == []


@pytest.mark.parametrize("engine", API)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what[:40])
def test_an_apis_request_has_what_the_table_says(case: Case, engine: str) -> None:
    prompt = read(case)
    request, error = ({}, prompt.error) if prompt.error else sent_by_api(engine, prompt)
    check(case, case.of(engine), prompt, error, case.says)
    if error:
        return
    assert request["model"] == "gpt-x" and "stream" not in request and "service_tier" not in request
    if case.api == "passed" or case.what.startswith(("`n`", "`logprobs`")):
        assert {name: request[name] for name in case.body if name != "messages"} == {
            name: value for name, value in case.body.items() if name != "messages"
        }
        assert without_nulls(case.body.get("messages", request["messages"])) == request["messages"]
    if "max_tokens" not in case.body and "max_completion_tokens" not in case.body:
        assert request["max_tokens"] == 50, "the job's"


@pytest.mark.parametrize("engine", HERE)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what[:40])
def test_an_engine_that_runs_here_does_what_the_table_says(
    case: Case, engine: str, local: dict[str, RequestReader]
) -> None:
    prompt = read(case)
    request = None if prompt.error else local[engine].read([row_of(prompt)])[0]
    error = prompt.error or (request.error if request else "")
    check(case, case.of(engine), prompt, error, case.here_says or case.says)
    if request is not None and not error:
        wanted = {"temperature": 0.0, "max_tokens": 50} if case.here == "taken" else {}
        wanted |= {n: v for n, v in case.body.items() if n in ("temperature", "top_p", "seed", "max_tokens")}
        assert {name: getattr(request.decoding, name) for name in wanted if wanted[name] is not None} == {
            name: value for name, value in wanted.items() if value is not None
        }


def test_the_documented_table_is_this_one(checkout: Path) -> None:
    document = checkout / "docs" / "compatibility.md"
    if not document.exists() or "OpenAI batch file" not in document.read_text(encoding="utf-8"):
        pytest.skip("not written yet")
    missing = [
        line for line in table().splitlines() if line.startswith("|") and line not in document.read_text("utf-8")
    ]
    assert missing == []


def test_lines_without_bodies_are_refused_for_the_job() -> None:
    spec = SPEC.model_copy(update={"input": SPEC.input.model_copy(update={"format": "openai_batch"})})
    with pytest.raises(
        SpecError, match=r"input\.format: openai_batch lines have a body \(the input has: custom_id, request\)"
    ):
        PromptReader(spec, ["custom_id", "request"])


def test_lines_that_all_ask_another_endpoint_are_refused_for_the_job(tmp_path: Path) -> None:
    lines = [{"custom_id": str(i), "url": "/v1/embeddings", "body": {"input": "x"}} for i in range(3)]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    spec = SPEC.model_copy(update={"input": SPEC.input.model_copy(update={"path": str(path)})})
    with pytest.raises(InputError, match=r"input\.path: url is '/v1/embeddings'; .*so do all of the first lines"):
        plan_score(spec, list_files(spec.input))
    path.write_text(path.read_text() + json.dumps({"custom_id": "3", "body": {"messages": MESSAGES}}))
    assert plan_score(spec, list_files(spec.input)).reader.kind == "batch"


def test_a_column_of_ids_stands_for_custom_id() -> None:
    spec = SPEC.model_copy(update={"input": SPEC.input.model_copy(update={"id": "key"})})
    prompt = PromptReader(spec, ["key", "custom_id", "body"]).read(Record({"key": 5, "body": {"messages": MESSAGES}}))
    assert (prompt.error, prompt.id) == ("", 5)


def test_bounds_hold_for_what_is_passed() -> None:
    model = ModelSpec.model_validate({"engine": "openai", "model": "gpt-x"})

    def of(messages: Any = MESSAGES, **body: Any) -> dict[str, Any]:
        return build_request(model, "gpt", SAMPLING, None, messages, body)

    text = "a guess of what comes " * 50
    assert max_completion_tokens(of(prediction={"type": "content", "content": text}, n=2)) >= 2 * (50 + len(text))
    assert request_tokens_bound(of(documents=[{"text": text}])) >= request_tokens_bound(of()) + len(text)
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10**6}}
    bound = request_tokens_bound(of([{"role": "user", "content": [picture]}]))
    assert IMAGE_TOKENS < bound < IMAGE_TOKENS + 500, "a picture's bytes are no tokens"
    document = {"type": "file", "file": {"file_data": "data:application/pdf;base64," + "A" * 10**5}}
    assert request_tokens_bound(of([{"role": "user", "content": [document]}])) > 10**5, "a document's may be"


def test_parts_of_earlier_versions_have_no_notes() -> None:
    assert Part.from_json({"bucket": 1, "name": "x", "rows": 3}).noted == {}
    assert body_notes([{}, {"n": 1, "model": 1200}, {"model": 34}]) == [
        f"input: 1,234 rows {NOTES['model']}", f"input: 1 rows {NOTES['n']}"
    ]  # fmt: skip


def test_plan_and_report_count_what_is_said(ray_local: None, tmp_path: Path) -> None:
    """A whole job over batch lines, half of which ask for a stream of another model."""
    body = {"messages": MESSAGES, "model": "gpt-3.5-turbo", "stream": True}
    lines = [
        {"custom_id": f"r{i}", "method": "POST", "url": "/v1/chat/completions",
         "body": {**body, "messages": [{"role": "user", "content": f"question {i}"}]} if i % 2 else
                 {"messages": [{"role": "user", "content": f"question {i}"}], "model": "strong"}}
        for i in range(20)
    ]  # fmt: skip
    lines[3] |= {"url": "/v1/embeddings"}
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with thread_replay([small_outcomes(20)], ReplayOptions(latency_s=0.0)) as server:
        price = {"per_million": {"input": 1, "output": 1}}
        models = {
            name: {"engine": "openai", "model": provider, "base_url": server.base_url, "price": price}
            for name, provider in (("weak", "org/weak"), ("strong", "strong"))
        }
        data = {
            "input": {"path": str(tmp_path / "in.jsonl"), "format": "openai_batch"}, "output": str(tmp_path / "out"),
            "router": "random", "models": models, "weak": "weak", "strong": "strong", "policy": {"strong_share": 0.5},
            "max_error_share": 0.1,
        }  # fmt: skip
        said = [f"input: 9 rows {NOTES['model']}", f"input: 9 rows {NOTES['stream']}"]
        bill = plan_job(Job(parse_spec(data), live=False))
        assert [note for note in bill["notes"] if note.startswith("input: ")] == said
        code, report = run_job(Job(parse_spec(data), live=False))
    assert code == 0 and [note for note in report["notes"] if note.startswith("input: ")] == said
    rows = pq.read_table(tmp_path / "out" / "responses").to_pylist()
    errors = {row["id"]: row["error"] for row in rows if row["error"]}
    assert list(errors) == ["r3"] and "url is '/v1/embeddings'" in errors["r3"]
    assert all(row["generated_text"] for row in rows if row["id"] != "r3")
