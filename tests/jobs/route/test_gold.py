"""Gold that numbers options: read where the options tell what a number means, and a line at the border where they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import SpecError
from jobs.route.preflight import check
from jobs.route.score.fields.gold import GoldRow, find_reading, number_of, options_of
from jobs.route.score.formats.record import Record
from jobs.route.score.records import read_records
from jobs.route.start import Job
from jobs.spec.job import JobSpec
from jobs.spec.loader import parse_spec
from tests.jobs.route.test_thinking_job import job
from tests.thinking_server import completion, thinking_server

LINES = "Which city?\nA. Rome\nB. Paris\nC. Oslo\nD. Bern"


def spec(match: str = "multiple_choice", **more: Any) -> JobSpec:
    models = {"w": {"engine": "openai"}, "s": {"engine": "openai"}}
    quality = {"gold": {"column": "answer", "match": match}}
    return parse_spec(
        {"input": {"path": "in", "prompt": "q"}, "output": "o", "router": "random", "models": models, "weak": "w", "strong": "s",
         "policy": {"strong_share": 0.5}, "quality": quality} | more
    )  # fmt: skip


def rows(golds: list[str], prompt: str = LINES, options: Any = None) -> list[GoldRow]:
    return [GoldRow(gold, prompt, options) for gold in golds]


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        (LINES, None),
        ("(A) Rome (B) Paris (C) Oslo (D) Bern", None),
        ("Which?\nA)Rome\nB)Paris\nC)Oslo\nD)Bern\nAnswer:", None),
        ("a) Rome\nb) Paris\nc) Oslo\nd) Bern", None),
        ("Example:\nA. x\nB. y\nAnswer: A\n\nWhich?\nA. Rome\nB. Paris\nC. Oslo\nD. Bern\nAnswer:", None),
        ("Which city?", ["Rome", "Paris", "Oslo", "Bern"]),
        ("Which city?", '["Rome", "Paris", "Oslo", "Bern"]'),
        ("Which city?", {"text": ["Rome", "Paris", "Oslo", "Bern"], "label": ["A", "B", "C", "D"]}),
    ],
)
def test_options_tell_what_a_number_means(prompt: str, options: Any) -> None:
    assert options_of(prompt, options) == ("Rome", "Paris", "Oslo", "Bern")
    from_0, note = find_reading(spec(), rows(["0", "2", "3"], prompt, options))
    assert from_0.letter("2", prompt, options) == "C. Oslo" and note.endswith("count the options from 0: 2 is C")
    from_1, note = find_reading(spec(), rows(["1", "2.0", "4"], prompt, options))
    assert from_1.letter("2.0", prompt, options) == "B. Paris" and note.endswith("count the options from 1: 3 is C")
    assert from_1.letter("B", prompt, options) == "B" and from_1.letter("7", prompt, options) is None
    assert from_0.letter("2", "a prompt without options", None) == "C"


@pytest.mark.parametrize(
    ("golds", "prompt", "said"),
    [
        (["1", "2", "3"], LINES, r"'answer' holds numbers \(1, 2, 3\) that may count the options from 0 or from 1; write .*:0"),
        (["0", "1", "4"], LINES, "do not all count the options; write letters"),
        (["0", "2"], "Which city is it?", "the prompts show no lettered options; if they count options, write quality.gold.match"),
    ],
)  # fmt: skip
def test_where_nobody_can_tell_the_job_file_has_to(golds: list[str], prompt: str, said: str) -> None:
    with pytest.raises(SpecError, match=f"^quality.gold.column: .*{said}"):
        find_reading(spec(), rows(golds, prompt))


@pytest.mark.parametrize(
    ("match", "golds", "prompt"),
    [
        ("multiple_choice", ["A", "B"], LINES),
        ("multiple_choice", ["17", "18"], "How many?\nA. 17\nB. 18"),
        ("multiple_choice", ["1", "2"], "Which?\n1. Rome\n2. Paris"),
        ("multiple_choice:0", ["1", "2"], LINES),
        ("exact", ["1", "2"], LINES),
        ("numeric", ["1", "2"], "How many?"),
        ("multiple_choice", [], LINES),
    ],
)
def test_other_gold_is_read_as_it_stands(match: str, golds: list[str], prompt: str) -> None:
    reading, note = find_reading(spec(match), rows(golds, prompt))
    assert reading.first is None and note == ""


def test_what_is_a_number_of_an_option() -> None:
    assert [number_of(text) for text in ("2", "2.0", " 2 ", "-1", "2.5", "B", "", "2000")] == [
        2,
        2,
        2,
        -1,
        None,
        None,
        None,
        None,
    ]


def test_the_border_finds_it_out_and_the_rows_have_letters(tmp_path: Path) -> None:
    golds = [i % 4 for i in range(20)]
    choices = [["Rome", "Paris", "Oslo", "Bern"]] * 20
    table = {"id": [str(i) for i in range(20)], "q": [f"{i}?" for i in range(20)], "gold": golds, "choices": choices}
    pq.write_table(pa.table(table), tmp_path / "in.parquet")
    with thinking_server(lambda model, text: completion("B")) as server:
        data = job(server, tmp_path, template="{{ q }}\nA. {{ choices[0] }}\nB. {{ choices[1] }}\nC. {{ choices[2] }}")
        data["input"].pop("prompt")
        data["quality"] = {"gold": {"column": "gold", "match": "multiple_choice"}}
        start = Job(parse_spec(data), live=False)
        border = check(start)
        assert start.border_notes == ["quality.gold: the numbers in 'gold' count the options from 0: 2 is C"]
        reader, source = border.score.reader, border.score.files[0]
        records: list[Record] = list(read_records(source, border.score.spec.input, reader.columns))
        assert [reader.read(record).gold for record in records[:4]] == ["A. Rome", "B. Paris", "C. Oslo", "D. Bern"]
        table["gold"] = [1 + i % 3 for i in range(20)]
        pq.write_table(pa.table(table), tmp_path / "in.parquet")
        with pytest.raises(SpecError, match="may count the options from 0 or from 1"):
            check(Job(parse_spec(data), live=False))
    assert server.by_model == {}
