"""Vectors of prompts computed once: for cross-validation and seeds, which ask for the same prompts again and again.

    with feature_cache("~/.cache/headgate"):      # a folder keeps an encoder's vectors for the next process too
        create("auto").fit(outcomes)

Inside, `routing.features.registry.make_features` hands out features that look a prompt up before they compute it;
outside nothing changes, so a job that scores a million prompts once keeps none of them. Row i of a transform depends on
prompt i alone, which is what makes this exact. Memory: 1.5 KB a prompt for MiniLM, about 6 KB for hashed n-grams of 270
characters. Legend: n prompts, d features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from routing.features.base import Features
from routing.features.prompt_form import prompt_form
from routing.features.structure import structure

_active: ContextVar[FeatureCache | None] = ContextVar("feature_cache", default=None)


@contextmanager
def feature_cache(folder: str | Path | None = None) -> Iterator[None]:
    """Features made inside share their vectors by spec. `folder`: where dense (encoder) vectors are kept for later processes."""
    cache = FeatureCache(Path(folder).expanduser() if folder else None)
    try:
        with using(cache):
            yield
    finally:
        cache.write()


def active_cache() -> FeatureCache | None:
    """The cache that features made now would share."""
    return _active.get()


@contextmanager
def using(cache: FeatureCache | None) -> Iterator[None]:
    """Features made inside share `cache` (None: none)."""
    token = _active.set(cache)
    try:
        yield
    finally:
        _active.reset(token)


def cached(features: Features) -> Features:
    """The features behind the cache that is active, or as they are."""
    cache = _active.get()
    return features if cache is None else _CachedFeatures(features, cache)


def cached_structure(prompts: Sequence[str]) -> NDArray[np.float32]:
    """`routing.features.structure.structure` of the prompts, from the cache that is active where there is one."""
    cache = _active.get()
    result: NDArray[np.float32] = structure(prompts) if cache is None else cache.structure.rows(prompts)
    return result


class _CachedFeatures(Features):
    """Looks like the features it wraps, spec included: an artifact does not know of the cache."""

    def __init__(self, features: Features, cache: FeatureCache) -> None:
        self.kind, self.sparse = features.kind, features.sparse  # type: ignore[misc]
        self._features, self._cache = features, cache

    def transform(self, prompts: Sequence[str]) -> Any:
        return self._cache.table(self._features).rows(prompts)

    def structure(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = self._cache.structure.rows(prompts)
        return result

    def form(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = self._cache.form.rows(prompts)
        return result

    def spec(self) -> dict[str, object]:
        return self._features.spec()

    def __reduce__(self) -> Any:
        # Another process has no part in this cache: the features travel as they are.
        return _as_it_is, (self._features,)


def _as_it_is(features: Features) -> Features:
    return features


class FeatureCache:
    """Tables of rows by prompt, one per spec; `clear` empties them, and whoever holds the cache fills it anew."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.structure, self.form = _Rows(structure), _Rows(prompt_form)
        self.tables: dict[str, _Rows] = {}

    def table(self, features: Features) -> _Rows:
        """The rows of these features, made on first use, or read from the folder where an earlier process kept them."""
        key = json.dumps(features.spec(), sort_keys=True)
        if key not in self.tables:
            file = None if self.folder is None or features.sparse else self.folder / f"{_digest(key)}.safetensors"
            self.tables[key] = _Rows(features.transform, file)
        return self.tables[key]

    def clear(self) -> None:
        """Forget all rows."""
        for table in (self.structure, self.form, *self.tables.values()):
            table.place, table.parts, table.stored = {}, [], 0

    def write(self) -> None:
        """Keep the encoders' rows in the folder, where there is one."""
        for table in self.tables.values():
            table.write()


class _Rows:
    """Rows by prompt: `compute` runs on prompts not seen before, all of a call at once."""

    def __init__(self, compute: Callable[[Sequence[str]], Any], file: Path | None = None) -> None:
        self.compute, self.file = compute, file
        self.place: dict[bytes, int] = {}
        self.parts: list[Any] = []
        self.stored = 0
        if file is not None and file.is_file():
            arrays = load_file(file)
            self.place = {key.tobytes(): row for row, key in enumerate(arrays["keys"])}
            self.parts, self.stored = [arrays["vectors"]], len(self.place)

    def rows(self, prompts: Sequence[str]) -> Any:
        """(n, d) in the order of `prompts`."""
        if not len(prompts):
            return self.compute(prompts)
        keys = [_key(prompt) for prompt in prompts]
        fresh = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self.place}
        if fresh:
            self.parts.append(self.compute(list(fresh.values())))
            for key in fresh:
                self.place[key] = len(self.place)
        if len(self.parts) > 1:
            first = self.parts[0]
            self.parts = [sp.csr_matrix(sp.vstack(self.parts)) if sp.issparse(first) else np.concatenate(self.parts)]
        return self.parts[0][[self.place[key] for key in keys]]

    def write(self) -> None:
        if self.file is None or len(self.place) == self.stored:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        keys = np.frombuffer(b"".join(self.place), np.uint8).reshape(len(self.place), -1)
        temporary = self.file.with_suffix(".tmp")
        save_file({"keys": keys.copy(), "vectors": np.ascontiguousarray(self.parts[0])}, temporary)
        temporary.replace(self.file)
        self.stored = len(self.place)


def _key(prompt: str) -> bytes:
    return hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
