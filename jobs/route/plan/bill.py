"""The bill: what a plan costs by the expected sizes, the range, the worst case, and the curve of cost against quality.

A record with the keys of plan/NNNN/bill.json, which is also what `headgate plan --json` prints. jobs/route/plan/costing.py makes it
of a cut; the planner adds what the cut does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from jobs.route.plan.entries import CascadeEntry, PilotEntry
from jobs.spec.job import JobSpec, cap_usd

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BilledModel:
    """One model's part."""

    rows: int
    requests: int
    """Rows that are one request are asked once."""
    usd: float
    usd_low: float
    usd_high: float
    """Range of the expected dollars."""
    usd_bound: float
    """Worst case: every byte a token, all of max_tokens used."""
    usd_by_rate: Mapping[str, float] = field(default_factory=dict)
    """`standard`, `flex`, `batch` → what the calls would cost made that way, where known."""


@dataclass(frozen=True, slots=True)
class BilledPrice:
    """What a model's calls cost. Fields of routing.pricing.Price; `source` says where the job has them from."""

    input_usd_per_million: float
    output_usd_per_million: float
    cached_input_usd_per_million: float | None = None
    gpu_hour_usd: float | None = None
    long_prompt_tokens: int | None = None
    long_prompt: Mapping[str, Any] | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class BilledPolicy:
    """Where the cut is, and what the steps were sorted by."""

    kind: str
    value: float
    rank_by: str


@dataclass(frozen=True, slots=True)
class BilledSample:
    """Rows that every model answers, and the dollars of their answers beyond those of the cut."""

    rows: int
    usd: float


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What the plan expects of another cut: share of rows on the strong model, dollars, mean quality."""

    share: float
    usd: float
    quality: float


@dataclass(frozen=True, slots=True)
class BilledPromise:
    """What the sample can vouch for: `routing.pilot.guarantee.Promise`, and what was asked of it."""

    n_steps: int
    strong_share: float
    cost_usd: float
    lower: float
    estimate: float
    below_all_strong: bool
    point_strong_share: float
    point_cost_usd: float
    rows_needed: int | None
    certainty_usd: float
    kind: str
    """The policy's."""
    share: float
    """What is promised: of the gap, or of rows that agree."""
    confidence: float
    rows: int
    """Of the select fold, that it was read from."""
    kept: bool
    """False where the cap does not pay for it: the policy's own cut stands then."""
    best_rows: int
    one_more_row_pays: bool


@dataclass(frozen=True, slots=True)
class Recut:
    """One cut made again while the dollars were spent."""

    after_usd: float
    """Spent when it was made."""
    expected_usd: float
    upper_usd: float
    strong_share: float


@dataclass(frozen=True, slots=True)
class Hours:
    """Rough running time."""

    total: float
    assumed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """A plan's figures. What has a default, bills of the first versions lack, or the planner fills it in."""

    rows: int
    input_errors: int
    duplicates: int
    """Rows whose answer is another row's."""
    by_model: Mapping[str, BilledModel]
    planned_usd: float
    range_usd: tuple[float, float]
    bound_usd: float
    """At most: every byte a token, all of max_tokens used, `moved_usd` among it."""
    cap_usd: float | None
    all_strong_usd: float
    all_weak_usd: float
    strong_share: float
    predicted_quality: float | None
    weak: str
    strong: str
    models: tuple[str, ...]
    policy: BilledPolicy
    cut_score: float | None
    """None where no one score divides the rows."""
    sample: BilledSample
    judge_usd: float = 0.0
    """Verdicts on the sample."""
    moved_usd: float = 0.0
    """At most for rows that their model may refuse, and that go to the next ones up then."""
    cascade_usd: float = 0.0
    """Weak answers of rows that go up all the same, and further answers near the cut."""
    assumptions: tuple[str, ...]
    """One line per number that the bill rests on."""
    prices: Mapping[str, BilledPrice]
    curve: tuple[CurvePoint, ...]
    promise: BilledPromise | None = None
    pilot: PilotEntry | None = None
    cascade: CascadeEntry | None = None
    fingerprint: str = ""
    """Of all that another plan would come out with."""
    job: Mapping[str, Any] = field(default_factory=dict)
    """The job file's content."""
    checks: Mapping[str, str] = field(default_factory=dict)
    """Model → what the look at it before the run found."""
    request: Mapping[str, Any] | None = None
    """One request as it will be sent."""
    hours: Hours | None = None
    notes: tuple[str, ...] = ()
    """What else is to know before the run, a line each."""
    places: tuple[str, ...] = ()
    """Where router and models run, as far as there is something to say: what the cluster lacks, who goes after whom."""
    recuts: tuple[Recut, ...] = ()
    number: int = 0
    """Of the plan; 0 for one that is not written."""
    made_at: float = 0.0
    """Seconds since the epoch."""

    @property
    def at_most_usd(self) -> float:
        """All that a run of this plan may spend: rows that move between models are not paid for beyond it."""
        return max(self.planned_usd, self.bound_usd + self.sample.usd + self.judge_usd + self.cascade_usd)

    def to_json(self) -> dict[str, Any]:
        """Content of bill.json."""
        data = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        if not self.recuts:
            del data["recuts"]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Bill:
        """Of any version's bill.json: what it does not have has its default. Raises KeyError or TypeError for what is no bill."""
        records: dict[str, Any] = {
            "by_model": {name: _read(BilledModel, part) for name, part in data["by_model"].items()},
            "range_usd": tuple(data["range_usd"]),
            "models": tuple(data["models"]),
            "policy": _read(BilledPolicy, data["policy"]),
            "sample": _read(BilledSample, data["sample"]),
            "assumptions": tuple(data["assumptions"]),
            "notes": tuple(data.get("notes") or ()),
            "prices": {name: _read(BilledPrice, price) for name, price in data["prices"].items()},
            "places": tuple(data.get("places") or ()),
            "curve": tuple(_read(CurvePoint, point) for point in data["curve"]),
            "promise": _read(BilledPromise, data["promise"]) if data.get("promise") else None,
            "pilot": PilotEntry.from_json(data["pilot"]) if data.get("pilot") else None,
            "cascade": CascadeEntry.from_json(data["cascade"]) if data.get("cascade") else None,
            "hours": _read(Hours, data["hours"]) if data.get("hours") else None,
            "recuts": tuple(_read(Recut, recut) for recut in data.get("recuts") or ()),
        }
        return _read(cls, {**data, **records})


def _read(kind: type[T], data: Mapping[str, Any]) -> T:
    """The record that these keys make; keys it does not have are of another version."""
    return kind(**{f.name: data[f.name] for f in fields(kind) if f.name in data})  # type: ignore[arg-type]


def _plain(value: Any) -> Any:
    if isinstance(value, (PilotEntry, CascadeEntry)):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value


def is_tight(spec: JobSpec, bill: Bill) -> bool:
    """Dollars may decide which rows go up: at worst the plan passes the cap; once answers are measured, at the upper end."""
    cap = cap_usd(spec)
    worst = bill.recuts[-1].upper_usd if bill.recuts else max(bill.bound_usd, bill.range_usd[1])
    return cap is not None and worst > cap
