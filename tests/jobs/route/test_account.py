"""Accounting against a journal written by hand: every row once, money that adds up, copies at no cost."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.journal.rows import Answer
from jobs.journal.writer import JournalWriter
from jobs.route.account.run_summary import Beside, summarise
from jobs.route.account.stage import run_account
from jobs.route.plan.cut import decide
from jobs.route.plan.estimate import Estimate
from jobs.route.plan.rows import read_rows
from jobs.route.plan.situation import Situation
from jobs.route.score.files import list_files
from jobs.route.score.stage import plan_score, run_score
from jobs.spec.loader import parse_spec
from jobs.storage.store import Store
from routing.pricing import Price
from tests import local_ray

MODELS = {"a": {"engine": "vllm", "source": "s"}, "b": {"engine": "openai"}}
EST = {n: Estimate(Price(u, u), "job file", 0.25, 10.0, 0.1, 50, sources=()) for n, u in (("a", 1.0), ("b", 20.0))}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Twelve rows, scored once for all tests: two equal prompts in different files, one bad row."""
    folder = tmp_path_factory.mktemp("scored")
    (folder / "in").mkdir()
    for file in range(2):
        rows = [
            {"id": f"{file}-{i}", "q": "twin" if i == 0 else f"{file} {i}", "answer": "4", "category": "xy"[i % 2]}
            for i in range(6)
        ]
        if file == 1:
            rows[5]["q"] = None
        pq.write_table(pa.Table.from_pylist(rows), folder / f"in/{file}.parquet")
    spec = job(folder, folder)
    local_ray.start()
    return folder, in_two_buckets(Store(spec.output), run_score(plan_score(spec, list_files(spec.input)), spec.output))


@pytest.fixture
def run(scored, tmp_path, ray_local):
    """That table in an output of the test's own, one sample of four, answers for most."""
    folder, parts = scored
    shutil.copytree(folder / "out", tmp_path / "out")
    spec = job(folder, tmp_path)
    store = Store(spec.output)
    rows = read_rows(store, parts)
    plan, bill = decide(Situation(spec, rows, EST, np.zeros((12, 2), bool)))
    return spec, store, parts, plan, bill, tmp_path


def job(folder, output):
    """The job over folder/in with its output in `output`."""
    return parse_spec({
        "input": {"path": str(folder / "in"), "prompt": "q", "id": "id", "keep": ["category"]}, "output": str(output / "out"),
        "router": "random", "models": MODELS, "weak": "a", "strong": "b", "policy": {"strong_share": 0.5},
        "sampling": {"temperature": 0},
        "sample": {"rows": 4}, "quality": {"gold": {"column": "answer", "match": "exact"}},
    })  # fmt: skip


def in_two_buckets(store, parts):
    """The one bucket that so few rows are, cut in two between the files: a copy's answer is another bucket's."""
    table, (part,) = store.read_table(parts[0].name), parts
    cut = []
    for bucket in range(2):
        name = f"scored/part-{bucket:010d}.parquet"
        numbers = pa.array([bucket] * 6, table.schema.field("bucket").type)
        place = table.schema.get_field_index("bucket")
        store.write_table(name, table.slice(6 * bucket, 6).set_column(place, table.schema.field("bucket"), numbers))
        cut.append(replace(part, bucket=bucket, name=name, rows=6))
    return cut


def settle(run, name, keys, text, kind="answered", cost=0.01, lost=0.0, error=""):
    _, store, _, plan, _, tmp = run
    bucket = dict(zip(plan.row_key.tolist(), plan.bucket.tolist(), strict=True))
    shadow = set(plan.shadow.tolist()) - set(plan.leader[plan.model == ("a", "b").index(name)].tolist())
    with JournalWriter(store.uri, name, str(tmp / "logs"), "s") as writer:
        for key in keys.tolist():
            writer.append(
                Answer(
                    key, bucket[key], kind, b"k" * 16, text if kind == "answered" else None, "stop",
                    *((8, 2) if kind == "answered" else (None, None)), token_source="provider",
                    cost_usd=cost, lost_usd=lost, latency_s=0.5, attempts=2, error=error,
                    purpose="shadow" if key in shadow else "answer",
                )
            )  # fmt: skip


def account(run):
    spec, store, parts, plan, bill, _ = run
    sums = run_account(spec, store, parts, plan, False)
    table = pa.concat_tables([store.read_table(n) for n in store.list("responses")]).to_pylist()
    return table, summarise(spec, sums, bill, Beside(), {})


def test_every_row_once_with_its_answer_and_its_dollars(run):
    plan = run[3]
    settle(run, "a", plan.leaders_of(0), "4")
    settle(run, "b", plan.leaders_of(1), "5", cost=0.2, lost=0.05)
    rows, report = account(run)
    assert [r["id"] for r in rows] == [f"{f}-{i}" for f in range(2) for i in range(6)]
    assert [r["error"] for r in rows] == [""] * 11 + ["q is null"]
    assert plan.bucket[0] != plan.bucket[6], "the copied answer is another bucket's"
    twin = rows[6]
    assert (
        twin["copied_from"] == "0-0" and twin["cost_usd"] == 0 and twin["generated_text"] == rows[0]["generated_text"]
    )
    assert sum(bool(r["copied_from"]) for r in rows) == 1 == report["copied_rows"]
    paid = sum(r["cost_usd"] + r["lost_usd"] for r in rows)
    assert paid == pytest.approx(report["spent_usd"] + report["lost_usd"])
    assert report["planned_usd"] - report["spent_usd"] - report["lost_usd"] == pytest.approx(
        report["unspent_usd"], abs=1e-9
    )
    assert report["spent_usd"] == pytest.approx(sum(report["spent_by_purpose"].values()))
    assert report["spent_by_purpose"]["shadow"] > 0
    assert (report["rows"], report["errors"], report["open"], report["complete"]) == (12, 1, 0, True)
    assert sum(m["rows"] for m in report["by_model"].values()) == 11
    assert report["strong_share"] == pytest.approx((plan.model == 1).sum() / 11)
    for row in rows:
        if row["model"] != row["route"] and row["route"]:
            assert row["model"] == "b" and "already paid" in row["route_reason"]
    json.dumps(report)


def test_quality_is_the_policys_and_the_models_are_measured_on_the_sample(run):
    plan = run[3]
    settle(run, "a", plan.leaders_of(0), "4")
    settle(run, "b", plan.leaders_of(1), "5")
    _, report = account(run)
    right = (plan.model == 0).sum() / (plan.model >= 0).sum()
    assert report["quality"]["mean"] == pytest.approx(right)
    assert report["quality"]["low"] <= right <= report["quality"]["high"]
    assert report["quality_by_model"]["a"]["mean"] == 1.0 and report["quality_by_model"]["b"]["mean"] == 0.0
    assert report["sample_rows"] == int(plan.sample.sum())


def test_rows_without_an_answer_are_open_or_refused(run):
    plan = run[3]
    weak, strong = plan.leaders_of(0), plan.leaders_of(1)
    settle(run, "a", weak[:-1], "4")
    settle(run, "b", strong[:1], "", kind="rejected", error="400: content filter")
    settle(run, "b", strong[1:2], "", kind="failed", lost=0.5, error="gave up")
    rows, report = account(run)
    assert report["open"] > 0 and not report["complete"]
    assert sum(r["error"].startswith("open") for r in rows) == report["open"]
    assert any(e["error"] == "400: content filter" for e in report["errors_by_kind"]) or strong[0] in plan.shadow
    assert report["lost_usd"] == pytest.approx(0.5)
    assert report["by_model"]["a"]["rows"] + report["by_model"]["b"]["rows"] + report["errors"] + report["open"] == 12


def test_accounting_again_replaces_the_parts(run):
    plan = run[3]
    settle(run, "a", plan.leaders_of(0), "4")
    first, _ = account(run)
    settle(run, "b", plan.leaders_of(1), "4")
    second, report = account(run)
    assert len(first) == len(second) == 12 and report["complete"]


@pytest.mark.parametrize(
    ("on_refused", "said"),
    [
        ("strong", "400: content filter"),
        ("error", "context_length_exceeded: HTTP 400: too long"),
        ("error", "prompt too long: 9 tokens"),
    ],
)
def test_a_row_that_goes_up_is_open_until_every_model_above_has_refused_it(run, on_refused, said):
    spec, *rest = run
    run = (spec.model_copy(update={"on_refused": on_refused}), *rest)
    plan = run[3]
    weak, strong = plan.leaders_of(0), plan.leaders_of(1)
    due = np.setdiff1d(plan.leader[plan.model == 0], plan.shadow)[:1]
    settle(run, "a", np.setdiff1d(weak, due), "4")
    settle(run, "b", strong, "5")
    settle(run, "a", due, "", kind="rejected", error=said)
    rows, report = account(run)
    n = int((plan.leader == due[0]).sum())
    assert (report["open"], report["errors"], report["complete"]) == (n, 1, False)
    assert [r["error"] for r in rows if r["error"].startswith("open")] == [f"open: {said}"] * n
    settle(run, "b", due, "", kind="rejected", error="400: content filter too")
    rows, report = account(run)
    assert (report["open"], report["errors"]) == (0, 1 + n)
    assert sum(r["error"] == said for r in rows) == n


def test_a_row_that_its_model_refuses_is_an_error_and_not_open(run):
    plan = run[3]
    due = np.setdiff1d(plan.leader[plan.model == 0], plan.shadow)[:1]
    settle(run, "a", np.setdiff1d(plan.leaders_of(0), due), "4")
    settle(run, "b", plan.leaders_of(1), "5")
    settle(run, "a", due, "", kind="rejected", error="400: this picture is too small")
    rows, report = account(run)
    n = int((plan.leader == due[0]).sum())
    assert (report["open"], report["errors"], report["complete"]) == (0, 1 + n, True)
    assert sum(r["error"] == "400: this picture is too small" for r in rows) == n
