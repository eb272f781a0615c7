"""What fine-tuning the neural routers costs at full size, by arithmetic: memory, FLOPs, hours.

Parameters are counted on the architectures themselves, built without memory (torch's meta device). A multiply-add is 2
FLOPs; a token costs 2 per weight of the matrices it passes, and attention 4 x length x width per layer, half of it
where it is causal; the backward pass costs twice the forward pass, or once where the weights are frozen. The output
layer of the LLM runs at one position a row and is left out. `benchmarks/scorer.py --arithmetic` prints the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from routing.errors import RoutingError

PEAK_FLOPS = {"A10G": 70e12, "H100": 989e12}
"""Dense bf16 matrix peak of a GPU, from its data sheet."""
GPU_BYTES = {"A10G": 24e9, "H100": 80e9}
UTILIZATION = 0.4
"""Share of the peak that fine-tuning reaches when it goes well."""
LORA_RANK = 16


@dataclass(frozen=True, slots=True)
class Shape:
    """An architecture and its size, as transformers configures it."""

    kind: str
    """model_type of transformers."""
    causal: bool
    settings: Mapping[str, int]


SHAPES = {
    "MiniLM-L6": Shape(
        "bert", False, {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
    ),
    "BERT-base": Shape("bert", False, {}),
    "XLM-R-base": Shape(
        "xlm-roberta", False, {"vocab_size": 250_002, "max_position_embeddings": 514, "type_vocab_size": 1}
    ),
    "Llama-3-8B": Shape(
        "llama",
        True,
        {
            "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
        },
    ),
}  # fmt: skip
"""By the name people know."""


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """One way to fine-tune one model, without activations: those depend on `tokens_per_batch`."""

    model: str
    method: str
    """full | LoRA"""
    parameters: int
    trained: int
    """Parameters that are trained."""
    weight_bytes: int
    """float32 where they are trained, bf16 where frozen; adapters in float32."""
    gradient_bytes: int
    adam_bytes: int
    """Two float32 moments."""
    flops: float
    """Of all steps."""
    hours: Mapping[str, float | None]
    """GPU → hours at `UTILIZATION` of its peak; None where the bytes alone do not fit into one."""

    @property
    def bytes(self) -> int:
        return self.weight_bytes + self.gradient_bytes + self.adam_bytes


def build(name: str, **changes: int) -> Any:
    """The model of a shape, with `changes` to its settings, on torch's current device. Raises RoutingError."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    if name not in SHAPES:
        raise RoutingError(f"shape {name!r}: known are {', '.join(SHAPES)}")
    shape = SHAPES[name]
    config = AutoConfig.for_model(shape.kind, **{**shape.settings, **changes})
    auto_class: Any = AutoModelForCausalLM if shape.causal else AutoModel
    return auto_class.from_config(config)


@cache
def _counts(name: str) -> tuple[int, int, int, int]:
    """(parameters, weights of the matrices every token passes, weights of a LoRA of rank 1, width x layers)."""
    import torch

    with torch.device("meta"):
        model = build(name)
    linear = [
        module
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "pooler" not in path and path != "lm_head"
    ]
    return (
        sum(p.numel() for p in model.parameters()),
        sum(module.weight.numel() for module in linear),
        sum(module.in_features + module.out_features for module in linear),
        model.config.hidden_size * model.config.num_hidden_layers,
    )


def forward_flops(name: str, length: int) -> float:
    """FLOPs per token of one forward pass over a row of `length` tokens, output layer and poolers aside."""
    return 2.0 * _counts(name)[1] + _attention(name, length)


def _attention(name: str, length: int) -> float:
    return (2.0 if SHAPES[name].causal else 4.0) * length * _counts(name)[3]


def training_cost(
    name: str, method: str = "full", steps: int = 2000, batch_size: int = 16, length: int = 512
) -> TrainingCost:
    """Cost of `steps` x `batch_size` rows of `length` tokens each. Raises RoutingError for an unknown shape or method."""
    if method not in ("full", "LoRA"):
        raise RoutingError(f"method {method!r}: known are full and LoRA")
    parameters, matrices, rank_one, _ = _counts(name)
    if method == "full":
        trained, weight_bytes, passes = parameters, 4 * parameters, 3 * forward_flops(name, length)
    else:
        trained = LORA_RANK * rank_one
        # Frozen matrices have no gradient of their own: two passes instead of three. Attention and adapters have three.
        weight_bytes = 2 * parameters + 4 * trained
        passes = 4.0 * matrices + 3 * _attention(name, length) + 6.0 * trained
    flops = passes * steps * batch_size * length
    total = weight_bytes + 12 * trained
    hours = {
        gpu: flops / (UTILIZATION * peak) / 3600 if total <= GPU_BYTES[gpu] else None
        for gpu, peak in PEAK_FLOPS.items()
    }
    return TrainingCost(
        name, method, parameters, trained, weight_bytes, gradient_bytes=4 * trained, adam_bytes=8 * trained, flops=flops,
        hours=hours,
    )  # fmt: skip


def training_costs() -> list[TrainingCost]:
    """The table: 2,000 steps of 16 rows of 512 tokens."""
    wanted = (("BERT-base", "full"), ("XLM-R-base", "full"), ("Llama-3-8B", "LoRA"), ("Llama-3-8B", "full"))
    return [training_cost(name, method) for name, method in wanted]


def cost_table(costs: list[TrainingCost] | None = None) -> str:
    """`training_costs()` as a Markdown table."""
    gpus = list(PEAK_FLOPS)
    head = ["model", "method", "parameters", "trained", "weights", "gradients", "Adam", "together", "FLOPs"]
    rows = [head + [f"hours, {gpu}" for gpu in gpus]]
    for cost in training_costs() if costs is None else costs:
        sizes = [
            f"{size / 1e9:.2f} GB" for size in (cost.weight_bytes, cost.gradient_bytes, cost.adam_bytes, cost.bytes)
        ]
        hours = ["does not fit" if value is None else f"{value:.2g}" for value in (cost.hours[gpu] for gpu in gpus)]
        counts = [f"{cost.parameters / 1e6:,.1f} M", f"{cost.trained / 1e6:,.1f} M"]
        rows.append([cost.model, cost.method, *counts, *sizes, f"{cost.flops:.1e}", *hours])
    rows.insert(1, ["---"] * 2 + ["--:"] * (len(rows[0]) - 2))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
