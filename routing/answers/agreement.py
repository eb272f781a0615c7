"""How far answers agree: what a cascade takes for a sign that one of them is right.

Compared is what `routing.answers.features.extracted_answers` makes of texts, None for no answer: it agrees with nothing.
One comparison, two shares: `agreement_with` asks how sure a model is of its own answer (further samples of it),
`agreement_with_earlier` whether the models of a cascade say the same. O(n m). Legend: n rows, m models, k further answers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def agreement_with(own: NDArray[np.object_], further: NDArray[np.object_]) -> Floats:
    """(n,) share of the further answers (n, k), where there are any, that equal a row's own (n,); NaN for none of either."""
    count = _there(further).sum(axis=1)
    share: Floats = np.where((count > 0) & _there(own), _n_equal(own, further) / np.maximum(count, 1), np.nan)
    return share


def agreement_with_earlier(answers: NDArray[np.object_]) -> Floats:
    """(n, m) share of the columns before it that each of the answers (n, m) equals: 0 in the first.

    A cascade that asks in column order sees the same. A model that was not asked counts as one that disagrees.
    """
    agree = np.zeros(answers.shape)
    for j in range(1, answers.shape[1]):
        agree[:, j] = _n_equal(answers[:, j], answers[:, :j]) / j
    return agree


def _n_equal(own: NDArray[np.object_], others: NDArray[np.object_]) -> NDArray[np.intp]:
    """(n,) how many of a row's others (n, k) equal its own answer (n,)."""
    count: NDArray[np.intp] = (_there(others) & (others == own[:, None])).sum(axis=1)
    return count


def _there(answers: NDArray[np.object_]) -> NDArray[np.bool_]:
    there: NDArray[np.bool_] = answers != None  # noqa: E711 - element by element
    return there
