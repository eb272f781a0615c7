"""Which arguments of an engine a job file may give without --allow-code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.errors import SpecError
from jobs.route.preflight import check
from jobs.route.start import Job
from jobs.spec.engine_kwargs import needs_trust
from jobs.spec.engines import traits_of
from jobs.spec.loader import parse_spec
from tests.tiny_models import tiny_checkpoint


@pytest.mark.parametrize(
    ("engine", "kwargs", "first"),
    [
        ("vllm", {"max_model_len": 512, "dtype": "bfloat16", "gpu_memory_utilization": 0.8}, ""),
        ("transformers", {"attn_implementation": "sdpa", "max_model_len": 512}, ""),
        ("transformers", {"attn_implementation": "somebody/kernels"}, "attn_implementation"),
        ("transformers", {"trust_remote_code": True}, "trust_remote_code"),
        ("vllm", {"dtype": "auto", "trust_remote_code": True}, "trust_remote_code"),
        ("vllm", {"worker_cls": "evil.Worker"}, "worker_cls"),
        ("vllm", {"logits_processors": ["evil:Processor"]}, "logits_processors"),
        ("vllm", {"speculative_config": {"model": "somebody/draft"}}, "speculative_config"),
        ("vllm", {"quantization": {"plugin": "evil"}}, "quantization"),
    ],
)
def test_what_may_load_code_is_named(engine, kwargs, first):
    assert needs_trust(traits_of(engine).safe_kwargs, kwargs) == first


def test_a_stranger_s_job_file_runs_no_code_of_the_model_s_folder(tmp_path: Path):
    model = tiny_checkpoint(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    (model / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (tmp_path / "in.jsonl").write_text('{"q": "hello"}\n')
    weak = {"engine": "transformers", "source": str(model), "engine_kwargs": {"trust_remote_code": True}}
    spec = parse_spec(
        {
            "input": {"path": str(tmp_path / "in.jsonl"), "prompt": "q"}, "output": str(tmp_path / "out"), "router": "random",
            "models": {"weak": weak, "strong": weak}, "weak": "weak", "strong": "strong", "policy": {"strong_share": 0.5},
            "sampling": {"max_tokens": 4},
        }
    )  # fmt: skip
    with pytest.raises(SpecError, match=r"models\.weak\.engine_kwargs\.trust_remote_code: may load code"):
        check(Job(spec), ask_lanes=True)
    assert not (tmp_path / "ran").exists()
