"""The job file: YAML in, one checked `JobSpec` out, or one line that names the field and the fix.

Checked once, here; everything inside trusts it. Unknown keys are errors, so a misspelt limit is never silently ignored.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from jobs.errors import SpecError
from jobs.job_file import POLICIES, plain, printable, read_job_file
from jobs.spec_errors import one_line

UNTRAINED_ROUTERS = ("random", "length")
RESPONSE_COLUMNS = (
    *("id", "model", "route", "route_reason", "router_score", "generated_text", "finish_reason"),
    *("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "token_source"),
    *("cost_usd", "lost_usd", "latency_s", "attempts", "copied_from", "error", "parsed", "quality", "quality_source"),
)


class Model(BaseModel):
    """Base of every section: unknown keys refused, values frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True)


def _number(value: Any) -> Any:
    """`budget_usd: yes` is true in YAML, which pydantic would take for 1."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number (found {str(value).lower()})")
    return value


PositiveInt = Annotated[int, BeforeValidator(_number), Field(gt=0, le=2**53)]
PositiveFloat = Annotated[float, BeforeValidator(_number), Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1, allow_inf_nan=False)]
Dollars = Annotated[float, BeforeValidator(_number), Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]


class InputSpec(Model):
    """Where the prompts are and which columns mean what."""

    path: Name | Annotated[list[Name], Field(min_length=1)]
    """File, folder or glob; s3://, gs:// or local; Parquet, JSONL or CSV by suffix."""
    id: Name | None = None
    """Column of row ids. Default: the row's position in the input."""
    prompt: Name | None = None
    """Column of prompt texts."""
    messages: Name | None = None
    """Column of chat messages, instead of `prompt`. OpenAI batch lines need neither."""
    keep: list[Name] = []
    """Columns copied into responses/."""
    format: Literal["auto", "parquet", "jsonl", "csv", "openai_batch"] = "auto"

    @field_validator("keep")
    @classmethod
    def _kept_columns(cls, keep: list[str]) -> list[str]:
        for at, name in enumerate(keep):
            if name in RESPONSE_COLUMNS:
                raise ValueError(f"{name!r} is a column of responses/; rename it in the input")
            if name in keep[:at]:
                raise ValueError(f"{name!r} is named twice; drop one")
        return keep


class PerMillion(Model):
    """Dollars per million tokens."""

    input: Dollars
    output: Dollars
    cached_input: Dollars | None = None


class PriceSpec(Model):
    """Metered price, or the price of the machine."""

    per_million: PerMillion | None = None
    gpu_hour_usd: Dollars | None = None

    @model_validator(mode="after")
    def _one_of(self) -> PriceSpec:
        if (self.per_million is None) == (self.gpu_hour_usd is None):
            raise ValueError("give exactly one of per_million, gpu_hour_usd")
        return self


class Limits(Model):
    """What the provider (or courtesy) allows, for all actors of the model together."""

    requests_per_minute: PositiveInt | None = None
    tokens_per_minute: PositiveInt | None = None
    in_flight: PositiveInt = 256


class Retries(Model):
    """How often one row is tried. 429 is limited by time, not by attempts."""

    attempts: PositiveInt = 8
    timeout_s: PositiveFloat = 120.0
    limited_s: PositiveFloat = 900.0
    """How long a row may be kept waiting by 429 answers."""


class Sampling(Model):
    """Generation parameters; those of a model win over the job's."""

    model_config = ConfigDict(extra="allow", frozen=True)
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
    seed: int | None = None
    stop: str | list[str] | None = None


Engine = Literal["vllm", "openai", "openai_batch", "transformers"]


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
    price: PriceSpec | None = None
    limits: Limits = Limits()
    retries: Retries = Retries()
    sampling: Sampling = Sampling()
    service_tier: str | None = None
    context: PositiveInt | None = None
    """Longest prompt + answer in tokens; local models know it themselves."""
    tokenizer: str | None = None
    """Hub id or folder; makes prompt token counts exact before the run. Local models use their own."""
    gpus: PositiveInt = 1
    """vllm, transformers: GPUs of one replica, for `price.gpu_hour_usd`."""
    replicas: PositiveInt = 1
    """vllm, transformers: engines side by side. openai: sending processes."""
    engine_kwargs: dict[str, Any] = {}
    """vllm: passed to the engine (tensor_parallel_size, max_model_len, dtype, …)."""

    @field_validator("api_key_env")
    @classmethod
    def _a_name_not_a_key(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError("must be the name of an environment variable, not the key itself, e.g. OPENAI_API_KEY")
        return name

    @field_validator("base_url")
    @classmethod
    def _an_address_without_a_key(cls, url: str | None) -> str | None:
        try:
            parts = urlsplit(url or "http://x")
        except ValueError:
            raise ValueError("must be a URL, e.g. http://localhost:8000/v1") from None
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError("must be a URL, e.g. http://localhost:8000/v1")
        if "@" in parts.netloc:
            raise ValueError("must not hold a user or a password; put the key into the variable that api_key_env names")
        return url

    @model_validator(mode="after")
    def _engine_fields(self) -> ModelSpec:
        if "@" in (self.base_url or "").split("//")[-1].split("/")[0]:
            raise ValueError("base_url must not hold a user or a key; name the key's variable in api_key_env")
        if self.engine in ("vllm", "transformers") and not self.source:
            raise ValueError(f"source is missing; engine {self.engine} needs a hub id or a folder")
        if self.engine.startswith("openai") and self.price and self.price.gpu_hour_usd is not None:
            raise ValueError("price.gpu_hour_usd is for engines that run here; an API needs price.per_million")
        return self


class PolicySpec(Model):
    """Where the cut is: exactly one of four limits."""

    threshold: Share | None = None
    strong_share: Share | None = None
    budget_usd: PositiveFloat | None = None
    min_quality: Share | None = None
    rank_by: Literal["score", "gain", "gain_per_dollar"] | None = None

    @model_validator(mode="after")
    def _one_policy(self) -> PolicySpec:
        given = [k for k in POLICIES if getattr(self, k) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise ValueError(f"give exactly one of threshold, strong_share, budget_usd, min_quality (found {found})")
        return self

    @property
    def kind(self) -> str:
        return next(k for k in POLICIES if getattr(self, k) is not None)

    @property
    def value(self) -> float:
        return float(getattr(self, self.kind))


class SampleSpec(Model):
    """Rows that every model answers, so that the run can measure itself."""

    rows: PositiveInt
    max_usd: PositiveFloat | None = None
    seed: int = 0


class GoldSpec(Model):
    """A column with the right answer and how to compare with it."""

    column: Name
    match: Name = "exact"


class QualitySpec(Model):
    gold: GoldSpec | None = None
    judge: dict[str, Any] | None = None


class JobSpec(Model):
    """A whole job."""

    input: InputSpec
    output: Name
    router: Name
    """An artifact directory, or a router that needs no training: random, length."""
    models: Annotated[dict[str, ModelSpec], Field(min_length=1)]
    weak: str | None = None
    strong: str | None = None
    ladder: list[str] | None = None
    """More than two models, cheapest first, instead of weak and strong."""
    system: str | None = None
    template: str | None = None
    response_format: dict[str, Any] | None = None
    sampling: Sampling = Sampling()
    policy: PolicySpec
    max_usd: PositiveFloat | None = None
    on_budget: Literal["weak", "stop"] = "weak"
    dedup: Literal["auto"] | bool = "auto"
    max_error_share: Share = 0.01
    sample: SampleSpec | None = None
    cascade: dict[str, Any] | None = None
    quality: QualitySpec = QualitySpec()
    reuse: list[str] = []
    router_models: dict[str, str] = {}
    """Job model name → name of that model in the router artifact, where they differ."""

    @field_validator("models")
    @classmethod
    def _model_names(cls, models: dict[str, ModelSpec]) -> dict[str, ModelSpec]:
        for name in models:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
                raise ValueError(
                    f"the name {name!r} may hold letters, digits, '.', '_' and '-' only; "
                    "put the provider's name under `model:`"
                )
        return models

    @model_validator(mode="after")
    def _roles(self) -> JobSpec:
        if self.ladder is not None:
            if self.weak or self.strong:
                raise ValueError("ladder: stands instead of weak and strong; drop one of them")
            if len(self.ladder) < 2 or len(set(self.ladder)) != len(self.ladder):
                raise ValueError("ladder: needs two or more different models, cheapest first")
            roles = [("ladder", name) for name in self.ladder]
        else:
            roles = [("weak", self.weak or ""), ("strong", self.strong or "")]
            for role, name in roles:
                if not name:
                    raise ValueError(f"{role}: missing; weak and strong must each name a model (or give `ladder:`)")
            if self.weak == self.strong:
                raise ValueError(f"strong: weak and strong are both {self.weak!r}; name two models")
        for role, name in roles:
            if name not in self.models:
                raise ValueError(f"{role}: model {name!r} is not under models: (there: {', '.join(self.models)})")
            if self.models[name].engine == "openai_batch":
                raise ValueError(f"models.{name}.engine: openai_batch is not available in this version; use openai")
        has_prompt = sum(x is not None for x in (self.input.prompt, self.input.messages, self.template))
        if has_prompt > 1:
            raise ValueError("input.prompt: give one of input.prompt, input.messages, template")
        for field in ("cascade", "reuse"):
            if getattr(self, field):
                raise ValueError(f"{field}: not available in this version; remove it")
        if self.quality.judge:
            raise ValueError("quality.judge: not available in this version; use quality.gold")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The models that take part, cheapest first: index 0 is the weak one, the last the strong one."""
        return tuple(self.ladder) if self.ladder else (str(self.weak), str(self.strong))

    def sampling_of(self, name: str) -> dict[str, Any]:
        """Generation parameters of one model: the job's, then the model's own on top."""
        merged = {
            **self.sampling.model_dump(exclude_none=True),
            **self.models[name].sampling.model_dump(exclude_none=True),
        }
        if "max_completion_tokens" in merged:
            merged.pop("max_tokens", None)
        elif "max_tokens" not in merged:
            merged["max_tokens"] = DEFAULT_MAX_TOKENS
        return merged

    def max_tokens_of(self, name: str) -> int:
        sampling = self.sampling_of(name)
        return int(sampling.get("max_completion_tokens") or sampling["max_tokens"])

    def deduplicates(self) -> bool:
        """Equal prompts are asked once: always, never, or (auto) where every model answers at temperature 0."""
        if self.dedup != "auto":
            return bool(self.dedup)
        return all(self.sampling_of(name).get("temperature", 1) == 0 for name in self.names)


DEFAULT_MAX_TOKENS = 1024


def load_spec(path: str, overrides: list[str] | None = None) -> JobSpec:
    """Read and check a job file, `--set a.b=c` overrides applied. Raises SpecError."""
    return parse_spec(read_job_file(path, overrides), base=Path(path).parent)


def parse_spec(data: dict[str, Any], base: Path | None = None) -> JobSpec:
    """Check a mapping. `base`: folder that a relative schema path is read from. Raises SpecError."""
    if not isinstance(data, dict):
        raise SpecError("job file: must be a mapping with input, output, router, models, policy")
    data = plain(data)
    if isinstance(data.get("output"), str):
        data["output"] = fill_date(data["output"])
    section = data.get("input")
    if isinstance(section, dict) and "path" in section:
        paths = section["path"]
        filled = [fill_date(p) if isinstance(p, str) else p for p in paths] if isinstance(paths, list) else paths
        data["input"] = {**section, "path": fill_date(filled) if isinstance(filled, str) else filled}
    try:
        spec = JobSpec.model_validate(data)
    except ValidationError as error:
        raise SpecError(one_line(error, data, JobSpec)) from None
    if spec.response_format:
        spec = spec.model_copy(update={"response_format": _read_schema(spec.response_format, base or Path("."))})
    return spec


def fill_date(path: str) -> str:
    """`{date}` in a path becomes today's date (ISO, UTC: the same wherever the driver runs)."""
    return path.replace("{date}", datetime.now(UTC).date().isoformat())


def _read_schema(response_format: dict[str, Any], base: Path) -> dict[str, Any]:
    """`{json_schema: FILE or mapping}` → `{"json_schema": mapping}`, the schema itself checked."""
    import jsonschema

    if set(response_format) - {"json_schema", "type"} or "json_schema" not in response_format:
        raise SpecError("response_format: write it as {json_schema: schema.json} (a file, or the schema itself)")
    schema = response_format["json_schema"]
    if isinstance(schema, str):
        path = base / schema
        try:
            schema = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SpecError(f"response_format.json_schema: no file {printable(str(path))}") from None
        except (OSError, ValueError):
            raise SpecError(f"response_format.json_schema: {printable(str(path))} is not JSON") from None
    if not isinstance(schema, dict):
        raise SpecError("response_format.json_schema: must be a JSON schema (a mapping)")
    try:
        if not isinstance(schema.get("$schema", ""), str):
            raise jsonschema.SchemaError("$schema must be text")
        jsonschema.validators.validator_for(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        reason = " ".join(error.message.split())[:160]
        raise SpecError(f"response_format.json_schema: not a JSON schema: {reason}") from None
    return {"json_schema": schema}
