"""Rows into requests for an engine that runs here, and what the engine made of them into the journal.

`RequestReader` renders, counts and checks a block of rows; what is wrong with a row is the request's `error`, never an
exception. `AnswerWriter` settles a block and returns the lane's progress row. Cost: 0.1 ms a row on one core.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from jobs.errors import LaneDown
from jobs.journal.rows import Answer
from jobs.journal.writer import JournalWriter
from jobs.lanes.base import LaneCheck, LaneContext, RowHead
from jobs.lanes.chat import JsonObject, RequestError, answer_key, build_request
from jobs.lanes.local.doubts import Doubts
from jobs.lanes.local.gpu_clock import GpuClock
from jobs.lanes.local.model_source import context_tokens, load_tokenizer, token_ids
from jobs.lanes.local.templates import ChatTemplate
from jobs.lanes.replies import Completion
from jobs.spec.models import NOT_TEMPLATE
from routing.answers.thinking import opens_thinking
from routing.pricing import tokens_cost_usd

ROW_FIELDS = (
    "messages", "model", "temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "stop", "n",
    "presence_penalty", "frequency_penalty", "response_format", "chat_template_kwargs",
)  # fmt: skip
"""Parameters of a row's own body that are obeyed."""
IGNORED_FIELDS = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
"""Parameters that change no answer."""
OFF_FIELDS = (
    "logprobs",
    "top_logprobs",
    "tools",
    "functions",
    "logit_bias",
    "parallel_tool_calls",
    "chat_template_kwargs",
)
"""Parameters that this engine does not have, and need not have where they are off: false, 0, or empty."""
ALREADY_SO = {"modalities": ["text"], "tool_choice": "none", "function_call": "none"}
"""Parameters that ask for nothing else than what this engine does."""
ERROR_CHARS = 300
RayRow = dict[str, Any]
"""A row as Ray Data hands it over: column → value."""
PROGRESS_SCHEMA = pa.schema(
    [
        ("settled", pa.int64()), ("errors", pa.int64()), ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()), ("cost_usd", pa.float64()), ("gpu_s", pa.float64()), ("empty", pa.int64()),
    ]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a request's answer is to be drawn: OpenAI's parameters, each of its own type and in its range."""

    max_tokens: int
    """At most what the context leaves for the answer."""
    temperature: float = 1.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    schema: str = ""
    """JSON schema of the answer, as text; "" for free text."""


@dataclass(frozen=True, slots=True)
class LocalRequest:
    """One row, ready for an engine; with `error` set it must not be asked."""

    head: RowHead
    error: str = ""
    token_ids: list[int] = field(default_factory=list)
    decoding: Decoding = Decoding(max_tokens=0)
    opened: bool = False
    """The chat template has opened a block of thinking, in which the answer's text will begin."""


HEAD_COLUMNS = pa.schema(
    [("row_key", pa.int64()), ("bucket", pa.int32()), ("sample", pa.bool_()), ("answer_key", pa.string()),
     ("opened", pa.bool_())]
)  # fmt: skip
"""A row's head on its way through an engine: the answer key in hexadecimal, which every engine stage leaves as it is."""


def head_columns(requests: Sequence[LocalRequest]) -> dict[str, pa.Array]:
    """HEAD_COLUMNS of the requests."""
    heads = [request.head for request in requests]
    values = {
        "row_key": [head.row_key for head in heads],
        "bucket": [head.bucket for head in heads],
        "sample": [head.sample for head in heads],
        "answer_key": [head.answer_key.hex() for head in heads],
        "opened": [request.opened for request in requests],
    }
    return {each.name: pa.array(values[each.name], each.type) for each in HEAD_COLUMNS}


def head_of(row: RayRow) -> RowHead:
    """The head out of a row's HEAD_COLUMNS."""
    return RowHead(row["row_key"], row["bucket"], row["sample"], bytes.fromhex(row["answer_key"]))


def one_line(error: object) -> str:
    """The first line of an error's text, cut: engines put whole requests into what follows."""
    lines = str(error).strip().splitlines()
    return lines[0][:ERROR_CHARS] if lines else type(error).__name__


class RequestReader:
    """Turns blocks of ASK_COLUMNS into requests. Raises LaneDown where the model has no usable tokenizer."""

    def __init__(self, context: LaneContext) -> None:
        self.context = context
        self.context_tokens = context_tokens(context.model)
        place, source = f"models.{context.alias}.source", str(context.model.source)
        try:
            self.tokenizer = load_tokenizer(source)
        except (OSError, ValueError) as error:
            raise LaneDown(f"{place}: no tokenizer in {source} ({one_line(error)})") from None
        if not self.tokenizer.chat_template:
            raise LaneDown(f"{place}: {source} has no chat template; use a chat model")
        self.template = ChatTemplate(self.tokenizer, context.sampling.get("chat_template_kwargs"))

    def read(self, rows: Sequence[RayRow]) -> list[LocalRequest]:
        """One request per row, in order."""
        drafts = [self._draft(row) for row in rows]
        ids = token_ids(self.tokenizer, [text for _, _, text in drafts])
        return [
            replace(self._request(row, params, error, own), opened=opens_thinking(text))
            for row, (params, error, text), own in zip(rows, drafts, ids, strict=True)
        ]

    def _draft(self, row: RayRow) -> tuple[JsonObject, str, str]:
        """The merged parameters, an error, the rendered prompt."""
        context = self.context
        try:
            messages, body = json.loads(row["messages"]), json.loads(row["body"]) if row["body"] else {}
            asked = {name for name, value in body.items() if value or name not in OFF_FIELDS}
            unknown = sorted(
                asked - {*ROW_FIELDS, *IGNORED_FIELDS} - {n for n in ALREADY_SO if body.get(n) == ALREADY_SO[n]}
            )
            if unknown:
                raise RequestError(f"body.{unknown[0]} is not supported by engine {context.model.engine}")
            model = context.model.model_copy(update={"model": context.model.source})
            request = build_request(model, context.alias, context.sampling, context.response_format, messages, body)
        except (RequestError, ValueError) as error:
            return {}, one_line(error), ""
        try:
            return request, "", self.template.render(messages, template_variables(request))
        except ValueError as error:
            return request, one_line(error), ""

    def _request(self, row: RayRow, params: JsonObject, error: str, ids: list[int]) -> LocalRequest:
        head = RowHead(row["row_key"], row["bucket"], bool(row["sample"]))
        if params:
            head = replace(head, answer_key=answer_key(params))
        if error:
            return LocalRequest(head, error)
        limit = self.context_tokens
        if limit is not None and len(ids) >= limit:
            error = f"prompt too long: {len(ids)} tokens; the model's context is {limit}, its answer included"
            return LocalRequest(head, error)
        if not ids:
            return LocalRequest(head, "the prompt is empty: no tokens")
        try:
            decoding = _decoding(params)
        except RequestError as bad:
            return LocalRequest(head, str(bad))
        if limit is not None:
            decoding = replace(decoding, max_tokens=min(decoding.max_tokens, limit - len(ids)))
        return LocalRequest(head, token_ids=ids, decoding=decoding)


def template_variables(request: JsonObject) -> JsonObject:
    """A request's variables of the chat template. Raises ValueError where they are none."""
    variables = request.get("chat_template_kwargs") or {}
    wrong = isinstance(variables, dict) and next((name for name in variables if name in NOT_TEMPLATE), None)
    if not isinstance(variables, dict) or wrong:
        raise ValueError(f"chat_template_kwargs{f'.{wrong}' if wrong else ''} is no variable of a chat template")
    return variables


def _decoding(params: JsonObject) -> Decoding:
    """The parameters, each checked: of a wrong type engines die (vLLM 0.29 hangs for ever on a float seed)."""
    if params.get("n", 1) != 1:
        raise RequestError("n: this engine gives one answer a row")
    stop = params.get("stop") or []
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise RequestError("stop is not a text or a list of texts")
    seed = params.get("seed")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool) or not -(2**63) <= seed < 2**63):
        raise RequestError("seed is not a whole number of 64 bits")
    return Decoding(
        max_tokens=int(params.get("max_completion_tokens") or params["max_tokens"]),
        temperature=_number(params, "temperature", 1.0, 0.0, 2.0),
        top_p=_number(params, "top_p", 1.0, 1e-9, 1.0),
        presence_penalty=_number(params, "presence_penalty", 0.0, -2.0, 2.0),
        frequency_penalty=_number(params, "frequency_penalty", 0.0, -2.0, 2.0),
        seed=seed,
        stop=tuple(stop),
        schema=_schema(params.get("response_format")),
    )


def _number(params: JsonObject, name: str, default: float, low: float, high: float) -> float:
    value = params.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise RequestError(f"{name} is not a number from {low:g} to {high:g}")
    return float(value)


def _schema(response_format: Any) -> str:
    """OpenAI's response_format as the text of a JSON schema."""
    if response_format is None:
        return ""
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind == "text":
        return ""
    if kind == "json_object":
        return '{"type": "object"}'
    inner = response_format.get("json_schema") if kind == "json_schema" else None
    if not isinstance(inner, dict) or not isinstance(inner.get("schema"), dict):
        raise RequestError("response_format is not {type: json_schema, json_schema: {schema: …}}")
    return json.dumps(inner["schema"])


class AnswerWriter:
    """Settles blocks of one local model in the journal; a lane has exactly one, so that GPU time is counted once.

    GPU seconds of a block are what the lane's engines have held since the block before it (the first: since each began, its loading
    included), shared out over the block's answers by tokens: their sum is load, idle and run.
    """

    def __init__(self, context: LaneContext, clock: GpuClock) -> None:
        self.context, self.clock = context, clock
        self.journal = JournalWriter(context.output, context.alias, context.local_dir, context.session)
        self._doubts = Doubts(context, self.journal.unique)

    def answered(self, head: RowHead, completion: Completion, latency_s: float) -> Answer:
        """An answer, priced by its tokens, or not here where the model is paid by the GPU hour."""
        price, usage = self.context.price, completion.usage
        by_the_hour = price.gpu_hour_usd is not None
        cost_usd = 0.0 if by_the_hour else tokens_cost_usd(price, usage.prompt_tokens, usage.completion_tokens)
        return head.answered(completion, cost_usd=cost_usd, latency_s=latency_s)

    def settle(self, answers: Sequence[Answer]) -> pa.Table:
        """Append to the journal; the block's progress, one row."""
        gpu_s = self.clock.take_s()
        tokens = [(a.prompt_tokens or 0) + (a.completion_tokens or 0) for a in answers]
        total = sum(tokens)
        entries = []
        for answer, n in zip(answers, tokens, strict=True):
            share = gpu_s * (n / total if total else 1 / len(answers)) if self.clock.gpus else None
            entries.append(replace(answer, gpu_s=share))
        answers = self._doubts.sift(entries)
        for answer in answers:
            self.journal.append(answer)
        row = {
            "settled": sum(a.kind != "failed" for a in answers),
            "errors": sum(a.kind != "answered" for a in answers),
            "prompt_tokens": sum(a.prompt_tokens or 0 for a in answers),
            "completion_tokens": sum(a.completion_tokens or 0 for a in answers),
            "cost_usd": sum(a.cost_usd for a in answers),
            "gpu_s": gpu_s,
            "empty": sum(a.is_empty for a in answers),
        }
        return pa.Table.from_pylist([row], schema=PROGRESS_SCHEMA)

    def close(self) -> None:
        """Commit what is answered. Raises StoreError; the answers are in the local log then, for recovery."""
        self.journal.close()
        self.clock.forget()

    def __del__(self) -> None:
        # The one hook that Ray Data gives an actor that has seen its last block: it drops its reference to this object. The
        # last answers reach the store here; after a kill, which has no hook at all, recovery commits the local log.
        if hasattr(self, "journal"):
            self.close()


def job_extras(context: LaneContext, known: Sequence[str]) -> tuple[JsonObject, LaneCheck | None]:
    """Parameters of the job's `sampling` beside OpenAI's, and a failed check where the engine has no such parameter."""
    extras = {name: value for name, value in context.sampling.items() if name not in ROW_FIELDS}
    unknown = sorted(set(extras) - set(known))
    if not unknown:
        return extras, None
    place = f"models.{context.alias}: sampling.{unknown[0]}"
    hint = "remove it (variables of the chat template go under sampling.chat_template_kwargs)"
    return extras, LaneCheck(False, f"{place} is no parameter of engine {context.model.engine}; {hint}")


def priced_gpus(context: LaneContext) -> float:
    """GPUs of one replica that the model's price counts (on a cluster without any: machines); 0 where it is paid by tokens, or not
    at all."""
    if context.price.gpu_hour_usd is None:
        return 0.0
    model = context.model
    return model.gpus if 0 < model.gpus < 1 else float(model.workers)
