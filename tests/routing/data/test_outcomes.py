"""Outcomes: every form read, written, cut and refused; a pickle that names anything foreign never runs."""

import base64
import json
import os
import pickle
import zlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem
from shared_files import SHARED

from routing.data.outcome_readers import read_outcomes
from routing.data.outcomes import OPTIONAL, Outcomes, write_outcomes
from routing.errors import RoutingError

DATA = SHARED

# The table of `routerbench_frame`, pickled (protocol 4) by pandas 1.5.3 and by 2.2.3, zlib, base 85.
PICKLED = {
    "pandas 1.5.3": (
        "c-n1LOKTKC5Z?EiD0wJqK#`oB2r}v_A|kH1BE%spdJUoJndxMP%!}?GH!BJ1!8HqgOL@?L;!p4<_(wc?)9Ri{%(~l$uCAKus{X#J"
        "n)i**gGR+HwVct!r^5D9&g^YYV+LyO8I|<8IUm7|4{!i$szKr%4(i%z_b`!+Co~dvOcT1pxBzwTX_R`q8-<S7)ur+Vi9%QWy8>#F"
        "<VhBKyAdO<zN4KlCV89<i|BD4$&hkRhZvP`=B0^{Jolt_Y#K*UZH#SPj=-sWgkIH!Pw*PnoT}4sY9k01RnwQlOe0aX?FTSEEWX!O"
        "^%3;@{TF|5na!z4aL2tT1u?(6h5S*<-|s5r`uat$Z{0$E@7^`*=ZPO+m|!7T*6#@}oV*5=6;%sQy&$+cEB|V}%u`mV(k|thQtJ3l"
        "O~(k%PUmSE)R^hz1lIlkuy%E>Ev##u+IK+j9Z;=JYp-i<ftug6hStqh>#bI*6oQAUxoL6K`uZTW8Ku;+9^b+MOG!%N)MpXF+F`9E"
        "u$eTpP`N(t-99F>TFP1}o26`(a&8Lr2=ud8Ci~E5dra6a71+J=Bw+)xu5DQKz){WPv*}|WdmE-7HjhfjFfu1-oMBUjJ~EQ=G|nWB"
        "1bagxlIW2L9&5}<*Lg&~Ux4OJWZ0g}7&}wO1??$QNi{t}8bfEou#$4>VbbEJObJhO$?#x!R1K54pO19aH`J9`=y4(#4?QGcJ(2hC"
        "odO-an#Nlz3bE9lL3BWiOiXV$`8YqwfF|zv2SH*csbNxg0+kX+{{ZPC+Y#L{$ICQ|(t#j;o<*TY5lci}hI4-?a@YO~UkI42"
    ),
    "pandas 2.2.3": (
        "c-n1KOK;Oa5Y9U!pgurA4hZ!`ii84$3qpt>f{?&86<nigwYE30Rll^mrVVNZ90-lHw+;vRC;S9%Nc<6w++cR?l$K-<o`>i8&CL7C"
        "=a-d&d1^hOkxNC#i8<?xI1L%7##1WkGs7Rl%@1%0o2o*>F$Z=1w7DNi#v>YtPDmp<W?X=}@Fa+x-K|VUcXcKAAc1d-e=eX_Ng5@-"
        "vl}pCYaeZVIZDH1l0^^GK>Cz(I>D%fGbfIO<f$XIVbvIds$*<patv1CBlL?le1g}oX%(%CRhojgs;aJ>B)St-8r_H4QTD&AiVtBh"
        "7`*s{&wQ+c1bfzhoB{Kzm(d?N{r#?xzpr2P`_{|o_uf78exBF?hVfRsbzP5l>7*JITB_uqs=&LpEdNG1&y!E6P|xYPoa*>iNyqTc"
        "FXpM4t})a0nO+b6>$RtI?ciL?v~w5qw+pH^Z14BlJD{4w_N0Alqy1J3MGD>nRUNiDN(0RZtwt&}Er+);z*-cOFm_o$aCSH=32Z40"
        "H56{l`gi7F7IRw4X*H*{oHiDko`NpBb#@P3w$DVzrUJLONg}pKo@*Tr-Lq76&YL}UakpWyuqFy!gGfWrFu|qtT|^||ahOOv3HF8t"
        "B+@70J<>fRTo<wPgRE)JM1t$djIz6+T+x;?mQ=$dq)~LwC|WV64kpb!WlVUSN`{QVQB_RlK|0k_-}1Jx6Ytex6QvB@wfYkDJes*P"
        "{lRm_qrkQ_8uP0sA(Pa=qsL37#CtwO49F;;W5ZshK@jf=;-*R9I}{5HsLk-0k3?#B{sMjthmr"
    ),
}


def routerbench_frame():
    nan = float("nan")
    columns = {
        "sample_id": ["a.1", "a.2"],
        "prompt": ["['x?']", "['y', 'z']"],
        "eval_name": ["a", "a"],
        "m/1": [1.0, 0.25],
        "m/2": [nan, 0.0],
        "m/1|model_response": ["['r']", None],
        "m/2|model_response": ["['s']", "['t']"],
        "m/1|total_cost": [0.1, 0.2],
        "m/2|total_cost": [0.3, nan],
        "oracle_model_to_route_to": ["m/1", "no_model_correct"],
    }
    return pd.DataFrame(columns, index=pd.Index([7, 9]))


def check_routerbench(outcomes):
    assert list(outcomes.ids) == ["a.1", "a.2"]
    assert list(outcomes.prompts) == ["x?", "y\n\nz"]
    assert outcomes.models == ("m/1", "m/2")
    np.testing.assert_array_equal(outcomes.quality, np.array([[1, np.nan], [0.25, 0]], np.float32))
    np.testing.assert_array_equal(outcomes.cost_usd, [[0.1, 0.3], [0.2, np.nan]])
    assert outcomes.responses.tolist() == [["r", "s"], [None, "t"]]


def full_table():
    return Outcomes(
        ids=["1", "2", "3"],
        prompts=["p", "ü\n\"q\", 'r'", "p"],
        datasets=["d", "d", "e"],
        models=("weak", "org/strong"),
        quality=np.array([[0, 1], [0.5, np.nan], [1, 1]], np.float32),
        cost_usd=np.array([[1e-6, 1e-3], [np.nan, 2e-3], [0, 0]]),
        responses=np.array([["a", None], ["", "b"], ["c", "d"]], object),
        prompt_tokens=np.array([[1.0, 2], [3, 4], [5, np.nan]]),
        completion_tokens=np.array([[1.0, 2], [3, 4], [5, 6]]),
        latency_s=np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]),
    )


@pytest.fixture
def full() -> Outcomes:
    return full_table()


def wide(tmp_path, name="o.parquet", **columns):
    base = {"id": ["1", "2"], "prompt": ["a", "b"], "dataset": ["d", "d"], "m|quality": [0.0, 1.0]}
    pq.write_table(pa.table({k: v for k, v in {**base, **columns}.items() if v is not None}), tmp_path / name)
    return tmp_path / name


def test_own_form_round_trip(full, tmp_path):
    write_outcomes(full, tmp_path / "o.parquet")
    back = read_outcomes(tmp_path / "o.parquet")
    assert back.fingerprint() == full.fingerprint()
    assert list(back.prompts) == list(full.prompts)
    for name in OPTIONAL:
        assert getattr(back, name) is not None
    assert back.responses.tolist() == full.responses.tolist()
    # Through a file system of the caller's, and as a folder.
    tree = SubTreeFileSystem(str(tmp_path), LocalFileSystem())
    assert read_outcomes("o.parquet", tree).fingerprint() == full.fingerprint()
    (tmp_path / "_SUCCESS").write_text("")
    assert read_outcomes(tmp_path).fingerprint() == full.fingerprint()


def test_plain_prompt_tokens_serve_all_models(tmp_path):
    path = wide(tmp_path, id=[1, 2], prompt_tokens=[7, None], messages=["[]", "[]"], **{"n|quality": [1, 0]})
    outcomes = read_outcomes(path)
    np.testing.assert_array_equal(outcomes.prompt_tokens, [[7, 7], [np.nan, np.nan]])
    assert list(outcomes.ids) == ["1", "2"]
    write_outcomes(outcomes, tmp_path / "again.parquet")
    assert "prompt_tokens" in pq.read_schema(tmp_path / "again.parquet").names
    assert read_outcomes(tmp_path / "again.parquet").fingerprint() == outcomes.fingerprint()


@pytest.mark.parametrize("form", ["csv", "parquet", "pickle", *PICKLED])
def test_routerbench(form, tmp_path):
    frame, path = routerbench_frame(), tmp_path / ("t.pkl" if form[0] == "p" and form != "parquet" else f"t.{form}")
    if form == "csv":
        frame.to_csv(path)
    elif form == "parquet":
        frame.to_parquet(path)
    elif form == "pickle":
        frame.to_pickle(path)
    else:
        path.write_bytes(zlib.decompress(base64.b85decode(PICKLED[form])))
    check_routerbench(read_outcomes(path))


def test_routerbench_halves_are_merged_and_repeats_stay(tmp_path):
    frame = routerbench_frame()
    # As in its ARC-c files: the prompt twice in the row that knows the other model, costs of all in both.
    half = frame.iloc[:1].assign(prompt="['x?', 'x?']", **{"m/1": np.nan, "m/2": 0.5, "m/1|total_cost": 9.0})
    frame.to_csv(tmp_path / "train.csv")
    pd.concat([half, frame.iloc[1:]]).to_csv(tmp_path / "test.csv")
    outcomes = read_outcomes(tmp_path)
    assert list(outcomes.ids) == ["a.1", "a.2", "a.2"]
    np.testing.assert_array_equal(outcomes.quality[0], np.array([1, 0.5], np.float32))
    assert outcomes.cost_usd[0].tolist() == [0.1, 0.3]


class Malicious:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize(
    "call", [os.mkdir, pd.eval, pd.read_pickle, np.load, eval, getattr], ids=lambda f: f"{f.__module__}.{f.__name__}"
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_malicious_pickle_is_refused_and_nothing_runs(call, protocol, tmp_path):
    trap = tmp_path / "trap"
    frame = routerbench_frame()
    bomb = Malicious(call, *((frame, "to_csv") if call is getattr else (str(trap),)))
    (tmp_path / "t.pkl").write_bytes(pickle.dumps([frame, bomb, Malicious(os.mkdir, str(trap))], protocol))
    with pytest.raises(RoutingError, match=r"refused: the pickle names"):
        read_outcomes(tmp_path / "t.pkl")
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1, 2]), pickle.dumps(np.zeros(3))])
def test_other_pickles_are_refused(content, tmp_path):
    (tmp_path / "t.pkl").write_bytes(content)
    with pytest.raises(RoutingError, match="pickle"):
        read_outcomes(tmp_path / "t.pkl")


def test_routellm(tmp_path):
    (tmp_path / "maths.csv").write_text('prompt,w,s,w_response\n"2+2,\n?",True,False,4\n17,False,True,\n')
    outcomes = read_outcomes(tmp_path)
    assert list(outcomes.prompts) == ["2+2,\n?", "17"]
    assert list(outcomes.datasets) == ["maths"] * 2
    assert outcomes.models == ("w", "s")
    assert outcomes.quality.tolist() == [[1, 0], [0, 1]]
    assert outcomes.responses.tolist() == [["4", None], [None, None]]
    with pytest.raises(RoutingError, match="is not there"):
        read_outcomes(tmp_path, drop_contaminated=True)
    (tmp_path / "contaminated_prompts.jsonl").write_text(json.dumps({"eval_prompt": "17"}) + "\n")
    assert len(read_outcomes(tmp_path)) == 2
    assert list(read_outcomes(tmp_path / "maths.csv", drop_contaminated=True).prompts) == ["2+2,\n?"]


def mt_bench_files(folder):
    questions = [
        {"question_id": 81, "category": "writing", "turns": ["Write\u2028a poem.", "Shorter."]},
        {"question_id": 82, "category": "math", "turns": ["1 + 1?", "And 1?"]},
    ]
    first = "[Question]\nx\n\n[The Start of Assistant's Answer]\nRoses [B]\n[The End of Assistant's Answer]"
    judgements = [
        {"question_id": 81, "model": "s", "turn": 1, "score": 9, "user_prompt": first},
        {"question_id": 81, "model": "s", "turn": 2, "score": 4, "user_prompt": "### Assistant A:\nno\n\n### User:"},
        {"question_id": 81, "model": "w", "turn": 1, "score": 3},
        {"question_id": 81, "model": "w", "turn": 1, "score": 5},  # judged again
        {"question_id": 82, "model": "s", "turn": 1, "score": -1},  # the judge gave no score
    ]
    for name, lines in (("question.jsonl", questions), ("judgements.jsonl", judgements)):
        (folder / name).write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n")
    return judgements


def test_mt_bench(tmp_path):
    judgements = mt_bench_files(tmp_path)
    (tmp_path / "contaminated_prompts.jsonl").write_text(json.dumps({"eval_prompt": "1 + 1?"}) + "\n")
    outcomes = read_outcomes(tmp_path)
    assert (list(outcomes.ids), list(outcomes.datasets)) == (["81", "82"], ["writing", "math"])
    assert list(outcomes.prompts) == ["Write\u2028a poem.", "1 + 1?"]
    assert outcomes.models == ("s", "w")
    np.testing.assert_array_equal(outcomes.quality, np.array([[0.65, 0.5], [np.nan, np.nan]], np.float32))
    assert outcomes.responses.tolist() == [["Roses [B]", None], [None, None]]
    assert list(read_outcomes(tmp_path, drop_contaminated=True).ids) == ["81"]
    for wrong, message in (
        ({**judgements[0], "score": 11}, "at most 10"),
        ({**judgements[0], "question_id": 5}, "question 5 is judged"),
        ({"question_id": 81}, "MT-Bench judgements"),
    ):
        (tmp_path / "judgements.jsonl").write_text(json.dumps(wrong))
        with pytest.raises(RoutingError, match=message):
            read_outcomes(tmp_path)
    mt_bench_files(tmp_path)
    (tmp_path / "question.jsonl").unlink()
    with pytest.raises(RoutingError, match=r"question\.jsonl is not there"):
        read_outcomes(tmp_path / "judgements.jsonl")


def test_llmrouter(tmp_path):
    items = [{"question": "a", "scores": {"m": 1.0, "n": 0.5}}, {"question": "b", "scores": {"m": 0}, "cluster_id": 3}]
    (tmp_path / "train.json").write_text(json.dumps(items))
    (tmp_path / "default_query_train.jsonl").write_text(json.dumps({"query": "b", "task_name": "gsm8k"}))
    outcomes = read_outcomes(tmp_path)
    assert list(outcomes.ids) == ["train-0", "train-1"]
    assert list(outcomes.datasets) == ["train", "gsm8k"]
    assert outcomes.models == ("m", "n")
    np.testing.assert_array_equal(outcomes.quality, np.array([[1, 0.5], [0, np.nan]], np.float32))
    for content in ("[]", "{", '[{"question": 1, "scores": {}}]', '[{"question": "a", "scores": {"m": "good"}}]'):
        (tmp_path / "train.json").write_text(content)
        with pytest.raises(RoutingError, match=r"train\.json"):
            read_outcomes(tmp_path)
    # JSON beside tables is somebody's note, not outcomes.
    wide(tmp_path)
    assert read_outcomes(tmp_path).models == ("m",)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": None}, "no column 'id'"),
        ({"prompt": None}, "no column 'prompt'"),
        ({"dataset": None}, "no column 'dataset'"),
        ({"prompt": ["a", None]}, "null in row 1"),
        ({"m|quality": [0.0, 1.5]}, "quality of model 'm' is 1.5 in row 1"),
        ({"m|quality": [-0.1, float("inf")]}, "2 such values"),
        ({"m|quality": ["good", "bad"]}, "something else than numbers"),
        ({"n|cost_usd": [1.0, 2.0]}, "without 'n|quality'"),
        ({"m|quality": None}, "no model column|something else than numbers"),
        ({"id": [], "prompt": pa.array([], "string"), "dataset": [], "m|quality": []}, "no rows"),
    ],
)
def test_bad_tables(columns, message, tmp_path):
    with pytest.raises(RoutingError, match=message) as caught:
        read_outcomes(wide(tmp_path, **columns))
    assert "o.parquet" in str(caught.value)


def test_bad_files(tmp_path):
    with pytest.raises(RoutingError, match="no such file"):
        read_outcomes(tmp_path / "none.parquet")
    with pytest.raises(RoutingError, match=r"no \.parquet"):
        read_outcomes(tmp_path)
    (tmp_path / "a.csv").write_text("prompt,m,m\nx,1,0\n")
    with pytest.raises(RoutingError, match="column 'm' is there more than once"):
        read_outcomes(tmp_path)
    (tmp_path / "b.parquet").write_text("not parquet")
    with pytest.raises(RoutingError, match="mixed"):
        read_outcomes(tmp_path)
    with pytest.raises(RoutingError, match="not readable"):
        read_outcomes(tmp_path / "b.parquet")
    for content in (b"", b"prompt,m\n", b"prompt,m\n\xff\xfe,1\n", b"sample_id,m|model_response\n1,x\n", b"x,y\n1,2\n"):
        (tmp_path / "c.csv").write_bytes(content)
        with pytest.raises(RoutingError):
            read_outcomes(tmp_path / "c.csv")
    (tmp_path / "d.txt").write_text("x")
    with pytest.raises(RoutingError, match="unknown kind"):
        read_outcomes(tmp_path / "d.txt")


@pytest.mark.parametrize(
    ("path", "n", "m", "n_datasets"),
    [
        ("mmlu_pro/outcomes.parquet", 12012, 5, 1),
        ("routerbench", 3529, 11, 61),
        ("routellm/mmlu", 14042, 2, 57),
        ("routellm/mt_bench", 80, 2, 8),
        ("llmrouter", 6108, 9, 14),
    ],
)
def test_real_tables(path, n, m, n_datasets):
    if not (DATA / path).exists():
        pytest.skip(f"shared data {path} not present")
    outcomes = read_outcomes(DATA / path)
    assert outcomes.quality.shape == (n, m)
    assert len(set(outcomes.datasets)) == n_datasets
    if path == "routerbench":
        # 3,178 + 365 rows less the 14 halves; every item knows every model once its halves are together.
        assert outcomes.known().all()
        assert not any(prompt.startswith("['") for prompt in outcomes.prompts)
