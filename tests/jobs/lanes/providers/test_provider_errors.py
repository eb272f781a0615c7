"""What error bodies say, in the shapes that providers and gateways write, and whose fault they are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobs.lanes.faults import Diagnosis, clean, diagnose, diagnose_inside
from jobs.lanes.providers.errors import error_inside, read_error


def err(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


def said(body: Any) -> str:
    return read_error(body if isinstance(body, bytes) else json.dumps(body).encode()).message


GOOGLE = {"code": 400, "message": "Please pass a valid value", "status": "INVALID_ARGUMENT"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([{"error": GOOGLE}], "Please pass a valid value"),
        ([{"error": GOOGLE | {"errors": [{"message": "Please pass a valid value"}]}}], "Please pass a valid value"),
        ({"error": {"errors": [{"message": "first"}, {"message": "second"}], "code": 400}}, "first; second"),
        ({"errors": [{"code": 7003, "message": "could not route"}], "success": False}, "could not route"),
        ({"message": "Forbidden"}, "Forbidden"),
        ({"Message": "User is not authorized"}, "User is not authorized"),
        ({"detail": [{"loc": ["body", "messages"], "msg": "field required", "input": "X"}]}, "body.messages: field required"),
        ({"detail": err("nested")}, "nested"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"error_msg": "Invalid parameter", "error_code": 336003}, "Invalid parameter"),
        (err(json.dumps(err("exhausted", code=429)), code=429), "exhausted"),
        ({"error": json.dumps([err("twice")])}, "twice"),
        ({"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": json.dumps(err("at most 1 image"))
          , "provider_name": "X"}}}, "Provider returned error: at most 1 image"),
        (err("Provider returned error", metadata={"raw": "upstream busy"}), "Provider returned error: upstream busy"),
        ({"code": "permission-denied", "error": "Content violates usage guidelines."}, "Content violates usage guidelines."),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "Overloaded"),
        ({"base_resp": {"status_code": 1004, "status_msg": "login fail"}}, "login fail"),
        ({"title": "Too Many", "status": 429}, "Too Many"),
        ({"fault": {"faultstring": "Invalid ApiKey", "detail": {"errorcode": "x"}}}, "Invalid ApiKey"),
        (b"<!DOCTYPE html><html><head><title>502 Bad\n Gateway</title></head><body>x</body></html>", "502 Bad\n Gateway"),
        (b"<html><body><h1>Request &amp; blocked</h1></body></html>", "Request & blocked"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>', "Access Denied"),
        (b"upstream connect error", "upstream connect error"),
        ("Schlüssel ungültig".encode("latin-1"), "Schlüssel ungültig"),
        ("nicht erlaubt ü".encode("utf-16"), "nicht erlaubt ü"),
        (b"\xef\xbb\xbf" + b'{"error": {"message": "marked"}}', "marked"),
        (b'data: {"error": {"message": "in an event", "code": 400}}\n\n', "in an event"),
        (b"", ""),
    ],
)  # fmt: skip
def test_messages(body: Any, message: str) -> None:
    assert said(body) == message


def test_a_prompt_that_is_repeated_is_not_read() -> None:
    bodies = [
        {"detail": [{"loc": ["body"], "msg": "bad", "input": {"messages": "SECRET"}, "ctx": {"x": "SECRET"}}]},
        {
            "error": {
                "message": "flagged",
                "code": 403,
                "metadata": {"reasons": ["violence"], "flagged_input": "SECRET"},
            }
        },
    ]
    assert not any("SECRET" in said(body) for body in bodies)


def told(status: int, body: Any) -> Diagnosis:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return diagnose(status, {}, read_error(raw), "gpt", "m", key_env="KEY")


XAI = {"code": "The caller does not have permission to execute the specified operation",
       "error": "Content violates usage guidelines. "
       "Team: t, API key ID: k, Model: grok-4, Failed check: SAFETY_CHECK_TYPE_BIO"}  # fmt: skip
AZURE = {"error": {"message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
         "param": "prompt", "code": "content_filter", "status": 400, "innererror": {"code": "ResponsibleAIPolicyViolation",
         "content_filter_result": {"jailbreak": {"filtered": True, "detected": True}}}}}  # fmt: skip
LITELLM = {"error": {"message": "litellm.BadRequestError: AzureException - filtered", "code": "400", "provider_specific_fields": {
           "innererror": {"code": "ResponsibleAIPolicyViolation"}}}}  # fmt: skip
FILTERED = [
    (403, XAI),
    (403, {"code": "permission-denied", "error": "Content violates usage guidelines. "}),
    (403, err("Provider returned error", code=403, metadata={"reasons": ["violence"], "flagged_input": "x"})),
    (403, err('openai/gpt-4o requires moderation. Your input was flagged for "x". No credits were charged.', code=403)),
    (400, AZURE),
    (400, LITELLM),
    (400, err("Invalid prompt: your prompt was flagged as potentially violating our usage policy.", code="invalid_prompt")),
    (400, err("Your request was rejected as a result of our safety system.", code="content_policy_violation")),
    (400, err("Input data may contain x", code="data_inspection_failed", type="data_inspection_failed")),
    (400, err("<400> InternalError.Algo.DataInspectionFailed: Input text data may contain inappropriate content.")),
    (500, err("Input or output data may contain inappropriate content.", code="DataInspectionFailed")),
    (400, [err("blocked", code=400, status="INVALID_ARGUMENT", details=[{"reason": "PROHIBITED_CONTENT"}])]),
    (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"}}),
    (400, err("Violated guardrail policy", type="None", code="400")),
    (400, err("系统检测到输入或生成内容可能包含不安全或敏感内容", code="1301")),
    (451, err("unavailable for legal reasons")),
    (422, err("The request was blocked by our safety filter")),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body"), FILTERED)
def test_a_content_filter_is_about_the_row_however_often(status: int, body: Any) -> None:
    assert (told(status, body).kind, told(status, body).repeated_means_lane) == ("row", False)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, err("No endpoints found that support image input", code=404)),
        (404, err("No endpoints found that support tool use. To learn more: https://x", code=404)),
        (404, err("No such File object: file-abc", type="invalid_request_error")),
        (404, err("Unknown file_id: file-123")),
        (403, b"<html><head><title>Attention Required! | Cloudflare</title></head><body>blocked</body></html>"),
        (500, err("image input is not supported - hint: you may need to provide the mmproj", code=500)),
        (400, err("Conversation roles must alternate user/assistant")),
        (413, b"<html><title>413 Request Entity Too Large</title></html>"),
        (424, {"error": "Request failed during generation: Server error: roles", "error_type": "generation"}),
    ],
)  # fmt: skip
def test_what_is_about_the_row_counts_where_nothing_is_answered(status: int, body: Any) -> None:
    assert (told(status, body).kind, told(status, body).repeated_means_lane) == ("row", True)


@pytest.mark.parametrize(
    ("status", "body", "names"),
    [
        (403, err("Project does not have access to model m", code="model_not_found"), "$KEY may not use"),
        (403, err("Country, region, or territory not supported", code="unsupported_country_region_territory"), "$KEY"),
        (403, {"message": "Forbidden"}, "$KEY"),
        (400, err("Access denied, please make sure your account is in good standing.", code="Arrearage"), "credit"),
        (403, err("Key limit exceeded (total limit).", code=403), "credit"),
        (403, err("Your account has been suspended for violating our usage policies"), "$KEY"),
        (403, {"code": "x", "error": "Access to the chat endpoint is denied"}, "$KEY"),
        (403, {"error": "Your team has used all available credits or reached its monthly spending limit"}, "quota"),
        (404, err("No endpoints found matching your data policy (Free model training).", code=404), "data policy"),
        (404, err("openrouter error: No endpoints available matching your guardrail restrictions and data policy."), "policy"),
        (404, err("No endpoints found for m.", code=404), "models.gpt.model"),
        (404, {"detail": "Not Found"}, "models.gpt.model"),
        (400, [err("API key not valid. Please pass a valid API key.", code=400, status="INVALID_ARGUMENT")], "$KEY is refused"),
        (400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: xa***."}, "$KEY is refused"),
        (400, err("Your credit balance is too low to access", type="invalid_request_error") | {"type": "error"}, "credit"),
        (400, {"message": "Invalid model: m", "type": "invalid_model", "code": "1500"}, "models.gpt.model"),
        (400, err("m is not a valid model ID", code=400), "models.gpt.model"),
    ],
)  # fmt: skip
def test_what_is_the_lanes_names_field_and_fix(status: int, body: Any, names: str) -> None:
    got = told(status, body)
    assert got.kind == "lane" and names in got.message and got.message.startswith("models.gpt"), got


@pytest.mark.parametrize(
    "message",
    [
        "prompt is too long: 215000 tokens > 200000 maximum",
        "This endpoint's maximum context length is 32768 tokens. However, you requested about 50000 tokens",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        "Range of input length should be [1, 30720]",
        "the request exceeds the available context size, try increasing it",
        "Input is too long for requested model.",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097. Given: 5000 `inputs` tokens",
        "Invalid request: Your request exceeded model token limit: 8192",
        "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
        "This model's maximum prompt length is 131072 but the request contains 150000 tokens.",
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
        "Prompt exceeds max length",
        "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
    ],
)
def test_too_long_prompts(message: str) -> None:
    assert told(400, {"error": {"message": message}}).message.startswith("context_length_exceeded: ")


ANSWER = {
    "choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (err("Rate limit exceeded", code=429), "limited"),
        (err("slow", code="429"), "limited"),
        (err("slow", code="rate_limit_exceeded"), "limited"),
        (err("Insufficient credits", code=402), "lane"),
        (err("No auth", code=401), "lane"),
        (err("bad", code=400), "row"),
        (err("Provider returned error", code=502), "retry"),
        ({"error": {"code": 403, "message": "flagged", "metadata": {"reasons": ["x"]}}}, "row"),
        ({"error": {"type": "overloaded_error", "message": "Overloaded"}, "type": "error"}, "retry"),
        ({"error": {"type": "insufficient_quota", "message": "exceeded"}}, "lane"),
        ({"error": {"status": "RESOURCE_EXHAUSTED", "message": "x"}}, "limited"),
        ([{"error": {"code": 503, "status": "UNAVAILABLE", "message": "x"}}], "retry"),
        ({"error": "model 'm' not found"}, "lane"),
        ({"error": "Unexpected endpoint or method. (POST /chat/completions)"}, "lane"),
        ({"error": True, "message": "rate limit reached"}, "limited"),
        ({"object": "error", "message": "This model's maximum context length is 8", "type": "BadRequestError", "code": 400}, "row"),
        ({"detail": [{"loc": ["body", "messages"], "msg": "field required"}]}, "row"),
        ({"detail": "Rate limit exceeded"}, "limited"),
        ({"success": False, "errors": [{"code": 10000, "message": "Authentication error"}]}, "lane"),
        ({"choices": None, "base_resp": {"status_code": 1002, "status_msg": "rate limit"}}, "limited"),
        ({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}, "row"),
        ({"choices": [err("upstream", code=502) | {"message": {"content": ""}, "finish_reason": "error"}]}, "retry"),
        (ANSWER | err("broke off", code=500), "retry"),
        ({"code": "Throttling.RateQuota", "message": "Requests rate limit exceeded"}, "limited"),
        ({"status": 429, "title": "Too Many Requests"}, "limited"),
        (err("something odd"), "retry"),
    ],
)  # fmt: skip
def test_an_error_inside_a_200_is_judged_by_its_code(body: Any, kind: str) -> None:
    error = error_inside(body)
    assert error is not None
    got = diagnose_inside({}, error, "gpt", "m", key_env="KEY")
    assert got.kind == kind, got
    assert "HTTP 200" in got.message and (error.message in got.message)


@pytest.mark.parametrize(
    "beside",
    [{"error": None}, {"error": {}}, {"error": ""}, {"error": False}, err("", code=0), {"code": 200},
     {"error": {"code": "0"}}, {"status": "success", "message": "ok"}, {"errors": []}, {"detail": "fine"}, {"warnings": ["x"]},
     {"base_resp": {"status_code": 0, "status_msg": ""}}],
    ids=str,
)  # fmt: skip
def test_an_answer_stays_one_beside_an_error_that_is_none(beside: dict[str, Any]) -> None:
    assert error_inside(ANSWER | beside) is None


def test_what_is_shown_has_neither_key_nor_prompt() -> None:
    prompt, key = "my secret prompt of more than 24 letters", "sk-abcdefghijklmnop"
    body = {"error": {"message": f"bad key {key} for {prompt}", "code": 403, "metadata": {"raw": f"{prompt} {key}"}}}
    message = clean(told(403, body).message, key, prompt)
    assert key not in message and prompt not in message and "\n" not in message


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_prompt_is_found_however_often_it_was_escaped(depth: int) -> None:
    prompt = 'Ein "sehr" geheimer Text,\nöffentlich für niemanden: 这是一个秘密的提示，任何人都不应该看到它的内容'
    text = prompt
    for _ in range(depth):
        text = json.dumps(text)[1:-1]
    message = clean(told(400, err(f"bad input: {text} (end)")).message, "", prompt)
    assert "geheimer" not in message and "秘密" not in message and "\\u79d8" not in message and "(end)" in message
