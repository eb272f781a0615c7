"""Contamination and benchmark-data similarity, against the full matrix of cosines."""

import json

import numpy as np
import pytest
from shared_files import SHARED

import routing.data.contamination as similarity
from routing.data.contamination import benchmark_similarity, contaminated, nearest
from routing.errors import RoutingError
from routing.features.base import Features
from routing.features.registry import make_features

HASHED = make_features({"kind": "hashed", "n_features": 2**10})
DATA = SHARED


class Drawn(Features):
    """Dense vectors drawn by prompt, not of unit length: what an encoder gives, without one."""

    kind, sparse = "drawn", False

    def transform(self, prompts):
        rows = [np.random.default_rng(sum(prompt.encode())).normal(size=8) * len(prompt) for prompt in prompts]
        return np.array(rows, np.float32).reshape(len(prompts), 8)

    def spec(self):
        return {"kind": self.kind}


@pytest.mark.parametrize("features", [HASHED, Drawn()], ids=["sparse", "dense"])
def test_blocks_find_what_the_whole_matrix_holds(features, monkeypatch):
    monkeypatch.setattr(similarity, "QUERIES", 7)
    monkeypatch.setattr(similarity, "CORPUS", 11)
    queries, corpus = [f"question {i} of {i**2}" for i in range(30)], [f"text {i} about {i**3}" for i in range(50)]
    corpus[20] = queries[3]
    left, right = (features.transform(side) for side in (queries, corpus))
    left, right = (side.toarray() if features.sparse else side for side in (left, right))
    cosine = (left / np.linalg.norm(left, axis=1)[:, None]) @ (right / np.linalg.norm(right, axis=1)[:, None]).T
    found = nearest(queries, corpus, features)
    np.testing.assert_allclose(found.similarity, cosine.max(1), atol=1e-6)
    np.testing.assert_array_equal(found.row, cosine.argmax(1))
    assert found.row[3] == 20 and found.similarity[3] == pytest.approx(1, abs=1e-6)
    assert benchmark_similarity(corpus, queries, features) == pytest.approx(cosine.max(1).mean(), abs=1e-6)


def test_contaminated_rows_go():
    prompts = ["What is the capital of France?", "Name a prime number.", "What is the capital of France ?", ""]
    evaluation = ["What is the capital of France?", "Who wrote Faust?", ""]
    assert contaminated(prompts, evaluation, HASHED).tolist() == [True, False, False, False]
    assert contaminated(prompts, evaluation, HASHED, 0.8).tolist() == [True, False, True, False]
    assert contaminated(evaluation, prompts, HASHED).tolist() == [True, False, False]
    assert benchmark_similarity(evaluation, evaluation[:2], HASHED) == pytest.approx(1, abs=1e-6)


def test_errors():
    with pytest.raises(RoutingError, match="no prompt to compare"):
        nearest(["a"], [], HASHED)
    with pytest.raises(RoutingError, match="no evaluation prompt"):
        benchmark_similarity(["a"], [], HASHED)
    with pytest.raises(RoutingError, match="threshold is 95"):
        contaminated(["a"], ["a"], HASHED, 95)
    assert nearest([], ["a"], HASHED).row.shape == (0,)


def test_routellm_s_contaminated_prompts_are_found():
    path = DATA / "routellm" / "mt_bench" / "contaminated_prompts.jsonl"
    if not path.exists():
        pytest.skip("shared/data/routellm not present")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    training, evaluation = ([row[key] for row in rows] for key in ("train_prompt", "eval_prompt"))
    assert contaminated(evaluation, training, make_features({"kind": "hashed"})).all()
