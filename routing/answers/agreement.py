"""routing/answers/agreement.py: carried here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from routing.metrics.plane import Floats


def agreement(answers: NDArray[np.object_], earlier_only: bool = False) -> Floats:
    """Share of the other answers of its row that each answer equals, (n, m): a reward without training.

    answers: (n, m) of extracted answers, None where there is none (it agrees with nothing). `earlier_only`: with the
    columns before it alone, as a cascade in column order sees it; the first column is then 0. Also for n samples of
    one model, where it measures how sure the model is.
    """
    n, m = answers.shape
    agree = np.zeros((n, m))
    for j in range(m):
        for other in range(j if earlier_only else m):
            if other != j:
                agree[:, j] += (answers[:, j] == answers[:, other]) & (answers[:, j] != None)  # noqa: E711 (elementwise)
    others = np.arange(m) if earlier_only else np.full(m, m - 1)
    result: Floats = agree / np.maximum(others, 1)
    return result
