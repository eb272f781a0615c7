"""A finished run, read back: the rows that every model answered, as the report measured them."""

from __future__ import annotations

import numpy as np
import pytest

from jobs.errors import InputError, SpecError
from jobs.evaluation.evaluate import run_evaluate
from jobs.evaluation.folds import EvaluateOptions
from jobs.evaluation.run_outcomes import run_outcomes
from jobs.evaluation.train import TrainOptions, run_train
from jobs.evaluation.training_data import TrainingOptions
from jobs.storage.store import Store


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(SpecError, match="no headgate run there"):
        run_outcomes(str(tmp_path))


@pytest.mark.slow
def test_a_finished_run_is_an_outcomes_table_and_trains_a_router(tmp_path, ray_local):
    from jobs.replay.options import ReplayOptions
    from jobs.route.pipeline import run_job
    from jobs.route.score.router import load_router
    from jobs.route.start import Job
    from jobs.spec.loader import parse_spec
    from tests.jobs.route.test_pipeline import PRICE, job, write_input
    from tests.replay_server import small_outcomes, thread_replay

    n, sampled = 120, 60
    write_input(
        tmp_path,
        [f"question {i // 2 * 2 if i < 20 else i}" for i in range(n)],  # ten prompts twice
        answer=[f"strong says {i // 2 * 2 if i < 20 else i}" for i in range(n)],
        category=["even" if i % 2 == 0 else "odd" for i in range(n)],
    )
    with thread_replay([small_outcomes(n)], ReplayOptions(latency_s=0.01)) as replay:
        data = job(
            replay,
            tmp_path,
            sample={"rows": sampled, "seed": 1},
            quality={"gold": {"column": "answer", "match": "exact"}},
        )
        data["input"]["keep"] = ["category"]
        plain = job(replay, tmp_path, output=str(tmp_path / "no_sample"))
        code, report = run_job(Job(parse_spec(data), live=False))
        assert code == 0
        assert run_job(Job(parse_spec(plain), live=False))[0] == 0
        with pytest.raises(InputError, match=r"quality\.gold"):
            run_outcomes(str(tmp_path / "no_sample"))
        found = run_outcomes(data["output"])
        assert found.models == ("weak", "strong") and 40 <= len(found) <= sampled
        assert len(set(found.prompts)) == len(found), "equal prompts were asked once"
        numbers = [int(prompt.removeprefix("question ")) for prompt in found.prompts]
        assert found.responses[:, 0].tolist() == [f"org/weak says {i}" for i in numbers]
        assert found.responses[:, 1].tolist() == [f"strong says {i}" for i in numbers]
        np.testing.assert_array_equal(found.quality, np.tile([0.0, 1.0], (len(found), 1)))
        counts = np.array(numbers) + 10
        assert found.prompt_tokens[:, 0].tolist() == counts.tolist()
        price = PRICE["strong"]
        dollars = (counts * price["input"] + (np.array(numbers) + 5) * price["output"]) / 1e6
        np.testing.assert_allclose(found.cost_usd[:, 1], dollars, rtol=1e-6)
        assert set(found.datasets) == {"even", "odd"}
        assert report["quality_by_model"]["strong"]["mean"] == found.quality[:, 1].mean()
        # The run's own output is what the two commands read.
        options = TrainOptions(TrainingOptions((data["output"],)), "length", str(tmp_path / "router"), validation=0.2)
        assert run_train(options).to_json()["models"] == ["weak", "strong"]
        asked = EvaluateOptions((data["output"],), ("length",), "weak", "strong", seeds=1, n_boot=20)
        assert run_evaluate(asked).to_json()["routers"]["length"]["aiq"]
        spec = parse_spec(data | {"router": str(tmp_path / "router"), "output": str(tmp_path / "next")})
        assert load_router(spec).models_ == ("weak", "strong")
        assert Store(data["output"]).exists("report.json")
