"""The job file's section `models:`: engines, prices, limits, retries, sampling.

Unknown keys are errors, so a misspelt limit is never silently ignored. `jobs.spec.job` holds the whole job.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from jobs.errors import SpecError
from jobs.spec.engines import BUILT_IN, EngineTraits, engines, traits_of
from jobs.spec.fields import Dollars, Gpus, Model, Name, PositiveFloat, PositiveInt

JsonObject = dict[str, Any]


class PerMillion(Model):
    """Dollars per million tokens."""

    input: Dollars
    output: Dollars
    cached_input: Dollars | None = None


class PriceSpec(Model):
    """Metered price, or the price of the machine."""

    per_million: PerMillion | None = None
    gpu_hour_usd: Dollars | None = None
    batch: PerMillion | None = None
    """engine openai_batch: its rate; default the provider's, else half of `per_million`."""
    flex: PerMillion | None = None
    """service_tier flex: its rate; default the provider's, else half of `per_million`."""
    provider: bool = False
    """What a reply says it cost (`usage.cost` of OpenRouter and other gateways) is booked; `price: provider` is short for it.
    Plan, reservations and replies that do not say go by the other prices, or the list's."""

    @model_validator(mode="after")
    def _one_of(self) -> PriceSpec:
        metered = [self.per_million, self.batch, self.flex, self.provider or None]
        if any(metered) == (self.gpu_hour_usd is not None):
            raise ValueError("give exactly one of per_million, gpu_hour_usd")
        return self


class Limits(Model):
    """What the provider (or courtesy) allows, for all actors of the model together."""

    requests_per_minute: PositiveInt | None = None
    tokens_per_minute: PositiveInt | None = None
    in_flight: PositiveInt = 256
    enqueued_tokens: PositiveInt | None = None
    """openai_batch: prompt tokens of the model that may wait in batches, the provider's limit. Rates are not for batches."""


class Retries(Model):
    """How often one row is tried. 429 is limited by time, not by attempts."""

    attempts: PositiveInt = 8
    timeout_s: PositiveFloat = 120.0
    limited_s: PositiveFloat = 900.0
    """How long a row may be kept waiting by 429 answers."""


NOT_SAMPLING = ("model", "messages", "stream", "stream_options", "service_tier")
"""Parts of a request's body that neither `sampling` nor a row may set: they say what is asked, how it comes, what it costs."""


NOT_TEMPLATE = ("chat_template", "tokenize", "conversation", "messages", "add_generation_prompt", "continue_final_message",
                "return_dict", "return_tensors")  # fmt: skip
"""What `chat_template_kwargs` may not set: how a prompt is rendered is the job's."""


def _with_template_variables(schema: JsonObject) -> None:
    """`chat_template_kwargs` is one of the other parameters; editors are told of it all the same."""
    schema["properties"]["chat_template_kwargs"] = {
        "anyOf": [{"type": "object", "additionalProperties": True}, {"type": "null"}], "default": None,
        "description": "Variables of the model's chat template, e.g. {enable_thinking: false}.",
    }  # fmt: skip


class Sampling(Model):
    """Generation parameters; those of a model win over the job's, and null there takes the job's value away. Other ones are sent
    as they are. Without max_tokens and max_completion_tokens an answer has 1,024 tokens at most."""

    model_config = ConfigDict(extra="allow", frozen=True, json_schema_extra=_with_template_variables)
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
    seed: int | None = None
    stop: str | list[str] | None = None

    @model_validator(mode="after")
    def _of_the_answer_alone(self) -> Sampling:
        if wrong := [name for name in NOT_SAMPLING if name in (self.model_extra or {})]:
            why = "is a field of the model itself" if wrong[0] in ("model", "service_tier") else "is set by the job"
            raise ValueError(f"{wrong[0]} {why}, not a generation parameter; remove it here")
        return self

    @model_validator(mode="after")
    def _template_variables(self) -> Sampling:
        variables = (self.model_extra or {}).get("chat_template_kwargs")
        if variables is None:
            return self
        if not isinstance(variables, dict):
            raise ValueError("chat_template_kwargs must be a section, e.g. {enable_thinking: false}")
        if wrong := [name for name in variables if name in NOT_TEMPLATE]:
            raise ValueError(f"chat_template_kwargs.{wrong[0]} is no variable of a chat template; remove it")
        return self

    def given(self) -> JsonObject:
        """What has a value."""
        return self.model_dump(exclude_none=True)

    @property
    def removed(self) -> frozenset[str]:
        """Parameters that are null: a model's own take the job's value away."""
        values = {name: getattr(self, name) for name in type(self).model_fields} | (self.model_extra or {})
        return frozenset(name for name in self.model_fields_set if values[name] is None)


def check_address(url: str) -> str:
    """An endpoint's URL as it is. Raises ValueError, which does not repeat it, where it is none or may hold a secret."""
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets without an end; a port that is no number
        is_url = False
    if not is_url:
        raise ValueError("must be a URL, e.g. http://localhost:8000/v1")
    if "@" in parts.netloc:
        raise ValueError("must not hold a user or a password; put the key into the variable that api_key_env names")
    if "?" in url or "#" in url:
        raise ValueError(
            "must not hold a ? or a #, where keys hide; put the key into the variable that api_key_env names"
        )
    return url


FLEX_TIMEOUT_S = 900.0


def _known(engine: object) -> str:
    """Raises pydantic's own complaint about a literal, which lists what there is (jobs.spec.complaints)."""
    if not isinstance(engine, str) or engine not in engines():
        *others, last = (repr(name) for name in engines())
        raise PydanticKnownError("literal_error", {"expected": f"{', '.join(others)} or {last}"})
    try:
        traits_of(engine)
    except SpecError as broken:
        raise ValueError(str(broken)) from None
    return engine


Engine = Annotated[
    str,
    PlainValidator(_known),
    WithJsonSchema({"anyOf": [{"enum": list(BUILT_IN), "type": "string"}, {"type": "string"}]}),
]
"""Checked when a job file is read: what is installed then, not when this module was imported."""


_OR_PROVIDER = BeforeValidator(
    lambda price: {"provider": True} if price == "provider" else price,
    json_schema_input_type=PriceSpec | Literal["provider"] | None,
)

SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
"""Of engine_kwargs: into how many processes vLLM divides a replica."""


def _arguments(command: Any) -> Any:
    if isinstance(command, str):
        raise ValueError("must be a list of arguments, e.g. [gcloud, auth, print-access-token]; no shell reads it")
    if isinstance(command, list) and any(isinstance(each, str) and "\0" in each for each in command):
        raise ValueError("must not hold a NUL character")
    return command


class ModelSpec(Model):
    """One model: the engine that runs it, its price and its limits."""

    engine: Engine
    source: Name | None = None
    """vllm, transformers: hub id or folder."""
    model: Name | None = None
    """openai: the provider's name of the model; default the job file's name for it."""
    base_url: str | None = None
    """openai: endpoint; default the environment's OPENAI_BASE_URL, else the provider's own."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key. The key itself never stands in a job file."""
    price: Annotated[PriceSpec | None, _OR_PROVIDER] = None
    api_key_command: Annotated[list[Name], BeforeValidator(_arguments), Field(min_length=1)] | None = None
    """openai, openai_batch: a program that prints the key, as a list of arguments (no shell), instead of api_key_env; for keys
    that expire within a run. Run again when the provider refuses the key, at most once a minute. Needs --allow-code."""
    limits: Limits = Limits()
    retries: Retries = Retries()
    sampling: Sampling = Sampling()
    service_tier: Literal["auto", "default", "flex"] | None = None
    """openai: `flex` is half price, slower, and now and then turned away (429, asked again); retries.timeout_s is 900 then.
    Answers that the provider serves in its standard tier all the same are priced in full."""
    context: PositiveInt | None = None
    """Longest prompt + answer in tokens; local models know it themselves."""
    tokenizer: str | None = None
    """Hub id or folder; makes prompt token counts exact before the run. Local models use their own."""
    gpus: Gpus = 1
    """vllm, transformers: GPUs of one replica. A fraction shares one GPU with other engines, 0 keeps the engine on CPUs; of
    several, engine_kwargs say how they are used (tensor_parallel_size x pipeline_parallel_size)."""
    accelerator_type: Name | None = None
    """vllm, transformers: only on nodes with this GPU, by Ray's name for it (L4, A100, H100, …)."""
    replicas: PositiveInt = 1
    """vllm, transformers: engines side by side. openai: sending processes."""
    engine_kwargs: dict[str, Any] = {}
    """vllm, transformers: passed to the engine (tensor_parallel_size, max_model_len, …); what may load code needs --allow-code."""

    @property
    def traits(self) -> EngineTraits:
        """Of its engine."""
        return traits_of(self.engine)

    @property
    def key_from(self) -> str:
        """Where its key comes from, for a person."""
        return "api_key_command" if self.api_key_command else f"${self.api_key_env}"

    @property
    def tensor_parallel(self) -> int:
        """GPUs that each stage of one replica is spread over."""
        return int(self.engine_kwargs.get("tensor_parallel_size") or 1)

    @property
    def workers(self) -> int:
        """Processes of one replica, a GPU (or a share of one, or CPUs) each."""
        return self.tensor_parallel * int(self.engine_kwargs.get("pipeline_parallel_size") or 1)

    @model_validator(mode="before")
    @classmethod
    def _patience_for_flex(cls, data: Any) -> Any:
        """The provider's own advice for the flex tier is a time-out of 15 minutes."""
        if isinstance(data, dict) and data.get("service_tier") == "flex":
            retries = data.get("retries") or {}
            if isinstance(retries, dict) and retries.get("timeout_s") is None:
                data = data | {"retries": retries | {"timeout_s": FLEX_TIMEOUT_S}}
        return data

    @field_validator("api_key_env")
    @classmethod
    def _a_name_not_a_key(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError("must be the name of an environment variable, not the key itself, e.g. OPENAI_API_KEY")
        return name

    @field_validator("base_url")
    @classmethod
    def _an_address_without_a_key(cls, url: str | None) -> str | None:
        return check_address(url) if url else url

    @model_validator(mode="after")
    def _engine_fields(self) -> ModelSpec:
        traits = self.traits
        if traits.needs_source and not self.source:
            raise ValueError(f"source is missing; engine {self.engine} needs a hub id or a folder")
        if self.service_tier and not traits.has_service_tiers:
            why = "a batch has a rate of its own" if traits.runs == "batches" else "nothing there has tiers"
            raise ValueError(f"service_tier is for engine openai; {why}: remove it")
        if self.api_key_command and traits.runs == "here":
            raise ValueError(
                f"api_key_command is for engines that call a provider; {self.engine} needs no key: remove it"
            )
        if self.api_key_command and "api_key_env" in self.model_fields_set:
            raise ValueError("give one of api_key_env, api_key_command")
        if traits.runs != "here" and self.price and self.price.gpu_hour_usd is not None:
            raise ValueError("price.gpu_hour_usd is for engines that run here; an API needs price.per_million")
        if traits.runs == "here" and self.price and self.price.provider:
            raise ValueError(
                f"price.provider is for APIs, whose replies say what they cost; engine {self.engine} runs here: give "
                "price.per_million or price.gpu_hour_usd"
            )
        return self

    @model_validator(mode="after")
    def _gpus_add_up(self) -> ModelSpec:
        for name in SIZES:
            size = self.engine_kwargs.get(name)
            if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
                raise ValueError(f"engine_kwargs.{name}: must be a whole number of 1 or more (found {size!r})")
        if self.traits.runs != "here":
            return self
        if self.engine_kwargs.get("data_parallel_size", 1) != 1:
            raise ValueError(
                "engine_kwargs.data_parallel_size: engines side by side are replicas here; set replicas instead"
            )
        if self.engine == "transformers" and self.gpus > 1:
            raise ValueError(
                f"gpus: engine transformers runs on one GPU (found {self.gpus:g}); use engine vllm for more"
            )
        if self.gpus > 1 and self.gpus != self.workers:
            raise ValueError(
                f"gpus: {self.gpus:g}, but engine_kwargs use {self.workers} (tensor_parallel_size x pipeline_parallel_size);"
                f" set engine_kwargs.tensor_parallel_size: {self.gpus:g}, or remove gpus"
            )
        if 0 < self.gpus < 1 and self.workers > 1:
            raise ValueError(
                f"gpus: {self.gpus:g} is a share of one GPU, but engine_kwargs use {self.workers}; remove gpus"
            )
        return self
