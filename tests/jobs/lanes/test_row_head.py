"""What a row's head makes of its answers, and what is read of a provider's batch."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.lanes.base import RowHead
from jobs.lanes.openai_batch.state import BatchError, BatchState
from jobs.lanes.replies import Completion
from jobs.lanes.usage import Usage

KEY = bytes(range(16))


@pytest.mark.parametrize(("sample", "purpose"), [(True, "shadow"), (False, "answer")])
def test_every_entry_of_a_row_has_its_keys_and_its_purpose(sample: bool, purpose: str) -> None:
    head = RowHead(7, 3, sample, KEY)
    completion = Completion("yes", "stop", Usage(10, 2, 4, 1), logprobs=(-0.5, -1.0))
    answer = head.answered(completion, cost_usd=0.5, latency_s=1.5, attempts=2, lost_usd=0.25)
    refusal = head.unanswered("rejected", "no", attempts=0)
    for entry in (answer, refusal):
        assert (entry.row_key, entry.bucket, entry.answer_key, entry.purpose) == (7, 3, KEY, purpose)
    assert (answer.kind, answer.generated_text, answer.finish_reason, answer.token_source) == (
        "answered", "yes", "stop", "provider",
    )  # fmt: skip
    counts = (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens, answer.reasoning_tokens)
    assert counts == (10, 2, 4, 1)
    assert (answer.cost_usd, answer.lost_usd, answer.latency_s, answer.attempts) == (0.5, 0.25, 1.5, 2)
    assert (answer.mean_logprob, answer.min_logprob) == (-0.5, -1.0)
    assert (refusal.kind, refusal.error, refusal.attempts, refusal.token_source) == ("rejected", "no", 0, "")
    assert head.unanswered("failed", "cut", attempts=1, lost_usd=0.1).token_source == "bound"


@pytest.mark.parametrize(
    ("batch", "state"),
    [
        ({"id": "b1", "status": "in_progress"}, BatchState("b1", "in_progress")),
        ({"id": 1, "status": None, "errors": None, "created_at": "now"}, BatchState("", "")),
        (
            {"id": "b1", "status": "completed", "created_at": 10, "completed_at": 25, "finalizing_at": 20,
             "output_file_id": "o", "error_file_id": None},
            BatchState("b1", "completed", 15.0, ("o",)),
        ),
        (
            {"id": "b1", "status": "expired", "expired_at": 5, "output_file_id": "o", "error_file_id": "e"},
            BatchState("b1", "expired", 0.0, ("o", "e")),
        ),
        (
            {"id": "b1", "status": "failed", "errors": {"data": [{"code": "c", "message": "m", "line": 3}, {}]}},
            BatchState("b1", "failed", error=BatchError("c", "m", 3)),
        ),
        ({"id": "b1", "status": "failed", "errors": {"data": []}}, BatchState("b1", "failed")),
    ],
)  # fmt: skip
def test_a_batch_is_read_as_far_as_it_is_understood(batch: dict[str, Any], state: BatchState) -> None:
    assert BatchState.from_json(batch) == state
