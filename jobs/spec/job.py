"""The job file: YAML in, one checked `JobSpec` out, or one line that names the field and the fix.

Checked once, here; everything inside trusts it. Unknown keys are errors, so a misspelt limit is never silently ignored.
"""

# ruff: noqa: RUF012 - pydantic copies the default of every field

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from jobs.errors import SpecError
from jobs.job_file import POLICIES, fill_date, plain, read_job_file, read_schema
from jobs.spec_errors import one_line
from jobs.spec_models import Model, ModelSpec, Name, PositiveFloat, PositiveInt, Sampling, Share, number

UNTRAINED_ROUTERS = ("random", "length")
RESPONSE_COLUMNS = (
    *("id", "model", "route", "route_reason", "router_score", "generated_text", "finish_reason"),
    *("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "token_source"),
    *("cost_usd", "lost_usd", "latency_s", "attempts", "copied_from", "error", "parsed", "quality", "quality_source"),
)


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


class GuaranteeSpec(Model):
    """For label tasks: this share of all rows gets the answer that the strong model gives, with this confidence."""

    agreement: Share
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    match: Name | None = None
    """How two answers are compared; default quality.gold.match, else exact."""


class PolicySpec(Model):
    """Where the cut is: exactly one of five limits."""

    threshold: Share | None = None
    strong_share: Share | None = None
    budget_usd: PositiveFloat | None = None
    min_quality: Share | None = None
    guarantee: GuaranteeSpec | None = None
    rank_by: Literal["score", "gain", "gain_per_dollar"] | None = None

    @model_validator(mode="after")
    def _one_policy(self) -> PolicySpec:
        given = [k for k in POLICIES if getattr(self, k) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise ValueError(f"give exactly one of {', '.join(POLICIES)} (found {found})")
        return self

    @property
    def kind(self) -> str:
        return next(k for k in POLICIES if getattr(self, k) is not None)

    @property
    def value(self) -> float:
        limit = getattr(self, self.kind)
        return limit.agreement if isinstance(limit, GuaranteeSpec) else float(limit)

    @property
    def promises(self) -> bool:
        """The cut is the cheapest one that the pilot's select fold vouches for."""
        return self.min_quality is not None or self.guarantee is not None


class SampleSpec(Model):
    """Rows that every model answers, so that the run can measure itself."""

    rows: PositiveInt
    max_usd: PositiveFloat | None = None
    seed: int = 0


class GoldSpec(Model):
    """A column with the right answer and how to compare with it."""

    column: Name
    match: Name = "exact"
    """exact, numeric, multiple_choice, regex, json:field, python:module:function; or `judge`: texts that no rule compares, which
    quality.judge is shown as reference answers."""


JUDGE = "judge"
"""The judge's own name in the journal and the ledger, whichever model it is; and the gold that only a judge can compare."""


class JudgeSpec(Model):
    """A model that says how good the sample's answers are, where no gold answer does."""

    model: Name
    """Any model of the job, in the ladder or not."""
    rows: PositiveInt | None = None
    """Rows of the sample that it is asked about; default all of them."""
    mode: Literal["rating", "pairwise"] = "rating"
    """rating: every answer by itself, 1-10. pairwise: every model's answer against the strong model's, in both orders."""
    reference: Literal["auto", "none"] = "auto"
    """auto: the judge is shown the row's gold answer, where it has one."""
    sampling: Sampling | None = None
    """Its generation parameters; default temperature 0 and room for 512 tokens. Give them whole: nothing is added to them."""


class QualitySpec(Model):
    """How good an answer is: a gold column, a judge, or gold where there is some and the judge elsewhere."""

    gold: GoldSpec | None = None
    judge: JudgeSpec | None = None

    @property
    def matcher(self) -> str | None:
        """How an answer is compared with gold; None where nothing but a judge can."""
        return self.gold.match if self.gold and self.gold.match != JUDGE else None


SAMPLES = "samples"
"""The name under which the journal and the ledger keep a cascade's extra answers of the weak model."""


class CascadeSpec(Model):
    """The weak model answers first, and its answers help to decide which rows go further up."""

    signals: Annotated[list[Literal["logprob", "agreement", "response"]], Field(min_length=1)] = ["response"]
    """response: the answer's text. logprob: log-probabilities of its tokens, where the engine gives them. agreement: of it with
    further answers to the same prompt, drawn at temperature 0.7."""
    band: Share = 0.2
    """Share of the rows, half of it on either side of the cut, within which a row's place is looked at twice: further answers are
    drawn there, and no row in it goes up unasked."""
    samples: Annotated[int, BeforeValidator(number), Field(ge=1, le=32)] = 4
    """agreement: further answers a row."""


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
    cascade: CascadeSpec | None = None
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
        has_prompt = sum(x is not None for x in (self.input.prompt, self.input.messages, self.template))
        if has_prompt > 1:
            raise ValueError("input.prompt: give one of input.prompt, input.messages, template")
        self._check_judge()
        self._check_cascade()
        return self

    def _check_cascade(self) -> None:
        if self.cascade is None:
            return
        if self.sample is None or not any((self.quality.gold, self.quality.judge, self.policy.guarantee)):
            raise ValueError(
                "cascade: what the weak answers tell is learnt from a sample with quality; give the job sample: {rows: 500} and "
                "quality.gold or quality.judge"
            )
        weak = self.models[self.names[0]]
        if "logprob" in self.cascade.signals and weak.engine == "openai_batch":
            raise ValueError("cascade.signals: logprob is not read from batches; remove it")
        if SAMPLES in self.models:
            raise ValueError(f"models.{SAMPLES}: a cascade keeps its further answers under this name; rename the model")

    def _check_judge(self) -> None:
        judge, gold = self.quality.judge, self.quality.gold
        if gold and gold.match == JUDGE and not judge:
            raise ValueError("quality.gold.match: judge leaves the comparing to a judge; give quality.judge a model")
        if judge is None:
            return
        if judge.model not in self.models:
            raise ValueError(
                f"quality.judge.model: {judge.model!r} is not under models: (there: {', '.join(self.models)})"
            )
        if self.sample is None:
            raise ValueError("quality.judge: it rates the sample's answers; give the job sample: {rows: 500}")
        if self.policy.guarantee is not None:
            raise ValueError(
                "quality.judge: policy.guarantee compares answers with the strong model's; remove one of the two"
            )
        if JUDGE in self.names:
            raise ValueError(f"models.{JUDGE}: the judge keeps its verdicts under this name; rename the model")

    @property
    def names(self) -> tuple[str, ...]:
        """The models that take part, cheapest first: index 0 is the weak one, the last the strong one."""
        return tuple(self.ladder) if self.ladder else (str(self.weak), str(self.strong))

    @property
    def payees(self) -> tuple[str, ...]:
        """Whoever may have spent dollars of the run: the models, and a judge and a cascade's samples, also where the job file no
        longer names them."""
        return (*self.names, *(name for name in (JUDGE, SAMPLES) if name not in self.names))

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
    if isinstance(data.get("reuse"), list):
        data["reuse"] = [fill_date(uri) if isinstance(uri, str) else uri for uri in data["reuse"]]
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
        spec = spec.model_copy(update={"response_format": read_schema(spec.response_format, base or Path("."))})
    return spec
