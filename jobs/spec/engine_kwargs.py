"""Which `engine_kwargs` a stranger's job file may give: numbers and names that size an engine, none that load code.

An engine's arguments can name a class to import, a plugin, another model's repository or `trust_remote_code`. What is not listed
in the engine's traits (`safe_kwargs`) needs `--allow-code`.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

VLLM = frozenset(
    {
        "async_scheduling", "attention_backend", "block_size", "cpu_offload_gb", "data_parallel_size", "disable_cascade_attn",
        "disable_custom_all_reduce", "disable_log_stats", "disable_sliding_window", "dtype", "enable_chunked_prefill",
        "enable_expert_parallel", "enable_prefix_caching", "enforce_eager", "gpu_memory_utilization", "kv_cache_dtype",
        "kv_cache_memory_bytes", "language_model_only", "max_cudagraph_capture_size", "max_logprobs", "max_model_len",
        "max_num_batched_tokens", "max_num_seqs", "max_parallel_loading_workers", "num_gpu_blocks_override", "optimization_level",
        "performance_mode", "pipeline_parallel_size", "quantization", "revision", "scheduling_policy", "seed", "swap_space",
        "tensor_parallel_size", "tokenizer_revision",
    }
)  # fmt: skip
TRANSFORMERS = frozenset(
    {"attn_implementation", "dtype", "low_cpu_mem_usage", "max_model_len", "revision", "torch_dtype"}
)
ATTENTION = ("eager", "sdpa", "flash_attention_2", "flex_attention")
"""Other values of attn_implementation are repositories of kernels."""


def needs_trust(safe: Set[str] | None, kwargs: Mapping[str, Any]) -> str:
    """The first argument that may load code; "" where none does. `safe`: EngineTraits.safe_kwargs."""
    if safe is None:
        return ""
    for name, value in kwargs.items():
        plain = isinstance(value, str | int | float | bool | None)
        if name not in safe or not plain or (name == "attn_implementation" and value not in ATTENTION):
            return name
    return ""
