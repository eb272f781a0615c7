"""How near a training set lies to an evaluation set: contaminated prompts, and benchmark-data similarity.

RouteLLM (arXiv 2406.18665): training prompts with a cosine of at least .95 to an evaluation prompt are contaminated and
left out; the mean over evaluation prompts of the highest cosine to a training prompt tells which training set helps
which benchmark. Exact, by blocked matrix products over any features: O(n N d), 32 MB at a time. With sentence encoders
a paraphrase is near; with hashed n-grams only the same wording is. Legend: n queries, N corpus prompts, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import normalize

from routing.errors import RoutingError
from routing.features.base import Features

THRESHOLD = 0.95
"""Cosine from which RouteLLM calls a prompt contaminated (`routellm/evals/find_contaminated.py`)."""
QUERIES, CORPUS = 512, 16384
"""Rows of a block's two sides: 32 MB of float32 similarities."""


class Nearest(NamedTuple):
    """The most similar corpus prompt of each query."""

    similarity: NDArray[np.float32]
    """(n,) cosine."""
    row: NDArray[np.intp]
    """(n,) position in the corpus, the first of equals."""


def nearest(queries: Sequence[str], corpus: Sequence[str], features: Features) -> Nearest:
    """The highest cosine of each query to a corpus prompt, and where. Raises RoutingError for an empty corpus.

    A prompt without any feature (an empty one) has the cosine 0 with everything.
    """
    if not len(corpus):
        raise RoutingError("similarity: there is no prompt to compare with")
    similarity = np.full(len(queries), -np.inf, np.float32)
    row = np.zeros(len(queries), np.intp)
    if not len(queries):
        return Nearest(similarity, row)
    left, right = normalize(features.transform(queries)), normalize(features.transform(corpus))
    for start in range(0, len(corpus), CORPUS):
        block = right[start : start + CORPUS].T
        block = block.tocsr() if features.sparse else block
        for first in range(0, len(queries), QUERIES):
            product: Any = left[first : first + QUERIES] @ block
            cosine = product.toarray() if features.sparse else product
            best = cosine.argmax(axis=1)
            value = np.take_along_axis(cosine, best[:, None], 1)[:, 0]
            part = slice(first, first + QUERIES)
            row[part] = np.where(value > similarity[part], start + best, row[part])
            similarity[part] = np.maximum(value, similarity[part])
    return Nearest(similarity, row)


def contaminated(
    training: Sequence[str], evaluation: Sequence[str], features: Features, threshold: float = THRESHOLD
) -> NDArray[np.bool_]:
    """(n,): training prompts with a cosine of at least `threshold` to an evaluation prompt.

    Turned round (`contaminated(evaluation, training, …)`) it marks the evaluation prompts that RouteLLM's evaluation leaves
    out. Raises RoutingError for a threshold that is no cosine, or no evaluation prompt.

    training: n prompts.
    evaluation: prompts they are compared with.
    features: what both are made vectors by, hashed n-grams or an encoder.
    threshold: a cosine, RouteLLM's .95 by default.
    """
    if not -1 <= threshold <= 1:
        raise RoutingError(f"contamination: threshold is {threshold!r}; a cosine is within -1..1")
    # Cosines are rounded: the same text in single precision may come out as 0.9999999.
    result: NDArray[np.bool_] = nearest(training, evaluation, features).similarity >= threshold - 1e-6
    return result


def benchmark_similarity(training: Sequence[str], evaluation: Sequence[str], features: Features) -> float:
    """Mean over evaluation prompts of the highest cosine to a training prompt. Raises RoutingError for an empty side."""
    if not len(evaluation):
        raise RoutingError("similarity: there is no evaluation prompt")
    return float(nearest(evaluation, training, features).similarity.mean(dtype=np.float64))
