"""The policy: four ways to say where the one cut is (routing/upgrades/cut.py).

threshold     every step with score >= value (for a pair: the win rate of the strong model)
strong_share  at most floor(value * rows) rows on the strong model; those that only it can answer count first
budget_usd    at most value dollars, the base model of every row reserved first; stops where the gain ends
min_quality   the cheapest prefix that keeps `value` of the predicted strong-weak gap; stops where the gain ends

Share and threshold ignore the sign of the gain: a pairwise router ranks rows well long before it is calibrated
(RouteLLM's own threshold for 50 % strong calls is a win rate of .116). A larger share, budget or quality, or a lower
threshold, always takes a superset of the steps. Cost: O(steps), after the one sort of `build_steps`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from routing.errors import RoutingError
from routing.upgrades.cut import Cut, CutLimits, cut
from routing.upgrades.hull import RANKS, RankBy
from routing.upgrades.steps import Steps

PolicyKind = Literal["threshold", "strong_share", "budget_usd", "min_quality"]
DEFAULT_RANK_BY: dict[str, RankBy] = {
    "threshold": "score",
    "strong_share": "score",
    "budget_usd": "gain_per_dollar",
    "min_quality": "gain_per_dollar",
}
POLICY_KINDS: tuple[PolicyKind, ...] = get_args(PolicyKind)


@dataclass(frozen=True, slots=True)
class Policy:
    """One limit and the order in which steps meet it. Raises RoutingError for a value out of range."""

    kind: PolicyKind
    value: float
    """Dollars for budget_usd, above 0; else a share or score, 0..1."""
    rank_by: RankBy | None = None
    """None: gain_per_dollar for budget_usd and min_quality, score for strong_share and threshold."""

    def __post_init__(self) -> None:
        if self.kind not in DEFAULT_RANK_BY:
            raise RoutingError(f"policy must be one of {', '.join(DEFAULT_RANK_BY)}, not {self.kind!r}")
        if isinstance(self.value, bool) or not isinstance(self.value, int | float) or not math.isfinite(self.value):
            raise RoutingError(f"policy.{self.kind} must be a finite number, not {self.value!r}")
        if self.kind == "budget_usd":
            if self.value <= 0:
                raise RoutingError(f"policy.budget_usd must be above 0 dollars, not {self.value!r}")
        elif not 0 <= self.value <= 1:
            raise RoutingError(f"policy.{self.kind} must be between 0 and 1, not {self.value!r}")
        if self.rank_by is not None and self.rank_by not in RANKS:
            raise RoutingError(f"policy.rank_by must be one of {', '.join(RANKS)}, not {self.rank_by!r}")
        if self.kind == "threshold" and self.order != "score":
            raise RoutingError(
                f"policy.rank_by must be score with policy.threshold, not {self.rank_by}: remove rank_by"
            )

    @property
    def order(self) -> RankBy:
        """`rank_by`, or the default of the kind: what to give `build_steps`."""
        return self.rank_by or DEFAULT_RANK_BY[self.kind]

    def limits(self, steps: Steps) -> CutLimits:
        """The policy as limits of the cut. Raises RoutingError where the budget does not pay for the base models."""
        if self.kind == "threshold":
            return CutLimits(min_score=self.value)
        if self.kind == "strong_share":
            share = self.value * steps.total_weight
            # .29 of 100 M rows is 28,999,999.999999996 in binary: the slack grows with the count.
            return CutLimits(max_strong_weight=math.floor(share + max(1e-9, 1e-12 * share)))
        if self.kind == "budget_usd":
            require_base_paid(steps, self.value, "policy.budget_usd")
            return CutLimits(max_usd=self.value, only_gains=True)
        gap = steps.strong_quality - steps.base_quality
        return CutLimits(min_quality=steps.base_quality + self.value * gap, only_gains=True)

    def cut(self, steps: Steps) -> Cut:
        """Where this policy cuts `steps`, which must have been built with `rank_by=policy.order`."""
        if steps.rank_by != self.order:
            raise RoutingError(f"policy.rank_by is {self.order}, but the steps are ranked by {steps.rank_by}")
        return cut(steps, self.limits(steps))


def least_usd(steps: Steps) -> float:
    """Least expected dollars that answer every row: the base models, less what steps save that lose no quality."""
    return steps.base_cost_usd + float(steps.cost_usd[: steps.n_free].sum())


def require_base_paid(steps: Steps, usd: float, field: str, gone_usd: float = 0.0) -> None:
    """RoutingError, naming the field and the sum it needs, where the money does not pay for every row's base model.

    steps: of the whole set.
    usd: dollars there are.
    field: of the job file that says so.
    gone_usd: dollars of `usd` that are spent already, or set aside.
    """
    needed = least_usd(steps) + gone_usd
    if needed <= usd * (1 + 1e-12):
        return
    # Rounded up, so that the figure shown is enough when it is typed in.
    digits = 2 if needed >= 1 else 2 - math.floor(math.log10(needed))
    shown = math.ceil(needed * 10**digits) / 10**digits
    also = f", what is spent or set aside ({gone_usd:.{digits}f}) included" if gone_usd else ""
    raise RoutingError(
        f"{field} is {usd:g} dollars, but the cheapest model alone costs {shown:.{digits}f} for all "
        f"{steps.total_weight} rows{also}: set {field} to at least {shown:.{digits}f}, or answer fewer rows"
    )
