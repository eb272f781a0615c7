"""The cache of vectors: same numbers, computed once, kept where asked."""

import numpy as np

from routing.features.base import Features
from routing.features.cache import feature_cache
from routing.features.registry import make_features

PROMPTS = ["one", "two words", "", "one"]


class Counted(Features):
    """Dense features that count how many prompts they were asked for."""

    kind, sparse, asked = "counted", False, 0

    def transform(self, prompts):
        Counted.asked += len(prompts)
        return np.array([[len(p), p.count("o")] for p in prompts], np.float32).reshape(len(prompts), 2)

    def spec(self):
        return {"kind": self.kind}


def test_hashed_vectors_are_the_same_with_and_without():
    spec = {"kind": "hashed", "n_features": 64}
    plain = make_features(spec)
    with feature_cache():
        cached = make_features(spec)
        assert cached.spec() == plain.spec() and cached.sparse and cached.kind == "hashed"
        for prompts in (PROMPTS, PROMPTS[:1], [*PROMPTS, "a new one"], []):
            assert (cached.transform(prompts) != plain.transform(prompts)).nnz == 0
            np.testing.assert_array_equal(cached.structure(prompts), plain.structure(prompts))
    assert type(make_features(spec)) is type(plain)


def test_a_prompt_is_computed_once_and_kept_in_the_folder(tmp_path, monkeypatch):
    from routing.features import cache as cache_module

    monkeypatch.setattr(Counted, "asked", 0)
    want = Counted().transform(PROMPTS)
    Counted.asked = 0
    for asked in (3, 3):  # the second process finds everything in the folder
        with feature_cache(tmp_path):
            for _ in range(2):
                np.testing.assert_array_equal(cache_module.cached(Counted()).transform(PROMPTS), want)
        assert Counted.asked == asked
    with feature_cache(tmp_path):
        cache_module.cached(Counted()).transform(["three", *PROMPTS])
    assert Counted.asked == 4
    assert make_features({"kind": "hashed", "n_features": 4}).spec()["n_features"] == 4


def test_a_cached_router_is_saved_and_sent_without_the_cache():
    import pickle

    with feature_cache():
        cached = make_features({"kind": "hashed", "n_features": 64})
        cached.transform(PROMPTS)
        sent = pickle.loads(pickle.dumps(cached))
    assert sent.spec() == cached.spec()
