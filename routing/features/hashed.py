"""Text to vectors: hashed n-grams with structure counts (stateless, no model), or any sentence encoder.

`HashedTextFeatures` costs 0.3 ms a prompt of 270 characters in a batch, where each word's characters are hashed once,
0.5 ms alone (characters .31, structure .10, words .07). It needs no download; it sees wording and form.
`SentenceEncoder` sees meaning and costs a forward pass: prefer it with a GPU, or from about a thousand training rows. A
router stores `spec()` in its JSON card and gets the same features back from `make_features`. Legend: n prompts, d
features. Row i of a result depends on prompt i alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from routing.errors import RoutingError
from routing.features.base import Features
from routing.text import whole


class HashedTextFeatures(Features):
    """Word 1-2-grams and character 3-5-grams, each hashed into signed buckets and scaled to unit length.

    Stateless: no vocabulary to learn or store. d = 2 * n_features (n_features without characters).

    n_features: default 16,384, at least 2; buckets of each kind.
    characters: default True; whether character n-grams are made beside those of words.
    """

    kind, sparse = "hashed", True

    def __init__(self, n_features: int = 2**14, characters: bool = True) -> None:
        if not isinstance(n_features, int) or n_features < 2:
            raise RoutingError(f"features: n_features is {n_features!r}; it must be a whole number of at least 2")
        from sklearn.feature_extraction.text import HashingVectorizer

        self.n_features, self.characters = n_features, characters
        words = HashingVectorizer(
            n_features=n_features, dtype=np.float32, ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b"
        )
        self._words = words
        self._letters = HashingVectorizer(
            n_features=n_features, dtype=np.float32, ngram_range=(3, 5), analyzer="char_wb", norm=None, lowercase=False
        )

    def transform(self, prompts: Sequence[str]) -> sp.csr_matrix:
        """(n, d) float32, CSR; lone surrogates read as "?". Row i depends on prompt i alone."""
        if not len(prompts):
            return sp.csr_matrix((0, self.n_features * (1 + self.characters)), dtype=np.float32)
        # The hash takes UTF-8 bytes; a lone surrogate (half an emoji from a cut JSON escape) has none and becomes "?".
        texts = [whole(prompt) for prompt in prompts]
        words = self._words.transform(texts)
        return sp.csr_matrix(sp.hstack([words, self._of_characters(texts)], format="csr")) if self.characters else words

    def _of_characters(self, texts: Sequence[str]) -> sp.csr_matrix:
        """What `char_wb` n-grams of the texts hash to, (n, n_features): sums over words, and every distinct word hashed once."""
        from sklearn.preprocessing import normalize

        place: dict[str, int] = {}
        split = [[place.setdefault(word, len(place)) for word in text.lower().split()] for text in texts]
        hashed = (
            self._letters.transform(list(place)) if place else sp.csr_matrix((0, self.n_features), dtype=np.float32)
        )
        word = np.array([row for rows in split for row in rows], np.intp)
        lengths = np.diff(hashed.indptr)[word]
        # Entry by entry and not as a product of matrices, which leaves out n-grams that cancel each other.
        entries = np.arange(lengths.sum()) + np.repeat(hashed.indptr[word] - (np.cumsum(lengths) - lengths), lengths)
        per_text = np.concatenate([[0], np.cumsum(lengths)])[np.cumsum([0, *map(len, split)])]
        shape = (len(texts), self.n_features)
        counts = sp.csr_matrix((hashed.data[entries], hashed.indices[entries], per_text), shape=shape)
        counts.sum_duplicates()
        return normalize(counts, copy=False)

    def spec(self) -> dict[str, object]:
        """`kind`, `n_features`, `characters`."""
        return {"kind": self.kind, "n_features": self.n_features, "characters": self.characters}
