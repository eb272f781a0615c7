"""The job file: YAML in, one checked `JobSpec` out, or one line that names the field and the fix.

Checked once, here; everything inside trusts it. Unknown keys are errors, so a misspelt limit is never silently ignored.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from jobs.spec.fields import Gpus, Model, Name, PositiveFloat, Share
from jobs.spec.models import ModelSpec, Sampling
from jobs.spec.sections import JUDGE, SAMPLES, CascadeSpec, InputSpec, JudgeSpec, PolicySpec, QualitySpec, SampleSpec

UNTRAINED_ROUTERS = ("random", "length")


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
    on_refused: Literal["error", "strong"] = "error"
    """Where a row goes that its model refuses while it answers others: nowhere, with the model's words for its error, or to the
    next model up. A prompt that is too long for its model always goes up."""
    dedup: Literal["auto"] | bool = "auto"
    max_error_share: Share = 0.01
    sample: SampleSpec | None = None
    cascade: CascadeSpec | None = None
    quality: QualitySpec = QualitySpec()
    reuse: list[str] = []
    router_models: dict[str, str] = {}
    """Job model name → name of that model in the router artifact, where they differ."""
    router_gpus: Annotated[Gpus, Field(le=1)] | None = None
    """GPU share of each process that scores: .25 puts four on a GPU, 0 keeps them on CPUs. Default: 1 for a router with a neural
    network in it where the cluster has GPUs, 0 for every other one."""
    placement_timeout_s: PositiveFloat = 1800.0
    """How long the run waits for GPUs or CPUs that the cluster does not have free, beside those its own engines hold."""

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
        if "logprob" in self.cascade.signals and not weak.traits.gives_logprobs:
            of = "read from batches" if weak.traits.runs == "batches" else f"given by engine {weak.engine}"
            raise ValueError(f"cascade.signals: logprob is not {of}; remove it")
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
        """Generation parameters of one model: the job's, then the model's own on top, without what those take away."""
        own = self.models[name].sampling
        merged = {key: value for key, value in (self.sampling.given() | own.given()).items() if key not in own.removed}
        if "max_completion_tokens" in merged:
            merged.pop("max_tokens", None)
        elif "max_tokens" not in merged:
            merged["max_tokens"] = DEFAULT_MAX_TOKENS
        return merged

    def content(self) -> dict[str, Any]:
        """As a job file would say it, null where that means something."""
        data = self.model_dump(mode="json", exclude_none=True)
        for name, model in self.models.items():
            data["models"][name]["sampling"] |= dict.fromkeys(sorted(model.sampling.removed))
        return data

    def max_tokens_of(self, name: str) -> int:
        sampling = self.sampling_of(name)
        return int(sampling.get("max_completion_tokens") or sampling["max_tokens"])

    def deduplicates(self) -> bool:
        """Equal prompts are asked once: always, never, or (auto) where every model answers at temperature 0."""
        if self.dedup != "auto":
            return bool(self.dedup)
        return all(self.sampling_of(name).get("temperature", 1) == 0 for name in self.names)


DEFAULT_MAX_TOKENS = 1024


def has_pilot(spec: JobSpec) -> bool:
    """The sample is answered before the cut: its quality can be told, so that the cut learns from it."""
    quality = spec.quality
    return spec.sample is not None and any((quality.matcher, quality.judge, spec.policy.guarantee))


def most_judged(spec: JobSpec) -> int | None:
    """How many rows of the sample the judge sees at most; None where no number is given."""
    return spec.quality.judge.rows if spec.quality.judge else None


def _judge_of(spec: JobSpec) -> JudgeSpec:
    assert spec.quality.judge is not None
    return spec.quality.judge


def cap_usd(spec: JobSpec) -> float | None:
    """The most that a run may spend: max_usd and a dollar policy, whichever is less."""
    caps = [c for c in (spec.max_usd, spec.policy.budget_usd) if c is not None]
    return min(caps) if caps else None
