"""Lane of models that vLLM runs here, through `ray.data.llm`: on GPUs, or (extra `cpu`) without one; the same code.

    rows → prompts as tokens (own actor) → vLLM engine actors (ray.data.llm) → journal (one actor) → progress

Prompts are rendered, counted and tokenized here and not by ray.data.llm's own stages, for three reasons: its tokenizer
adds the special tokens that the chat template has already written, one row that a template refuses ends the whole job,
and its detokenizer undoes stop strings. Batches are small (BATCH_ROWS) and many are under way, so that no sequence slot
is empty. Cost: an engine takes 20-60 s to start; beside the model, about 0.3 ms of CPU a row.

A row the engine refuses (VLLMValidationError and its kin) is rejected; any other error leaves the row open. When the
engine itself dies, Ray restarts its actor and the rows that were in it are asked again, but for one that it dies of each
time (jobs.lanes.local.vllm_engine).
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

import pyarrow as pa
import ray.data

from jobs.journal.rows import Answer
from jobs.lanes.base import LaneCheck, LaneContext
from jobs.lanes.chat import JsonObject
from jobs.lanes.local.gpu_clock import GpuClock
from jobs.lanes.local.model_source import (
    check_local,
    end_token_ids,
    is_folder,
    is_remote,
    load_tokenizer,
    with_absolute_source,
)
from jobs.lanes.local.places import engine_place, local_need
from jobs.lanes.local.rows import (
    HEAD_COLUMNS,
    AnswerWriter,
    Decoding,
    RayRow,
    RequestReader,
    head_columns,
    head_of,
    job_extras,
    one_line,
    priced_gpus,
)
from jobs.lanes.replies import Completion, mean_and_least
from jobs.lanes.usage import Usage
from jobs.placement.cluster import look
from jobs.placement.fitting import replicas_to_start
from jobs.placement.lent import built_for_gpus
from jobs.placement.needs import Need

BATCH_ROWS = 32
CPU_SEQUENCES, GPU_SEQUENCES = 64, 256
"""Sequences that one engine answers at a time, unless engine_kwargs.max_num_seqs says otherwise."""
STAGE_CPUS = 0.25
GPU_MEMORY = 0.9
"""Share of a GPU's memory that vLLM takes; the rest is what torch and CUDA take beside it."""
EXTRAS = (
    "top_k", "min_p", "min_tokens", "repetition_penalty", "ignore_eos", "skip_special_tokens", "stop_token_ids",
    "bad_words",
)  # fmt: skip
"""Parameters of the job's `sampling` that vLLM takes beside OpenAI's."""
ROW_ERRORS = (
    "VLLMValidationError",
    "VLLMUnprocessableEntityError",
    "VLLMNotFoundError",
    "ValidationError",
    "ValueError",
    "RowKillsEngine",
)
"""Exceptions that say the request is at fault; ray.data.llm hands them on as "Name: text"."""
REJECTED = "Rejected"
ERROR = "__inference_error__"


class VLLMLane:
    """`engine: vllm`."""

    def check(self, context: LaneContext) -> LaneCheck:
        """Engine installed, model there, parameters known. Starts no engine."""
        found = check_local(context, "vllm", "pip install 'headgate[gpu]', or 'headgate[cpu]' without a GPU")
        return found if not found.ok else job_extras(context, EXTRAS)[1] or found

    def need(self, context: LaneContext) -> Need:
        """See jobs.lanes.base.need_of."""
        return local_need(context)

    def answer(self, rows: ray.data.Dataset, context: LaneContext) -> ray.data.Dataset:
        """See jobs.lanes.base.Lane."""
        # Before vLLM is imported, in this process and in those it starts: only errors on the terminal.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        from ray.data.llm import build_processor

        from jobs.lanes.local.vllm_engine import CarefulEngine

        context = with_absolute_source(context)
        clock = GpuClock(priced_gpus(context))
        source = str(context.model.source)
        extras = job_extras(context, EXTRAS)[0]
        if context.logprobs:
            extras = extras | {"logprobs": 1}
        processor = build_processor(
            engine_config(context, source),
            preprocess=lambda row: {"sampling_params": json.loads(row["sampling"]) | extras},
            postprocess=lambda row: _result(row, source),
            preprocess_map_kwargs={"num_cpus": STAGE_CPUS},
            postprocess_map_kwargs={"num_cpus": STAGE_CPUS},
        )
        stage = processor.get_stage_by_name("vLLMEngineStage")
        options = stage.fn_constructor_kwargs | {"context": context, "clock": clock}
        # A copy: an assignment would validate anew, and ask for a GPU.
        careful = stage.model_copy(update={"fn": CarefulEngine, "fn_constructor_kwargs": options})
        processor.stages["vLLMEngineStage"] = careful
        prompts = rows.repartition(target_num_rows_per_block=BATCH_ROWS).map_batches(
            _Prompts,
            fn_constructor_args=(context,),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=1),
            num_cpus=STAGE_CPUS,
        )
        return processor(prompts).map_batches(
            _Writer,
            fn_constructor_args=(context, clock),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=1),
            num_cpus=STAGE_CPUS,
        )


def engine_config(context: LaneContext, source: str) -> Any:
    """The `vLLMEngineProcessorConfig` of a model: defaults for this cluster's hardware, `engine_kwargs` over them."""
    from ray.data.llm import vLLMEngineProcessorConfig

    model = context.model
    place = engine_place(model, look())
    computes_on_gpu = place.on_gpu and built_for_gpus()
    env = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    if is_folder(source) or is_remote(source):
        env["HF_HUB_OFFLINE"] = "1"
    defaults: JsonObject = {
        "max_num_seqs": GPU_SEQUENCES if computes_on_gpu else CPU_SEQUENCES,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if model.context:
        defaults["max_model_len"] = model.context
    if 0 < place.gpus < 1:  # of the memory, what is lent of the GPU, with vLLM's own margin
        defaults["gpu_memory_utilization"] = round(GPU_MEMORY * place.gpus, 4)
    if not computes_on_gpu:
        # float32: few CPUs add bfloat16 in hardware; greedy answers are transformers' then (1000 of 1000, else 916).
        defaults |= {"dtype": "float32", "enforce_eager": True}
        # One thread: Ray gives the actor one CPU. 1 GiB of keys and values: 64 short sequences of a small model.
        env |= {name: os.environ.get(name, "1") for name in ("OMP_NUM_THREADS", "VLLM_CPU_KVCACHE_SPACE")}
    if model.workers > 1 and not computes_on_gpu:  # vLLM's Ray executor knows GPUs alone
        defaults["distributed_executor_backend"] = "mp"
    kwargs = defaults | model.engine_kwargs
    sequences = kwargs["max_num_seqs"] * (model.workers // model.tensor_parallel)  # each pipeline stage has its own
    engines = replicas_to_start(local_need(context), look())
    return vLLMEngineProcessorConfig(
        model_source=source,
        engine_kwargs=kwargs,
        batch_size=BATCH_ROWS,
        max_concurrent_batches=math.ceil(1.1 * sequences / BATCH_ROWS) + 1,
        concurrency=(engines, engines),
        should_continue_on_error=True,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        log_engine_metrics=computes_on_gpu,
        placement_group_config={"bundle_per_worker": dict(place.bundles[0])},
        runtime_env={"env_vars": env},
    )


def engine_params(decoding: Decoding) -> JsonObject:
    """vLLM's SamplingParams of a row, every key in every row and always of one type.

    Ray Data makes one column of them: an int beside a None would reach vLLM 0.29 as a float, which ends its input
    thread and leaves the engine waiting for ever. -1 is vLLM's "no seed".
    """
    return {
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "presence_penalty": decoding.presence_penalty,
        "frequency_penalty": decoding.frequency_penalty,
        "max_tokens": decoding.max_tokens,
        "seed": -1 if decoding.seed is None else decoding.seed,
        "stop": list(decoding.stop),
        "structured_outputs": {"json": decoding.schema} if decoding.schema else None,
    }


class _Prompts:
    """Blocks of ASK_COLUMNS into what the engine stage reads."""

    def __init__(self, context: LaneContext) -> None:
        self.reader = RequestReader(context)

    def __call__(self, block: pa.Table) -> pa.Table:
        requests = self.reader.read(block.to_pylist())
        return pa.table(
            {
                **head_columns(requests),
                "tokenized_prompt": pa.array([r.token_ids for r in requests], pa.list_(pa.int32())),
                "sampling": pa.array([json.dumps(engine_params(r.decoding)) for r in requests], pa.string()),
                # Rows with an error in this column pass the engine by.
                ERROR: pa.array([f"{REJECTED}: {r.error}" if r.error else "" for r in requests], pa.string()),
            }
        )


def _result(row: RayRow, source: str) -> RayRow:
    """What the journal needs of an answered row; token ids end here."""
    params = json.loads(row["sampling"])  # the engine stage overwrites a column `params`
    generated = [int(token) for token in row["generated_tokens"]]
    return {name: row[name] for name in HEAD_COLUMNS.names} | {
        "text": row["generated_text"],
        "finish_reason": finish_reason(generated, params["max_tokens"], params["stop"], source),
        "n_prompt": int(row["num_input_tokens"]),
        "n_completion": len(generated),
        "latency_s": float(row["time_taken_llm"]),
        "logprobs": token_logprobs(generated, row.get("logprobs")),
    }


def token_logprobs(generated: list[int], told: Any) -> list[float]:
    """Mean and least log-probability of the tokens generated, [] where not told.

    told: per token {token id: {"logprob": …}}, which Ray Data may have made a list of pairs of, its keys texts, or a mapping with
    None for the tokens of other rows.
    """
    if told is None or len(told) != len(generated):
        return []
    values = []
    for token, entry in zip(generated, told, strict=True):
        pairs = dict(entry)
        found = pairs.get(token, pairs.get(str(token)))
        if not found or found.get("logprob") is None:
            return []
        values.append(float(found["logprob"]))
    return list(mean_and_least(values) or ())


def finish_reason(generated: list[int], max_tokens: int, stop: list[str], source: str) -> str:
    """ "length" or "stop": ray.data.llm drops what vLLM says, but the tokens tell.

    Below its limit an answer has stopped; at the limit it has if its last token ends it or a stop string is in it.
    """
    if len(generated) < max_tokens or generated[-1] in end_token_ids(source):
        return "stop"
    if stop and any(text in load_tokenizer(source).decode(generated, skip_special_tokens=True) for text in stop):
        return "stop"
    return "length"


class _Writer(AnswerWriter):
    """Blocks from the engine into the journal."""

    def __call__(self, block: pa.Table) -> pa.Table:
        return self.settle([self._answer(row) for row in block.to_pylist()])

    def _answer(self, row: RayRow) -> Answer:
        head, error = head_of(row), row[ERROR]
        if not error:
            usage = Usage(row["n_prompt"], row["n_completion"])
            logprobs = tuple(row["logprobs"]) if row["logprobs"] else None
            completion = Completion(row["text"], row["finish_reason"], usage, logprobs=logprobs, opened=row["opened"])
            return self.answered(head, completion, row["latency_s"])
        kind, _, text = error.partition(": ")
        if kind == REJECTED:
            return head.unanswered("rejected", one_line(text), attempts=0)
        return head.unanswered("rejected" if kind in ROW_ERRORS else "failed", f"vllm: {one_line(text)}", attempts=1)
