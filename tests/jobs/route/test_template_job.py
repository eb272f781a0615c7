"""Whole jobs whose weak model runs here, with a chat template that does not take what the job says."""

import pytest

from jobs.errors import EXIT_DONE, SpecError
from jobs.report.terminal import bill_table
from jobs.route.pipeline import plan_job, run_job
from jobs.route.start import Job
from jobs.spec.loader import parse_spec
from tests.jobs.lanes.test_templates import GEMMA, REFUSES, checkpoint
from tests.jobs.report.report_reading import terminal
from tests.jobs.route.test_thinking_job import job, write_input
from tests.thinking_server import completion, thinking_server


def with_weak_here(server, tmp_path, template: str, **more) -> dict:
    data = job(server, tmp_path, **{"system": "Be brief.", "sampling": {"temperature": 0, "max_tokens": 4}} | more)
    data["models"]["weak"] = {"engine": "transformers", "source": str(checkpoint(tmp_path, template))}
    return data


def test_a_system_text_is_folded_in_and_the_plan_and_the_report_say_so(tmp_path, ray_local):
    write_input(tmp_path, 20)
    with thinking_server(lambda model, text: completion("yes")) as server:
        data = with_weak_here(server, tmp_path, GEMMA)
        bill = plan_job(Job(parse_spec(data), live=False))
        assert server.by_model == {}
        (note,) = bill["notes"]
        assert note.startswith("weak: its chat template takes no system message")
        assert "weak: its chat template takes no system message" in " ".join(terminal(bill_table(bill)))
        code, report = run_job(Job(parse_spec(data), live=False))
    assert code == EXIT_DONE and report["errors"] == 0 and server.by_model == {"strong": 4}
    assert report["by_model"]["weak"]["rows"] == 16 and note in report["notes"]


def test_a_template_that_refuses_ends_the_plan_and_the_run_before_anything_is_spent(tmp_path):
    write_input(tmp_path, 20)
    with thinking_server(lambda model, text: completion("yes")) as server:
        data = with_weak_here(server, tmp_path, REFUSES)
        for start in (plan_job, run_job):
            with pytest.raises(SpecError, match=r"^models\.weak\.source: .*Only for tools.*; use a model"):
                start(Job(parse_spec(data), live=False))
    assert server.by_model == {} and not (tmp_path / "out").exists()
