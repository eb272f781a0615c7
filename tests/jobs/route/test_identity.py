"""Until something has been asked, an output is nobody's for good: a mended job takes it over, and finds nothing of the old one."""

from dataclasses import asdict
from pathlib import Path

import pytest

from jobs.errors import InputError, RunHeld, SpecError
from jobs.replay.options import ReplayOptions
from jobs.route.identity import clear, fingerprints, has_asked, open_run
from jobs.route.pipeline import plan_job, run_job
from jobs.route.start import Job
from jobs.spec.loader import parse_spec
from jobs.storage import lease
from jobs.storage.manifest import InputFile, fingerprint
from jobs.storage.store import Store
from tests.replay_server import small_outcomes, thread_replay

FILES = [InputFile("in.csv", 1, 1)]


def job(output, **more):
    price = {"per_million": {"input": 1, "output": 1}}
    model = {"engine": "openai", "base_url": more.pop("base_url", "http://127.0.0.1:9/v1"), "price": price}
    data = {
        "input": {"path": "in.csv", "prompt": "q"},
        "output": str(output),
        "router": "random",
        "weak": "weak",
        "strong": "strong",
    }
    data |= {
        "models": {"weak": {**model, "model": "org/weak"}, "strong": {**model, "model": "strong"}},
        "policy": {"strong_share": 0.5},
    }
    return parse_spec(data | more)


def opened(output, **more):
    spec = job(output, **more)
    return open_run(spec, FILES, fingerprints(spec, FILES, "r"))


@pytest.mark.parametrize("place", ["local", "s3"])
def test_an_output_that_has_asked_nothing_is_taken_over(tmp_path, place, request):
    output = tmp_path / "out" if place == "local" else request.getfixturevalue("s3_moto").uri("out")
    store = opened(output).store
    for name in ("scored/part-0000000000.parquet", "_headgate/score.json", "plan/0001/bill.json"):
        store.write(name, b"{}")
    assert not has_asked(store)
    assert opened(output).identity.created and store.exists("_headgate/score.json"), "the same job goes on"
    opened(output, system="Be brief.")
    assert list(store.list()) == ["_headgate/run.json"]
    store.write("ledger/s/grant-000000.json", b"{}")
    with pytest.raises(SpecError, match="holds another job: the template"):
        opened(output)
    assert len(store.list()) == 2


@pytest.mark.parametrize(
    "name", ["answers/model=a/seg-1.parquet", "pilot/m/sample.parquet", "batches/model=a/b.json", "notes.txt"]
)
def test_whatever_else_lies_there_has_come_of_asking(tmp_path, name):
    store = opened(tmp_path / "out").store
    store.write(name, b"{}")
    assert has_asked(store)
    with pytest.raises(SpecError, match="another job"):
        opened(tmp_path / "out", system="Be brief.")


def test_what_a_late_task_leaves_is_no_run_of_somebody_elses(tmp_path):
    store = Store(str(tmp_path / "out"))
    store.write("scored/part-0000000000.parquet", b"late")
    assert opened(tmp_path / "out")
    clear(store)
    store.write("scores.txt", b"mine")
    with pytest.raises(SpecError, match="not empty"):
        opened(tmp_path / "out")


def test_how_a_file_is_read_is_part_of_the_input_and_its_limits_are_not():
    def mark(**csv) -> str:
        spec = job("o", input={"path": "in.csv", "prompt": "q", "csv": csv})
        return fingerprints(spec, FILES, "r")["input"]

    before = fingerprint(
        [[asdict(file) for file in FILES], {"id": None, "prompt": "q", "messages": None, "format": "auto"}]
    )
    assert mark() == mark(max_field_lines=500) == mark(quote='"') == before, (
        "as runs have it that were made without `csv`"
    )
    assert len({mark(), mark(delimiter=";"), mark(escape="backslash"), mark(quote="none")}) == 4


@pytest.fixture(scope="module")
def replay():
    with thread_replay([small_outcomes(300)], ReplayOptions(latency_s=0.01)) as server:
        yield server


def test_a_file_found_broken_while_scoring_leaves_nothing_and_the_same_output_serves(tmp_path, ray_local, replay):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "a.csv").write_text("q\n" + "".join(f"question {i}\n" for i in range(120)))
    (source / "b.csv").write_text("q\n" + "".join(f"question {i}\n" for i in range(120, 240)) + '"question 240\n')
    (source / "c.csv").write_text("q\n" + "".join(f"question {i}\n" for i in range(241, 300)))
    more = {"base_url": replay.base_url, "input": {"path": str(source), "prompt": "q"}}

    def start() -> int:
        return run_job(Job(job(output, **more), live=False))[0]

    for attempt in (start, lambda: plan_job(Job(job(output, **more), live=False))):
        with pytest.raises(Exception, match=r"b\.csv: line 122: ") as refused:
            attempt()
        assert isinstance(refused.value, InputError) or "InputError" in repr(refused.value)
        assert not output.exists()
    assert replay.stats()["answered"] == 0
    (source / "b.csv").write_text((source / "b.csv").read_text().replace('"question 240', "question 240"))
    assert start() == 0
    assert sum(1 for _ in Path(output, "responses").glob("*.parquet")) == 1 and replay.stats()["answered"] == 300


def test_a_job_that_is_being_run_is_not_taken_over(tmp_path, ray_local, replay):
    (tmp_path / "in.csv").write_text("q\nquestion 0\nquestion 1\n")
    more = {"base_url": replay.base_url, "input": {"path": str(tmp_path / "in.csv"), "prompt": "q"}}
    plan_job(Job(job(tmp_path / "out", **more), live=False))
    held = lease.acquire(Store(str(tmp_path / "out")), "other", lambda: None)
    with pytest.raises(RunHeld):
        plan_job(Job(job(tmp_path / "out", system="Be brief.", **more), live=False))
    held.release()
    bill = plan_job(Job(job(tmp_path / "out", system="Be brief.", **more), live=False))
    assert "Be brief." in str(bill)
