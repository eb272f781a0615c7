"""What refusals mean that are easily taken for others: no credit, too large for the limit, unknown address; odd waits."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.lanes.faults import Diagnosis, diagnose
from jobs.lanes.providers.errors import read_error
from jobs.lanes.providers.waits import retry_after_s
from tests.jobs.lanes.test_requests import diagnosis

TOO_LARGE = (
    "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 47012. "
    "The input or output tokens must be reduced in order to run successfully."
)


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (402, {"message": "Insufficient Balance", "code": "invalid_request_error"}, "lane"),
        (402, {"message": "This request requires more credits", "code": 402}, "lane"),
        (402, None, "lane"),
        (404, {"message": "no such deployment", "code": "DeploymentNotFound"}, "lane"),
        (404, {"message": "Unknown request URL", "code": "unknown_url"}, "lane"),
        (404, {"message": "no such prompt", "code": "prompt_not_found"}, "row"),
        (429, {"message": TOO_LARGE, "type": "tokens", "code": "rate_limit_exceeded"}, "row"),
        (429, {"message": "Rate limit reached: Limit 30000, Used 29000, Requested 1200", "type": "tokens"}, "limited"),
    ],
)
def test_diagnoses(status: int, error: Any, kind: str) -> None:
    got = diagnosis(status, error)
    assert got.kind == kind
    if kind == "lane":
        assert got.message.startswith("models.gpt")


def test_out_of_credit_says_what_to_do() -> None:
    assert "credit; add" in diagnosis(402, {"message": "Insufficient Balance"}).message


def test_a_form_that_is_always_too_large_counts_towards_the_lane() -> None:
    assert diagnosis(429, {"message": TOO_LARGE}).repeated_means_lane


@pytest.mark.parametrize(
    "value",
    [
        "Wed, 21 Oct 99999999999999999999 07:28:00 GMT",
        "Wed, 21 Oct 2015 07:28:00 -9999999999",
        "Wed, 21 Oct 0001 07:28:00 +2359",
        "9" * 400,
    ],
)
def test_no_date_is_too_odd(value: str) -> None:
    wait_s = retry_after_s({"Retry-After": value})
    assert wait_s is None or 0 <= wait_s <= 600
    got = diagnose(429, {"Retry-After": value}, read_error(b""), "gpt", "m", "KEY")
    assert got == Diagnosis("limited", "HTTP 429", wait_s)
