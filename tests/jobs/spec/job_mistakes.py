"""A good job file, the mistakes people make in it, and the line each must be answered with."""

from __future__ import annotations

import copy
from datetime import date
from typing import Any

JOB: dict[str, Any] = {
    "input": {"path": "prompts.jsonl", "id": "qid", "prompt": "question", "keep": ["category"]},
    "output": "runs/one",
    "router": "length",
    "models": {
        "small": {"engine": "vllm", "source": "models/small", "price": {"gpu_hour_usd": 2.5}},
        "gpt-4.1": {"engine": "openai", "price": {"per_million": {"input": 2, "output": 8}}},
    },
    "weak": "small",
    "strong": "gpt-4.1",
    "policy": {"strong_share": 0.3},
}
DROP = "(dropped)"


def changed(place: str, value: Any) -> dict[str, Any]:
    """The good job with one value put in (or taken out: DROP) at `a/b/c`."""
    job = copy.deepcopy(JOB)
    *parents, last = place.split("/")
    node = job
    for part in parents:
        node = node.setdefault(part, {})
    if value is DROP:
        del node[last]
    else:
        node[last] = value
    return job


MISTAKES = [
    # missing
    ("input", DROP, "input: missing; the job file needs it"),
    ("input/path", DROP, "input.path: missing; the job file needs it"),
    ("output", DROP, "output: missing; the job file needs it"),
    ("policy", DROP, "policy: missing; the job file needs it"),
    ("models/small/engine", DROP, "models.small.engine: missing; the job file needs it"),
    ("models/small/source", DROP, "models.small: source is missing; engine vllm needs a hub id or a folder"),
    ("weak", DROP, "weak: missing; weak and strong must each name a model (or give `ladder:`)"),
    # unknown
    ("polcy", {}, "polcy: unknown field; did you mean 'policy'?"),
    ("input/promt", "x", "input.promt: unknown field; did you mean 'prompt'?"),
    (
        "models/gpt-4.1/limits",
        {"inflight": 3},
        "models.gpt-4.1.limits.inflight: unknown field; did you mean 'in_flight'?",
    ),
    ("models/gpt-4.1/api_key", "sk-123", "models.gpt-4.1.api_key: unknown field; did you mean 'api_key_env'?"),
    (
        "models/small/price/per_million",
        {"inputs": 1, "output": 1},
        "models.small.price.per_million.inputs: unknown field; ",
    ),
    ("xyzzy", 1, "xyzzy: unknown field; remove it"),
    # types
    ("input/path", 5, "input.path: must be text or a list (found 5)"),
    ("input/path", ["a", 5], "input.path.1: must be text (found 5)"),
    ("input/path", [], "input.path: must not be empty"),
    ("input/path", "", "input.path: must not be empty"),
    ("output", "", "output: must not be empty"),
    ("input", "prompts.jsonl", "input: must be a section (name: value) (found 'prompts.jsonl')"),
    ("models", ["small"], "models: must be a section (name: value)"),
    ("models", {}, "models: must not be empty"),
    ("models/small", None, "models.small: must be a section (name: value)"),
    (
        "models/gpt-4.1/limits",
        {"in_flight": "many"},
        "models.gpt-4.1.limits.in_flight: must be a whole number (found 'many')",
    ),
    (
        "models/gpt-4.1/limits",
        {"in_flight": 2.5},
        "models.gpt-4.1.limits.in_flight: must be a whole number (found 2.5)",
    ),
    ("dedup", "sometimes", "dedup: must be auto or true or false (found 'sometimes')"),
    ("input/keep", "category", "input.keep: must be a list (found 'category')"),
    ("output", date(2026, 11, 21), "output: '2026-11-21' is read as a date; put it in quotes"),
    # engines and models
    (
        "models/small/engine",
        "vlm",
        "models.small.engine: must be one of vllm, openai, openai_batch or transformers (found 'vlm'); ",
    ),
    (
        "models/small/service_tier",
        "flex",
        "models.small: service_tier is for engine openai; nothing there has tiers: remove it",
    ),
    (
        "models/gpt-4.1/service_tier",
        "priority",
        "models.gpt-4.1.service_tier: must be one of auto, default or flex (found 'priority')",
    ),
    ("strong", "gpt-5", "strong: model 'gpt-5' is not under models: (there: small, gpt-4.1)"),
    ("strong", "small", "strong: weak and strong are both 'small'; name two models"),
    ("ladder", ["small", "gpt-4.1"], "ladder: stands instead of weak and strong; drop one of them"),
    ("models/a b", {"engine": "openai"}, "models: the name 'a b' may hold letters, digits, '.', '_' and '-' only; "),
    # money
    (
        "models/gpt-4.1/price/per_million/input",
        -1,
        "models.gpt-4.1.price.per_million.input: must be 0 or more (found -1)",
    ),
    ("models/small/price/gpu_hour_usd", -0.5, "models.small.price.gpu_hour_usd: must be 0 or more (found -0.5)"),
    (
        "models/small/price/per_million",
        {"input": 1, "output": 1},
        "models.small.price: give exactly one of per_million, gpu_hour_usd",
    ),
    ("models/gpt-4.1/price", {"gpu_hour_usd": 2}, "models.gpt-4.1: price.gpu_hour_usd is for engines that run here; "),
    ("max_usd", 0, "max_usd: must be more than 0 (found 0)"),
    ("max_usd", float("inf"), "max_usd: must be a finite number (found inf)"),
    ("max_usd", True, "max_usd: must be a number (found true)"),
    # sampling
    (
        "sampling",
        {"service_tier": "priority"},
        "sampling: service_tier is a field of the model itself, not a generation parameter; remove it here",
    ),
    ("sampling", {"stream": True}, "sampling: stream is set by the job, not a generation parameter; remove it here"),
    ("models/gpt-4.1/sampling", {"model": "gpt-5"}, "models.gpt-4.1.sampling: model is a field of the model itself, "),
    ("models/gpt-4.1/sampling", {"messages": []}, "models.gpt-4.1.sampling: messages is set by the job, not a "),
    # policy
    ("policy", {"budget_usd": 0}, "policy.budget_usd: must be more than 0 (found 0)"),
    ("policy", {"strong_share": 1.5}, "policy.strong_share: must be at most 1 (found 1.5)"),
    ("policy", {"threshold": float("nan")}, "policy.threshold: must be a finite number (found nan)"),
    (
        "policy",
        {},
        "policy: give exactly one of threshold, strong_share, budget_usd, min_quality, guarantee (found none)",
    ),
    (
        "policy/budget_usd",
        5,
        "policy: give exactly one of threshold, strong_share, budget_usd, min_quality, guarantee (found strong_share and ",
    ),
    ("on_budget", "strong", "on_budget: must be one of weak or stop (found 'strong')"),
    # columns
    ("input/messages", "chat", "input.prompt: give one of input.prompt, input.messages, template"),
    ("input/keep", ["id"], "input.keep: 'id' is a column of responses/; rename it in the input"),
    ("input/keep", ["model", "x"], "input.keep: 'model' is a column of responses/; rename it in the input"),
    ("input/keep", ["x", "x"], "input.keep: 'x' is named twice; drop one"),
    # secrets and addresses
    (
        "models/gpt-4.1/api_key_env",
        "sk-1234",
        "models.gpt-4.1.api_key_env: must be the name of an environment variable, not ",
    ),
    ("models/gpt-4.1/base_url", "http://me:pw1@h/v1", "models.gpt-4.1.base_url: must not hold a user or a password; "),
    ("models/gpt-4.1/base_url", "https://gw/v1?api-key=pw1", "models.gpt-4.1.base_url: must not hold a ? or a #, "),
    ("models/gpt-4.1/base_url", "https://gw/v1#pw1", "models.gpt-4.1.base_url: must not hold a ? or a #, "),
    ("models/gpt-4.1/base_url", "https://me:p/w1@h/v1", "models.gpt-4.1.base_url: must be a URL, e.g. "),
    (
        "models/gpt-4.1/base_url",
        "localhost:8000",
        "models.gpt-4.1.base_url: must be a URL, e.g. http://localhost:8000/v1",
    ),
    # later versions
    (
        "cascade",
        {"band": 0.2},
        "cascade: what the weak answers tell is learnt from a sample with quality; give the job ",
    ),
    ("cascade", {"bands": 0.2}, "cascade.bands: unknown field; did you mean 'band'?"),
    ("cascade", {"samples": 0}, "cascade.samples: must be 1 or more (found 0)"),
    ("cascade", {"signals": []}, "cascade.signals: must not be empty"),
    (
        "quality",
        {"judge": {"model": "gpt-4.1"}},
        "quality.judge: it rates the sample's answers; give the job sample: {rows: 500}",
    ),
    # schema
    ("response_format", {"schema": {}}, "response_format: write it as {json_schema: schema.json}"),
    ("response_format", {"json_schema": "gone.json"}, "response_format.json_schema: no file gone.json"),
    ("response_format", {"json_schema": 5}, "response_format.json_schema: must be a JSON schema (a mapping)"),
    ("response_format", {"json_schema": {"type": "strnig"}}, "response_format.json_schema: not a JSON schema: "),
    (
        "response_format",
        {"json_schema": {"$schema": [1]}},
        "response_format.json_schema: not a JSON schema: $schema must be text",
    ),
]
