"""What becomes of each field of an OpenAI batch line, by engine: the table that is documented, and that the tests go through.

`python -m tests.jobs.route.body_cases` prints it as Markdown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["passed", "refused", "said", "taken", "for the job"]
"""passed: stands in the request, or is obeyed. refused: the row's error. said: not sent or not kept, counted in the plan. taken:
asks for nothing that is not so. for the job: exit 2."""
MEANINGS = {
    "passed": "asked as it stands",
    "refused": "the row's `error`, nothing asked or paid",
    "said": "the row is asked without it, or what it asks for is not kept; the plan and the report count such rows",
    "taken": "accepted, and not sent: it asks for nothing that the job does not do",
    "for the job": "exit 2 before anything is spent",
}
API = ("openai", "openai_batch")
HERE = ("vllm", "transformers")


@dataclass(frozen=True)
class Case:
    """One field of a line or its body."""

    what: str
    """As the table says it."""
    api: Outcome
    """Engines openai and openai_batch."""
    here: Outcome
    """Engines vllm and transformers."""
    body: dict[str, Any] = field(default_factory=dict)
    line: dict[str, Any] = field(default_factory=dict)
    says: str = ""
    """In the error, or in the note."""
    here_says: str = ""
    """In the error of an engine that runs here, where it is another one."""

    def of(self, engine: str) -> Outcome:
        return self.api if engine in API else self.here


def user(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


TEXT = {"type": "text", "text": "What is it?"}
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
PICTURE = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
PICTURE_ITSELF = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
RECORDING = {"type": "input_audio", "input_audio": {"data": "A", "format": "wav"}}
USED = {"tools": [{"type": "function", "function": {"name": "add"}}], "tool_choice": "auto"}
CALLED = [
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "1", "content": "4"},
]  # fmt: skip
LOCAL = "is not supported by engine"
CASES = [
    # the line
    Case("`url` /v1/chat/completions", "taken", "taken", line={"url": "/v1/chat/completions"}),
    Case("`url` /chat/completions, or an address that ends so (Azure)", "taken", "taken", line={"url": "https://x.azure.com/openai/deployments/d/chat/completions?api-version=1"}),
    Case("`url` missing or null", "taken", "taken", line={"url": None}),
    *(
        Case(f"`url` {url!r}", "refused", "refused", line={"url": url}, says="/chat/completions alone is asked")
        for url in ("/v1/embeddings", "/v1/responses", "/v1/completions", "/v1/moderations", "", 7)
    ),
    Case("`method` POST", "taken", "taken", line={"method": "post"}),
    Case("`method` GET", "refused", "refused", line={"method": "GET"}, says="method is 'GET'; it must be POST"),
    Case("`custom_id` text or a whole number", "passed", "passed", line={"custom_id": 17}),
    Case("`custom_id` null", "refused", "refused", line={"custom_id": None}, says="custom_id is missing"),
    Case("`custom_id` empty", "refused", "refused", line={"custom_id": ""}, says="custom_id is missing"),
    Case("`custom_id` neither text nor a number", "refused", "refused", line={"custom_id": {"a": 1}}, says="custom_id is not text"),
    Case("`body` as JSON text", "passed", "passed", line={"body": '{"messages": [{"role": "user", "content": "hi"}], "seed": 3}'}),
    Case("`body` null", "refused", "refused", line={"body": None}, says="body is null"),
    Case("`body` no object", "refused", "refused", line={"body": [1]}, says="body is not an object"),
    Case("`body` JSON text that is broken", "refused", "refused", line={"body": '{"messages": '}, says="body is not valid JSON"),
    # what is asked of whom, and how
    Case("`model` one of the job's: the route decides which is asked", "taken", "taken", {"model": "gpt-x"}),
    Case("`model` another", "said", "said", {"model": "gpt-3.5-turbo"}, says="name a model that the job does not have"),
    Case("`messages` missing, `input` (Responses API) there", "refused", "refused", {"messages": None, "input": "hi"},
         says="body.messages is null, body.input is not"),
    Case("`messages` missing, `prompt` there", "refused", "refused", {"messages": None, "prompt": "hi"}, says="body.prompt is not"),
    Case("`stream` true", "said", "said", {"stream": True, "stream_options": {"include_usage": True}}, says="ask for a stream"),
    Case("`stream` false", "taken", "taken", {"stream": False}),
    Case("`service_tier` flex, priority", "said", "said", {"service_tier": "flex"}, says="ask for a service tier"),
    Case("`service_tier` auto, default", "taken", "taken", {"service_tier": "auto"}),
    # how the answer is drawn
    *(
        Case(f"`{name}`", "passed", "passed", {name: value})
        for name, value in {
            "temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["x"], "presence_penalty": 0.1, "frequency_penalty": 0.1,
            "max_tokens": 9, "max_completion_tokens": 9, "chat_template_kwargs": {"a": 1},
        }.items()
    ),
    Case("`max_tokens` missing: the job's", "taken", "taken", {}),
    Case("a parameter that is null: as if it were missing", "taken", "taken", {"top_p": None, "tools": None}),
    Case("`max_tokens` no whole number above 0", "refused", "refused", {"max_tokens": 0}, says="body.max_tokens is not a whole"),
    *(
        Case(f"`{name}`", "passed", "refused", {name: value}, here_says=f"body.{name} {LOCAL}")
        for name, value in {
            "reasoning_effort": "low", "verbosity": "low", "logit_bias": {"5": 1}, "parallel_tool_calls": True,
            "prediction": {"type": "content", "content": "four"}, "top_k": 5,
            "provider": {"order": ["a"]},
        }.items()
    ),
    Case("`response_format` (before the job's)", "passed", "passed", {"response_format": {"type": "json_object"}}),
    Case("`n` 1", "passed", "passed", {"n": 1}),
    Case("`n` above 1: all are paid, the first is kept", "said", "refused", {"n": 3}, says="ask for several answers",
         here_says="n: this engine gives one answer a row"),
    Case("`n` no whole number above 0", "refused", "refused", {"n": 0}, says="body.n is not a whole number"),
    Case("`logprobs` true", "said", "refused", {"logprobs": True, "top_logprobs": 2}, says="ask for log-probabilities",
         here_says=f"body.logprobs {LOCAL}"),
    Case("`logprobs` false", "passed", "taken", {"logprobs": False}),
    # tools
    Case("`tools` of type function: the calls' JSON is the answer", "passed", "refused", USED,
         here_says=f"body.tool_choice {LOCAL}"),
    Case("`tools` empty", "passed", "taken", {"tools": []}),
    Case("`functions` (the older name)", "passed", "refused", {"functions": [{"name": "add"}], "function_call": "auto"},
         here_says=f"body.function_call {LOCAL}"),
    Case("`tools` that run at the provider", "refused", "refused", {"tools": [{"type": "web_search"}]}, says="charged by the call"),
    Case("`web_search_options`, `search_parameters`, `plugins`", "refused", "refused", {"web_search_options": {"a": 1}},
         says="body.web_search_options: searches are charged beside"),
    Case("`models` (a gateway's other choices)", "refused", "refused", {"models": ["a", "b"]}, says="other models are charged"),
    Case("calls of tools among the messages", "passed", "refused", {"messages": CALLED}, here_says="leaves out tool_calls"),
    # what is no text
    Case("pictures by address", "passed", "refused", user(TEXT, PICTURE),
         here_says="content of type image_url; this engine takes text"),
    Case("pictures in base64", "passed", "refused", user(TEXT, PICTURE_ITSELF),
         here_says="content of type image_url"),
    Case("recordings, films, documents", "passed", "refused", user(TEXT, RECORDING),
         here_says="content of type input_audio"),
    Case("parts that are text", "passed", "passed", user(TEXT, TEXT)),
    Case("`modalities` [text]", "passed", "taken", {"modalities": ["text"]}),
    Case("`modalities` with audio", "refused", "refused", {"modalities": ["text", "audio"]}, says="text alone is kept"),
    Case("`audio`", "refused", "refused", {"audio": {"voice": "a", "format": "wav"}}, says="spoken answers are charged"),
    # what changes no answer
    *(Case(f"`{name}`", "passed", "taken", {name: value}) for name, value in {
        "user": "u", "metadata": {"a": "b"}, "store": False, "safety_identifier": "s", "prompt_cache_key": "k"}.items()),
]  # fmt: skip


def table() -> str:
    """The cases as Markdown."""
    lines = ["| in a line of an OpenAI batch file | openai, openai_batch | vllm, transformers |", "|---|---|---|"]
    lines += [f"| {case.what} | {case.api} | {case.here} |" for case in CASES]
    lines.append("| `url` another endpoint in all of the first lines | for the job | for the job |")
    lines.append("| no line has a `body` (`input.format: openai_batch`) | for the job | for the job |")
    return "\n".join([*lines, "", *(f"* {name}: {meaning}." for name, meaning in MEANINGS.items())])


if __name__ == "__main__":
    print(table())
