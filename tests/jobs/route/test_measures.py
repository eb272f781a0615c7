"""What buckets tell the driver is enough: the same estimates as from every row, and figures that add up."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from jobs.route.account import run_measures as measures
from jobs.route.account.bucket_evidence import BucketRows, bucket_evidence, length_bins, shown
from jobs.route.account.totals import REPORT, PolicyQuality, RunEvidence
from jobs.route.plan.bill import CurvePoint
from routing.features.structure import STRUCTURE
from routing.pilot.estimates import Answered, RunEstimates, alternative_usd, estimate_run

N, SAMPLE, BUCKETS = 3000, 400, 3
NAMES = ("small", "middle", "large")
CAN_TELL_ALL = np.ones(N, bool)


class World:
    """N rows whose answers, gold and dollars are all known, in buckets; a part of them is a sample in two folds."""

    def __init__(self, m: int, judged: bool = False) -> None:
        rng = np.random.default_rng(m)
        self.m, self.names = m, NAMES[:m]
        hard = rng.random(N)
        self.quality = (rng.random((N, m)) < 1 - hard[:, None] ** np.arange(1, m + 1)).astype(float)
        self.predicted = np.clip(1 - hard[:, None] ** np.arange(1, m + 1) + rng.normal(0, 0.1, (N, m)), 0, 1)
        self.route = np.digitize(hard, np.linspace(0, 1, m + 1)[1:-1]).astype(np.int8)
        self.route[rng.random(N) < 0.01] = -1
        self.key = rng.permutation(N).astype(np.int64) - N // 2
        self.fold = np.full(N, -1, np.int8)
        drawn = rng.choice(N, SAMPLE, replace=False)
        self.fold[drawn] = np.where(np.arange(SAMPLE) < SAMPLE // 4, 0, REPORT)
        self.can_tell = rng.random(N) < 0.9
        self.n_bytes = rng.integers(20, 4000, N)
        self.is_leader = rng.random(N) < 0.95
        self.cost = self.n_bytes[:, None] * np.array([1e-6, 5e-6, 2e-5])[:m] * rng.uniform(0.8, 1.2, (N, m))
        asked = (self.route[:, None] == np.arange(m)) | (self.fold[:, None] >= 0)
        asked &= self.route[:, None] >= 0
        self.paid = np.where(asked, self.cost, np.nan)
        known = np.where(asked & self.can_tell[:, None], self.quality, np.nan)
        self.known = np.where(self.fold[:, None] >= 0, known, np.nan) if judged else known
        self.policy = self.known[np.arange(N), np.maximum(self.route, 0)]
        self.asked = asked

    def evidence(self) -> RunEvidence:
        """What the driver makes of the evidence of every bucket, as it gets it."""
        parts = [bucket_evidence(self.bucket(at)) for at in np.array_split(np.arange(N), BUCKETS)]
        return RunEvidence.together(pickle.loads(pickle.dumps(parts)), self.m)

    def bucket(self, at: np.ndarray) -> BucketRows:
        texts = [
            [f"{name} says {row}" if self.asked[row, j] else None for row in at] for j, name in enumerate(self.names)
        ]
        return BucketRows(
            row_key=self.key[at], ids=[f"id-{row}" for row in at],
            messages=[json.dumps([{"role": "user", "content": f"Question {row}, and <b>what</b> now?"}]) for row in at],
            prompt_bytes=self.n_bytes[at], category=["ab"[row % 2] for row in at], route=self.route[at],
            fold=self.fold[at], score=self.predicted[at, -1].astype(np.float32), is_leader=self.is_leader[at],
            predicted=self.predicted[at], kind=np.where(self.asked[at], "answered", "").astype(object),
            paid_usd=self.paid[at], quality=self.known[at], policy=self.policy[at], can_tell=self.can_tell[at],
            open_rows=np.zeros(len(at), bool), texts=texts,
        )  # fmt: skip

    def whole(self) -> RunEstimates:
        """The estimates from all N rows."""
        by_key = np.argsort(self.key)
        report, known = (
            by_key[use[by_key] & (self.route[by_key] >= 0)] for use in (self.fold == REPORT, self.fold == 0)
        )
        route = np.where(self.can_tell, self.route, -1)
        return estimate_run(
            route, self.predicted, Answered(report, self.known[report]), Answered(known, self.known[known])
        )


@pytest.mark.parametrize("m", [2, 3])
def test_sums_give_the_estimates_of_all_rows(m: int):
    world = World(m)
    evidence = world.evidence()
    found, whole = measures.estimates(evidence), world.whole()
    for name in ("quality", "gap", "pgr", "pgr_over_random", "over_routing", "under_routing"):
        assert getattr(found, name) == pytest.approx(getattr(whole, name), abs=2e-7), name
    for one, other in zip(found.quality_by_model, whole.quality_by_model, strict=True):
        assert one == pytest.approx(other, abs=2e-7)
    assert (found.n_rows, found.n_sampled, found.n_known, found.n_failed) == (
        whole.n_rows, whole.n_sampled, whole.n_known, 0,
    )  # fmt: skip
    truth = world.quality[(world.route >= 0) & world.can_tell].mean(axis=0)
    for interval, value in zip(found.quality_by_model, truth, strict=True):
        assert interval is not None and interval.low - 0.02 <= value <= interval.high + 0.02


def test_quality_of_the_run_is_counted_where_gold_tells_and_estimated_where_a_judge_saw_a_sample():
    world = World(2)
    evidence = world.evidence()
    estimated = measures.estimates(evidence)
    found, rows = measures.run_quality(evidence.policy, estimated)
    told = world.can_tell & (world.route >= 0)
    assert found == pytest.approx([world.policy[told].mean()] * 3)
    assert rows == told.sum()
    judged = World(2, judged=True)
    evidence = judged.evidence()
    estimated = measures.estimates(evidence)
    found, rows = measures.run_quality(evidence.policy, estimated)
    assert found == estimated.quality and rows == estimated.n_sampled + estimated.n_known < 420
    assert found.low < world.policy[told].mean() < found.high


def test_answers_that_cannot_be_told_widen_and_open_rows_count_as_not_drawn():
    def part(told: int, still_open: int, values: dict[float, int]) -> PolicyQuality:
        return PolicyQuality(told, still_open, 1, Counter(values))

    world, nobody = World(2), RunEvidence.together([], 2)
    nothing = measures.estimates(replace(world.evidence(), sampled=nobody.sampled))
    found, _ = measures.run_quality(part(100, 0, {1.0: 60, 0.0: 30}), nothing)
    assert found == pytest.approx([60 / 90, 0.6, 0.7])
    found, _ = measures.run_quality(part(1000, 900, {1.0: 60, 0.0: 40}), nothing)
    assert 0.45 < found.low < 0.55 < found.mean == 0.6 < found.high < 0.72
    assert measures.run_quality(nobody.policy, nothing)[0] is None


def test_dollars_of_the_run_that_was_not_made():
    world = World(2)
    evidence = world.evidence()
    for j in range(2):
        found = measures.model_usd(evidence, j, 1e-6, 1e-5)
        rows = world.route >= 0
        cost = np.where(world.is_leader, world.cost[:, j], 0.0)[rows]
        expected = np.where(world.is_leader, 1e-6 * world.n_bytes + 1e-5, 0.0)[rows]
        paid = np.where(world.asked[:, j][rows], cost, np.nan)
        by_key = np.argsort(world.key[rows])
        columns = (expected, paid, (world.route == j)[rows], (world.fold >= 0)[rows])
        whole = alternative_usd(*(column[by_key] for column in columns))
        assert found == pytest.approx(whole, rel=1e-9)
        assert found.low <= cost.sum() <= found.high and found.high / found.low < 1.05
    assert measures.model_usd(replace(evidence, sampled=RunEvidence.together([], 2).sampled), 1, 1.0, 1.0) is None


def test_calibration_is_of_the_report_fold_and_its_bins_are_full():
    world = World(2)
    sample = world.evidence().sampled
    found = measures.calibration(sample, world.names)
    assert sum(b["rows"] for b in found["small"]) == sample.reported.sum() < SAMPLE * 3 / 4
    assert 8 <= len(found["small"]) <= 10 and min(b["rows"] for b in found["small"]) >= 20
    for name in world.names:
        assert all(b["low"] <= b["mean"] <= b["high"] for b in found[name])
        assert all(abs(b["predicted"] - b["mean"]) < 0.3 for b in found[name])
    assert measures.calibration(RunEvidence.together([], 2).sampled, world.names) is None


def test_no_router_beats_the_oracle():
    world = World(3)
    sample = world.evidence().sampled
    points = measures.oracle(sample, [1.0, 4.0, 10.0])
    use = sample.told
    assert points[0] == {"usd": pytest.approx(1.0), "quality": pytest.approx(sample.quality[use, 0].mean())}
    assert points[-1]["quality"] == pytest.approx(sample.quality[use].max(axis=1).mean())
    assert points[-1]["usd"] < 10 and len(points) <= measures.ORACLE_POINTS
    assert measures.oracle(sample, [1.0, None, 10.0]) is None


def test_groups_examples_and_lengths():
    world = World(2)
    evidence = world.evidence()
    found = measures.groups_json(evidence.categories)
    assert sum(group["rows"] for group in found.values()) == N and set(found) == {"a", "b"}
    told = world.can_tell & (world.route >= 0) & (np.arange(N) % 2 == 0)
    assert found["a"]["quality"]["mean"] == pytest.approx(world.policy[told].mean())
    assert set(map(int, measures.groups_json(evidence.lengths))) == set(length_bins(world.n_bytes).tolist())
    wrong = measures.examples_json(evidence, world.names)
    assert len(wrong["over_routed"]) == len(wrong["under_routed"]) == 5
    for row in wrong["over_routed"]:
        assert row["route"] == "large" or row["route"] == "middle"
        assert row["quality"]["small"] >= row["quality"][world.names[-1]]
        assert row["prompt"].startswith("Question ") and row["answers"]["small"].startswith("small says")
    for row in wrong["under_routed"]:
        assert row["quality"] == {"small": 0.0, "middle": 1.0} and row["route"] == "small"
    assert shown("x\n y" * 900).endswith("…") and len(shown("x" * 900)) == 200 and shown(None) is None


def test_budget_changes_move_along_the_curve():
    curve = [CurvePoint(s, 1 + 9 * s, 0.5 + 0.4 * s) for s in np.linspace(0, 1, 21).tolist()]
    measured = measures.measured_curve(curve, 2.0, 20.0)
    assert [measured[0].measured_usd, measured[-1].measured_usd] == [2.0, 20.0]
    found = measures.budget_changes(5.5, measured)
    assert [point["usd"] for point in found] == pytest.approx([9.9, 11.0, 12.1])
    assert [point["strong_share"] for point in found] == pytest.approx([7.9 / 18, 0.5, 10.1 / 18])
    assert found[2]["quality_change"] == pytest.approx(0.4 * 1.1 / 18) == pytest.approx(-found[0]["quality_change"])
    unknown = measures.measured_curve(curve, None, 20.0)
    assert measures.budget_changes(99.0, unknown)[2]["strong_share"] == 1.0, "no more than all-strong"
    assert measures.budget_changes(0.0, []) == []


def test_drift_is_in_deviations_of_the_training_data_and_says_nothing_without_them():
    world = World(2)
    evidence = world.evidence()
    estimated = measures.estimates(evidence)
    form = measures.prompt_form(evidence.form)
    assert set(form) == set(STRUCTURE)
    trained = {name: dict(figures) for name, figures in form.items()}
    trained["log digits"] = {"mean": form["log digits"]["mean"] - 1.0, "std": 0.5}
    card = {"form": trained, "metrics": {"quality_weak": 0.4, "quality_strong": 0.9}}
    found = measures.drift(evidence, estimated, world.names, card)
    assert found["form"][0]["feature"] == "log digits" and found["form"][0]["shift"] == pytest.approx(2.0)
    assert all(abs(entry["shift"]) < 1e-9 for entry in found["form"][1:])
    weak = found["quality"][0]
    told = world.can_tell & (world.route >= 0)
    assert weak["trained"] == 0.4 and weak["predicted"] == pytest.approx(world.predicted[told, 0].mean())
    bare = measures.drift(evidence, estimated, world.names, {})
    assert bare["form"] is None and bare["quality"][1]["trained"] is None and bare["prompts"] == form
