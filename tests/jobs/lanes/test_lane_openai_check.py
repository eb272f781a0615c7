"""The API lane's check before a job starts, against a real replay server over HTTP, without Ray: key, model, address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from api_lane_job import Job, serving

from jobs.lanes import lane_of
from jobs.lanes.base import LaneContext
from jobs.spec.models import ModelSpec
from routing.pricing import Price


@pytest.mark.parametrize(
    "url", ["https://me:hunter2@host/v1", "https://host/v1?api-key=hunter2", "me:hunter2@host/v1", "http://[hunter2"]
)
def test_a_secret_in_the_environments_url_is_refused_unrepeated(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    model = ModelSpec(engine="openai")
    context = LaneContext("gpt", model, {}, None, Price(), str(tmp_path), "s", str(tmp_path))
    found = lane_of("openai").check(context)
    assert not found.ok
    assert found.detail.startswith("models.gpt: $OPENAI_BASE_URL must ")
    assert "hunter2" not in found.detail


def test_check_tells_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lane = lane_of("openai")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("HEADGATE_TEST_NO_KEY", raising=False)
    with serving(3, api_key="sk-right-key-123456") as server:
        job = Job(server, tmp_path / "run")

        def check(**more: Any) -> Any:
            return lane.check(job.context(None, job.model(**more)))

        without = check()
        assert not without.ok
        assert "HEADGATE_TEST_NO_KEY is not set" in without.detail
        monkeypatch.setenv("HEADGATE_TEST_NO_KEY", "sk-wrong-key-654321")
        wrong = check()
        assert not wrong.ok
        assert "models.gpt: the key in $HEADGATE_TEST_NO_KEY is refused" in wrong.detail
        assert "654321" not in wrong.detail
        monkeypatch.setenv("HEADGATE_TEST_NO_KEY", "sk-right-key-123456")
        assert check().ok
        unknown = check(model="mm")
        assert not unknown.ok
        assert "it has m" in unknown.detail
        assert not check(base_url="http://8.8.8.8/v1").ok
        url = server.base_url
    gone = lane.check(job.context(None, job.model(base_url=url)))
    assert not gone.ok
    assert "cannot be reached" in gone.detail
    monkeypatch.delenv("HEADGATE_TEST_NO_KEY")
    default = lane.check(job.context(None, job.model(base_url=None)))
    assert not default.ok
    assert "$HEADGATE_TEST_NO_KEY is not set" in default.detail
