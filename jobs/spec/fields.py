"""What every section is made of: its base class, and numbers that YAML cannot smuggle anything else into.

Use these and not `int` or `float`: pydantic alone takes `yes` for 1 and `.inf` for dollars.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


class Model(BaseModel):
    """Base of every section: unknown keys refused, values frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True)


def number(value: Any) -> Any:
    """`budget_usd: yes` is true in YAML, which pydantic would take for 1."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number (found {str(value).lower()})")
    return value


def _whole_above_one(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError(f"must be a share of one GPU (0 to 1) or a whole number (found {gpus:g})")
    return int(gpus) if gpus == int(gpus) else gpus


PositiveInt = Annotated[int, BeforeValidator(number), Field(gt=0, le=2**53)]
PositiveFloat = Annotated[float, BeforeValidator(number), Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(number), Field(ge=0, le=1, allow_inf_nan=False)]
Dollars = Annotated[float, BeforeValidator(number), Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]
Gpus = Annotated[
    float, BeforeValidator(number), Field(ge=0, le=2**20, allow_inf_nan=False), AfterValidator(_whole_above_one)
]
"""GPUs of one process: a share of one, or whole ones, which is what Ray can lend."""
