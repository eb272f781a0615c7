"""Preferences: tables, labels from outcomes and back, mixing, readers and their errors."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shared_files import SHARED

from routing.data.outcomes import Outcomes
from routing.data.preference_readers import read_preferences
from routing.data.preferences import Preferences, concat, relabelled, write_preferences
from routing.data.training_data import as_outcomes, as_preferences, mix
from routing.errors import RoutingError
from routing.routers.registry import ROUTERS, create

DATA = SHARED


def battles(*rows):
    prompts, a, b, winner = zip(*rows, strict=True)
    return Preferences(list(prompts), list(a), list(b), np.array(winner, float), ["set"] * len(rows))


THREE = battles(("p", "x", "y", 1), ("q", "y", "z", 0.5), ("\u2028r", "z", "x", 0))


def outcomes(quality, models=("x", "y", "z")):
    n = len(quality)
    return Outcomes(
        [str(i) for i in range(n)], [f"p{i}" for i in range(n)], ["d"] * n, models, np.array(quality, np.float32)
    )


def test_select_between_sides_and_concat():
    assert THREE.models == ("x", "y", "z")
    assert THREE.select(np.array([2, 0])).prompts == ["\u2028r", "p"]
    assert THREE.select(THREE.winner == 0.5).model_a == ["y"]
    assert THREE.between(["x", "y"]).prompts == ["p"]
    with pytest.raises(RoutingError, match="no battle between 'x', 'w'; the table has x, y, z"):
        THREE.between(["x", "w"])
    a, b = THREE.sides(("z", "y", "x"))
    assert (a.tolist(), b.tolist()) == ([2, 1, 0], [1, 0, 2])
    with pytest.raises(RoutingError, match="'z' is not one of x, y"):
        THREE.sides(("x", "y"))
    assert concat([THREE, THREE.select(np.array([0]))]).prompts == ["p", "q", "\u2028r", "p"]
    with pytest.raises(RoutingError, match="no table"):
        concat([])


def test_fingerprint_is_of_the_content():
    again = Preferences(
        tuple(THREE.prompts), tuple(THREE.model_a), tuple(THREE.model_b), THREE.winner.copy(), tuple(THREE.datasets)
    )
    assert again.fingerprint() == THREE.fingerprint()
    assert THREE.select(np.array([0, 2, 1])).fingerprint() != THREE.fingerprint()
    assert battles(("p", "xy", "z", 1)).fingerprint() != battles(("p", "x", "yz", 1)).fingerprint()


def test_golden_labels_are_all_known_pairs():
    golden = as_preferences(outcomes([[1, 0, 0.5], [0, 0, np.nan], [np.nan, np.nan, 1]]))
    told = list(zip(golden.prompts, golden.model_a, golden.model_b, golden.winner.tolist(), strict=True))
    assert told == [("p0", "x", "y", 1), ("p0", "x", "z", 1), ("p0", "y", "z", 0), ("p1", "x", "y", 0.5)]
    assert golden.datasets == ["d"] * 4
    assert as_preferences(golden) is golden


def test_golden_labels_with_a_margin():
    scores = outcomes((np.array([[9, 8, 5], [1, 1, 10]]) - 1) / 9)
    assert as_preferences(scores, margin=1 / 9).winner.tolist() == [0.5, 1, 1, 0.5, 0, 0]


def test_battles_as_outcomes():
    table = as_outcomes(THREE, ("z", "y", "x"))
    np.testing.assert_array_equal(table.quality, [[np.nan, 0, 1], [0.5, 0.5, np.nan], [0, np.nan, 1]])
    assert table.prompts == THREE.prompts
    assert table.datasets == THREE.datasets
    assert as_outcomes(THREE).models == ("y", "z", "x")  # by strength: x won twice; y and z lost one and tied
    assert as_outcomes(table) is table
    assert as_outcomes(table, ("x",)).models == ("x",)


def test_every_router_fits_on_battles():
    rng = np.random.default_rng(0)
    rows = [(f"{'long ' * (i % 9)}question {i}", "strong", "weak", float(rng.random() < 0.7)) for i in range(60)]
    data = battles(*rows)
    small = {"features": {"kind": "hashed", "n_features": 64}, "n_components": 4}
    for name in ("random", "length", "knn", "linear", "similarity", "mf"):
        assert name in ROUTERS
        router = create(name, **({} if name in ("random", "length") else small)).fit(data)
        assert router.models_ == ("weak", "strong")
        assert router.predict(["question 1", ""]).shape == (2, 2)


def test_mix_weighs_seeds_and_keeps_every_row():
    other = battles(("s", "x", "y", 0), ("t", "x", "y", 1))
    joined = mix([THREE, other], [2, 1], seed=3)
    assert sorted(joined.prompts) == sorted(list(THREE.prompts) * 2 + ["s", "t"])
    assert joined.fingerprint() == mix([THREE, other], [2, 1], seed=3).fingerprint()
    assert joined.fingerprint() != mix([THREE, other], [2, 1], seed=4).fingerprint()
    assert len(mix([THREE, other], [0, 1.5])) == 3
    both = mix([outcomes([[1, 0, 1]]), outcomes([[0, 1]], ("y", "w"))], [1, 1])
    assert both.models == ("x", "y", "z", "w") and len(both) == 2
    for weights, match in (([1], "one weight"), ([1, -1], "negative"), ([0, 0], "no rows")):
        with pytest.raises(RoutingError, match=match):
            mix([THREE, other], weights)


def test_relabelled_drops_battles_inside_a_name():
    table = relabelled(THREE, {"x": "good", "y": "good", "z": "bad"})
    assert list(zip(table.model_a, table.model_b, table.winner, strict=True)) == [
        ("good", "bad", 0.5),
        ("bad", "good", 0),
    ]
    assert not len(relabelled(THREE, {"x": "a"}))


def test_own_parquet_comes_back_equal(tmp_path):
    write_preferences(THREE, tmp_path / "a.parquet")
    assert read_preferences(tmp_path / "a.parquet").fingerprint() == THREE.fingerprint()
    assert read_preferences(tmp_path).fingerprint() == THREE.fingerprint()  # a folder


def test_words_numbers_turns_and_arrays(tmp_path):
    rows = [
        {"prompt": "one", "model_a": "x", "model_b": "y", "winner": "a"},
        {"prompt": "two", "model_a": "x", "model_b": "y", "winner": "B"},
        {"prompt": "three", "model_a": "x", "model_b": "y", "winner": "tie", "dataset": "mine"},
        {"prompt": "four", "model_a": "x", "model_b": "y", "winner": 0.25},
        {"prompt": "U+2028 \u2028 inside", "model_a": "x", "model_b": "y", "winner": "1"},
    ]
    lines = tmp_path / "votes.jsonl"
    lines.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")
    table = read_preferences(lines)
    assert table.winner.tolist() == [1, 0, 0.5, 0.25, 1]
    assert table.datasets == ["votes", "votes", "mine", "votes", "votes"]
    assert table.prompts[4] == "U+2028 \u2028 inside"
    chat = [{"role": "user", "content": "first"}, {"role": "assistant", "content": "answer"}]
    battle = {"conversation_a": chat, "model_a": "x", "model_b": "y", "winner": "tie (bothbad)"}
    (tmp_path / "battles.json").write_text(json.dumps([battle]))
    table = read_preferences(tmp_path / "battles.json")
    assert (table.prompts, table.winner.tolist()) == (["first"], [0.5])
    (tmp_path / "turns.jsonl").write_text(json.dumps({**rows[0], "prompt": ["first", "second"]}))
    assert read_preferences(tmp_path / "turns.jsonl").prompts == ["first"]


GOOD = {"prompt": "p", "model_a": "x", "model_b": "y", "winner": "a"}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no rows"),
        ("{", "line 1 is not JSON"),
        ("3", "line 1 is not a JSON object"),
        (json.dumps({**GOOD, "winner": "c"}), "winner is 'c' in row 0; it must be a, b or tie"),
        (json.dumps({**GOOD, "winner": None}), "winner is None"),
        (json.dumps({**GOOD, "winner": 2}), "winner is 2"),
        (json.dumps({**GOOD, "winner": float("nan")}), "winner is nan"),
        (json.dumps({**GOOD, "model_b": "x"}), "both 'x' in row 0"),
        (json.dumps({**GOOD, "model_b": None}), "not a name in row 0"),
        (json.dumps({**GOOD, "prompt": None}), "no text in row 0"),
        (json.dumps({**GOOD, "prompt": []}), "no text in row 0"),
        (json.dumps({"prompt": "p", "winner": "a"}), "no column 'model_a'; the table has prompt, winner"),
        (json.dumps({"model_a": "x", "model_b": "y", "winner": "a"}), "no column 'prompt'"),
    ],
)
def test_unreadable_lines(text, match, tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_text(text)
    with pytest.raises(RoutingError, match=match) as caught:
        read_preferences(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_unreadable_files(tmp_path):
    with pytest.raises(RoutingError, match="no such file"):
        read_preferences(tmp_path / "nowhere")
    with pytest.raises(RoutingError, match=r"no \.parquet, \.jsonl or \.json"):
        read_preferences(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(RoutingError, match="not readable"):
        read_preferences(tmp_path)
    (tmp_path / "b.jsonl").write_text(json.dumps(GOOD))
    with pytest.raises(RoutingError, match="mixed"):
        read_preferences(tmp_path)
    (tmp_path / "c.txt").write_text("x")
    with pytest.raises(RoutingError, match="unknown kind"):
        read_preferences(tmp_path / "c.txt")


def test_outcomes_are_told_from_preferences(tmp_path):
    path = tmp_path / "o.parquet"
    pq.write_table(pa.table({"id": ["1"], "prompt": ["p"], "dataset": ["d"], "x|quality": [1.0]}), path)
    with pytest.raises(RoutingError, match="no column 'model_a'"):
        read_preferences(path)


def test_arena_votes():
    path = DATA / "arena" / "human_votes.jsonl"
    if not path.exists():
        pytest.skip("shared/data/arena not present")
    votes = read_preferences(path)
    assert len(votes) == 1135 and len(votes.models) == 29
    assert [(votes.winner == value).sum() for value in (1, 0.5, 0)] == [369, 360, 406]
