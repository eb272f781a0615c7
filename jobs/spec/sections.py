"""The job file's sections beside `models:`: what is asked, where the cut is, how the sample is measured.

Each checks what it can see by itself; what several of them must agree on is `jobs.spec.job`'s.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from jobs.spec.fields import Model, Name, PositiveFloat, PositiveInt, Share, number
from jobs.spec.models import Sampling

RESPONSE_COLUMNS = (
    *("id", "model", "route", "route_reason", "router_score", "generated_text", "finish_reason"),
    *("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "token_source"),
    *("cost_usd", "lost_usd", "latency_s", "attempts", "copied_from", "error", "parsed", "quality", "quality_source"),
)


class CsvSpec(Model):
    """How the input's CSV files are written, where it is not as usual."""

    delimiter: Name | None = None
    """One character, or `tab`. Default: what the header says; a comma, or a tab in .tsv files, where that cuts it."""
    quote: Name = '"'
    """One character around fields; `none`: quotes mean nothing."""
    escape: Literal["doubled", "backslash"] = "doubled"
    """How a quote within a quoted field is written: twice, or after a backslash."""
    max_field_lines: PositiveInt = 100
    """Lines that a quoted field may run over. One that was never closed runs to the next quote, and swallows the rows between."""

    @field_validator("delimiter", "quote")
    @classmethod
    def _one_character(cls, value: str | None, info: ValidationInfo) -> str | None:
        words = {"tab": "\t", "\\t": "\t"} if info.field_name == "delimiter" else {"none": "none"}
        value = words.get(value or "", value)
        if value is not None and value != "none" and (len(value) > 1 or value in "\r\n\\"):
            raise ValueError(f"must be one character or {next(iter(words))} (found {value!r})")
        return value

    @model_validator(mode="after")
    def _two_characters(self) -> CsvSpec:
        if self.delimiter == self.quote:
            raise ValueError(f"delimiter and quote are both {self.quote!r}; give two characters")
        return self


class InputSpec(Model):
    """Where the prompts are and which columns mean what."""

    path: Name | Annotated[list[Name], Field(min_length=1)]
    """File, folder or glob; s3://, gs:// or local; Parquet, JSON(L), CSV or TSV by suffix. `**` is any number of folders."""
    id: Name | None = None
    """Column of row ids. Default: the row's position in the input."""
    prompt: Name | None = None
    """Column of prompt texts."""
    messages: Name | None = None
    """Column of chat messages, instead of `prompt`. OpenAI batch lines need neither."""
    keep: list[Name] = []
    """Columns copied into responses/ as they stand in the files; where a column's types differ, as the type that holds all of its
    values, or as text."""
    format: Literal["auto", "parquet", "jsonl", "csv", "openai_batch"] = "auto"
    csv: CsvSpec = CsvSpec()

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
    """exact, numeric, multiple_choice (multiple_choice:0, :1 where gold counts the options from 0 or from 1 and they do not tell),
    regex, json:field, python:module:function; or `judge`: texts that no rule compares, which quality.judge is shown as reference
    answers."""


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


POLICIES = ("threshold", "strong_share", "budget_usd", "min_quality", "guarantee")
