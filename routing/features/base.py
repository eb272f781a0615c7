"""What features are: a map from prompts to vectors that a JSON spec describes, so that an artifact can make it again.

Legend: n prompts, d features. Row i of a result depends on prompt i alone: what makes caching and batching exact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from routing.features.prompt_form import prompt_form
from routing.features.structure import structure


class Features(ABC):
    """A map from prompts to vectors that a JSON spec describes in full."""

    kind: ClassVar[str]
    """Name in the spec."""

    sparse: ClassVar[bool]
    """True where `transform` gives n-gram counts in CSR form, which routers weight by rarity and project."""

    @abstractmethod
    def transform(self, prompts: Sequence[str]) -> sp.csr_matrix | NDArray[np.float32]:
        """(n, d) float32."""

    def structure(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """(n, len(STRUCTURE)) float32; see `structure`."""
        return structure(prompts)

    def form(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """(n, len(FORM)) float32; see `routing.features.prompt_form`."""
        return prompt_form(prompts)

    @abstractmethod
    def spec(self) -> dict[str, object]:
        """`kind` and the constructor's arguments, JSON-safe."""
