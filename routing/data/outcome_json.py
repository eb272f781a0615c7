"""JSON forms of outcomes: MT-Bench judgements as RouteLLM keeps them, and LLMRouter's score lists.

MT-Bench: one line per (question, model, turn) with the judge's `score` 1-10; `question.jsonl` beside it holds the
questions. Quality = mean score of a question's turns / 10, the prompt is the first turn (RouteLLM routes by it alone).
LLMRouter: a list of `{"question", "scores": {model: 0..1}}`; `default_query_<stem>.jsonl` beside it names each
question's task. All in memory, O(file). Legend: n questions, m models.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from pyarrow.fs import FileSystem, FileType

from routing.data.outcomes import Outcomes
from routing.errors import RoutingError

MAX_SCORE = 10
"""MT-Bench's best score; a score of -1 is a judgement that could not be read."""
_ANSWER_MARKS = (
    ("[The Start of Assistant's Answer]\n", "\n[The End of Assistant's Answer]"),
    ("### Assistant A:\n", "\n\n### User:"),
)


def read_json(path: str, fs: FileSystem) -> tuple[str, Outcomes]:
    """The form (`MT-Bench` or `LLMRouter`) and the outcomes of a .jsonl or .json file. Raises RoutingError."""
    if path.lower().endswith(".jsonl"):
        return "MT-Bench", _mt_bench(_lines(path, fs), path, fs)
    with fs.open_input_stream(path) as stream:
        data = stream.read()
    try:
        items = json.loads(data)
    except ValueError as error:
        raise RoutingError(f"not readable as JSON ({error})") from error
    return "LLMRouter", _llmrouter(items, path, fs)


def read_contaminated(path: str, fs: FileSystem) -> set[str]:
    """The `eval_prompt`s of RouteLLM's `contaminated_prompts.jsonl`. Raises RoutingError where missing or damaged."""
    if fs.get_file_info(path).type != FileType.File:
        raise RoutingError(f"drop_contaminated: {path} is not there; it lists the prompts to leave out")
    try:
        return {line["eval_prompt"] for line in _lines(path, fs)}
    except (RoutingError, KeyError, TypeError) as error:
        raise RoutingError(f"drop_contaminated: {path} must have a JSON object with `eval_prompt` per line") from error


def _mt_bench(judgements: list[Any], path: str, fs: FileSystem) -> Outcomes:
    wanted = {"question_id", "model", "score", "turn"}
    if not judgements or not all(isinstance(line, dict) and wanted <= line.keys() for line in judgements):
        raise RoutingError(
            f"no outcomes: a .jsonl file must hold MT-Bench judgements, one object with {', '.join(sorted(wanted))} per"
            " line; write other tables as Parquet or CSV"
        )
    questions_path = str(PurePosixPath(path).parent / "question.jsonl")
    if fs.get_file_info(questions_path).type != FileType.File:
        raise RoutingError("question.jsonl is not there; put MT-Bench's questions beside the judgements")
    try:
        questions = {q["question_id"]: (q["turns"][0], q["category"]) for q in _lines(questions_path, fs)}
    except (KeyError, TypeError, IndexError) as error:
        raise RoutingError(
            f"{questions_path}: question_id, category and turns are needed per line ({error})"
        ) from error
    models = tuple(sorted({line["model"] for line in judgements}))
    ids = [q for q in questions if any(line["question_id"] == q for line in judgements)]
    row, column = ({name: i for i, name in enumerate(names)} for names in (ids, models))
    scores: dict[tuple[int, int], dict[Any, float]] = {}
    responses = np.full((len(ids), len(models)), None, object)
    for line in judgements:
        if line["question_id"] not in row:
            raise RoutingError(f"question {line['question_id']} is judged but not in question.jsonl")
        cell = row[line["question_id"]], column[line["model"]]
        if not isinstance(line["score"], int | float) or line["score"] > MAX_SCORE:
            raise RoutingError(f"score {line['score']!r} of question {line['question_id']}; it must be at most 10")
        # A turn judged again replaces its first judgement; -1 is one without a score.
        scores.setdefault(cell, {})[line["turn"]] = line["score"] if line["score"] >= 0 else float("nan")
        if line["turn"] == 1:
            responses[cell] = _answer(line.get("user_prompt", ""))
    quality = np.full(responses.shape, np.nan, np.float32)
    for cell, turns in scores.items():
        quality[cell] = np.mean(list(turns.values())) / MAX_SCORE
    return Outcomes(
        ids=[str(q) for q in ids],
        prompts=[questions[q][0] for q in ids],
        datasets=[questions[q][1] for q in ids],
        models=models,
        quality=quality,
        responses=responses,
    )


def _llmrouter(items: Any, path: str, fs: FileSystem) -> Outcomes:
    fits = isinstance(items, list) and all(
        isinstance(item, dict) and isinstance(item.get("question"), str) and isinstance(item.get("scores"), dict)
        for item in items
    )
    if not fits or not items:
        raise RoutingError(
            "no outcomes: a .json file must be LLMRouter's list of objects with `question` and `scores`; write other"
            " tables as Parquet or CSV"
        )
    stem = PurePosixPath(path).stem
    tasks: dict[str, str] = {}
    queries = str(PurePosixPath(path).parent / f"default_query_{stem}.jsonl")
    if fs.get_file_info(queries).type == FileType.File:
        tasks = {line["query"]: line["task_name"] for line in _lines(queries, fs)}
    models = tuple(dict.fromkeys(model for item in items for model in item["scores"]))
    try:
        quality = np.array([[item["scores"].get(model, np.nan) for model in models] for item in items], np.float32)
    except (TypeError, ValueError) as error:
        raise RoutingError(f"`scores` hold something else than numbers ({error})") from error
    return Outcomes(
        ids=[f"{stem}-{row}" for row in range(len(items))],
        prompts=[item["question"] for item in items],
        datasets=[tasks.get(item["question"], stem) for item in items],
        models=models,
        quality=quality.reshape(len(items), len(models)),
    )


def _answer(judge_prompt: str) -> str | None:
    """The assistant's answer that a judge's prompt quotes; the first turn's where it quotes two."""
    for start, end in _ANSWER_MARKS:
        _, found, rest = judge_prompt.partition(start)
        if found:
            return rest.partition(end)[0].strip()
    return None


def _lines(path: str, fs: FileSystem) -> list[Any]:
    with fs.open_input_stream(path) as stream:
        text = stream.read().decode()
    try:
        # Only \n ends a line: texts may hold U+2028 unescaped, at which str.splitlines() would cut.
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except ValueError as error:
        raise RoutingError(f"{path}: not readable as JSON lines ({error})") from error
