"""Lane of models that plain transformers runs: `AutoModelForCausalLM.generate` in an actor, for machines without vLLM.

Rows of a block are grouped by equal sampling, sorted by prompt length and answered in left-padded batches; a batch is
done when its longest answer is. Cost: some times vLLM's, with nothing to install. Greedy answers equal vLLM's but where
rounding decides between two tokens. A row with a seed is drawn alone: its answer is the same in any company.

What the model cannot do for a batch (out of memory, no number in its logits) is tried with half of it, down to one row; a row
that fails alone while others are answered is rejected, and so is one that the process dies of (jobs.lanes.local.under_way).

There is no constrained decoding here: with a `response_format` the model is asked as it is, and what does not fit the
schema shows as an empty `parsed` column.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import ray.data
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LogitsProcessorList, set_seed

from jobs.errors import LaneDown
from jobs.journal.rows import Answer
from jobs.lanes.base import LaneCheck, LaneContext
from jobs.lanes.chat import JsonObject
from jobs.lanes.local.drawn_logprobs import DrawnLogprobs
from jobs.lanes.local.gpu_clock import GpuClock
from jobs.lanes.local.model_source import check_local, end_token_ids, local_folder, with_absolute_source
from jobs.lanes.local.places import local_need
from jobs.lanes.local.rows import (
    AnswerWriter,
    Decoding,
    LocalRequest,
    RayRow,
    RequestReader,
    head_columns,
    head_of,
    job_extras,
    one_line,
    priced_gpus,
)
from jobs.lanes.local.under_way import UnderWay
from jobs.lanes.replies import Completion, mean_and_least
from jobs.lanes.usage import Usage
from jobs.placement.cluster import look
from jobs.placement.fitting import replicas_to_start
from jobs.placement.lent import lent_device
from jobs.placement.needs import Need

BATCH_ROWS = 32
STAGE_CPUS = 0.25
FAILED_IN_A_ROW = 20
"""Rows that fail alone, one after the other: it is the model, or its device, then."""
EXTRAS = ("top_k", "min_p", "repetition_penalty")
"""Parameters of the job's `sampling` that transformers takes beside OpenAI's."""


class TransformersLane:
    """`engine: transformers`."""

    def check(self, context: LaneContext) -> LaneCheck:
        """Model there, parameters known. Loads no weights."""
        found = check_local(context, "transformers", "pip install transformers")
        for name in ("presence_penalty", "frequency_penalty"):
            if context.sampling.get(name):
                return LaneCheck(
                    False, f"models.{context.alias}: sampling.{name} is not supported by engine transformers"
                )
        return found if not found.ok else job_extras(context, EXTRAS)[1] or found

    def need(self, context: LaneContext) -> Need:
        """See jobs.lanes.base.need_of."""
        return local_need(context, context.num_cpus)

    def answer(self, rows: ray.data.Dataset, context: LaneContext) -> ray.data.Dataset:
        """See jobs.lanes.base.Lane. `engine_kwargs` go to `from_pretrained`; `replicas` actors, a GPU each if any."""
        context = with_absolute_source(context)
        clock = GpuClock(priced_gpus(context))
        need = self.need(context)
        wanted = dict(need.bundles[0])
        return (
            rows.repartition(target_num_rows_per_block=4 * BATCH_ROWS)
            .map_batches(
                _Model,
                fn_constructor_args=(context, clock),
                batch_size=4 * BATCH_ROWS,  # Ray Data takes no actors with a GPU without a number here
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=replicas_to_start(need, look())),
                num_cpus=wanted.pop("CPU"),
                num_gpus=wanted.pop("GPU", 0),
                resources=wanted,
            )
            .map_batches(
                _Writer,
                fn_constructor_args=(context, clock),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=1),
                num_cpus=STAGE_CPUS,
            )
        )


@dataclass(frozen=True, slots=True)
class _Made:
    """What the model made of one request: exactly one of the three."""

    completion: Completion | None = None
    rejected: str = ""
    failed: str = ""
    """Why it could not answer the request alone."""
    latency_s: float = 0.0
    answered_before: int = 0
    """Of a failed one: how many requests had been answered by then."""


_RESULT = pa.schema(
    [
        ("rejected", pa.string()), ("failed", pa.string()), ("text", pa.string()), ("finish_reason", pa.string()),
        ("latency_s", pa.float64()), ("mean_logprob", pa.float64()), ("min_logprob", pa.float64()),
        ("n_prompt", pa.int64()), ("n_completion", pa.int64()),
    ]
)  # fmt: skip
"""Beside HEAD_COLUMNS, from the model to the journal; null from `text` on for a row without an answer."""


class _Model:
    """The model, in an actor."""

    def __init__(self, context: LaneContext, clock: GpuClock | None = None) -> None:
        if clock is not None:
            clock.begin()
        source, self.alias = str(context.model.source), context.alias
        self.under_way, self._failed_in_a_row, self._n_answered = UnderWay(context), 0, 0
        self.reader = RequestReader(context)
        self.tokenizer = self.reader.tokenizer
        self.extras = job_extras(context, EXTRAS)[0]
        self.wants_logprobs = context.logprobs
        self.device = lent_device(self.alias).name
        # Without a GPU in float32: few CPUs add bfloat16 numbers in hardware.
        defaults: dict[str, object] = {
            "dtype": "auto" if self.device == "cuda" else torch.float32,
            "trust_remote_code": False,
        }
        folder = local_folder(source, weights=True)
        options = defaults | context.model.engine_kwargs
        options.pop("max_model_len", None)  # vLLM's name; `context_tokens` reads it
        model: Any = AutoModelForCausalLM.from_pretrained(folder, **options)
        self.model = model.to(self.device).eval()
        # What a request leaves out must not come from the checkpoint: its top_k of 50, say, is not vLLM's or OpenAI's.
        self.model.generation_config = _generation()
        if self.device == "cpu":  # Ray gives an actor of a fraction of a CPU one thread
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.model.replicas))
        self.ends = sorted(end_token_ids(source))
        self.pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.ends[0]

    def __call__(self, block: pa.Table) -> pa.Table:
        requests = [_supported(request) for request in self.reader.read(block.to_pylist())]
        found = [_Made(rejected=request.error) for request in requests]
        for batch in self._in_turn(requests):
            for at, made in zip(batch, self._answers([requests[i] for i in batch]), strict=True):
                found[at] = made
        # Others were answered after it had failed: that is not the device's fault, it is the row's.
        found = [
            _Made(rejected=made.failed) if made.failed and self._n_answered > made.answered_before else made
            for made in found
        ]
        results = pa.Table.from_pylist([_result_row(made) for made in found], schema=_RESULT)
        return pa.table(head_columns(requests) | dict(zip(_RESULT.names, results.columns, strict=True)))

    def _in_turn(self, requests: Sequence[LocalRequest]) -> list[list[int]]:
        """Positions of the requests to ask, in batches; what engines died of twice comes last, a row at a time."""
        deaths = {i: self.under_way.deaths_alone(r.head.row_key) for i, r in enumerate(requests) if self._is_suspect(r)}
        plain = [[i for i in batch if i not in deaths] for batch in batches(requests)]
        return [batch for batch in plain if batch] + [[i] for i in sorted(deaths, key=lambda i: deaths[i])]

    def _is_suspect(self, request: LocalRequest) -> bool:
        return not request.error and self.under_way.is_suspect(request.head.row_key)

    def _answers(self, batch: Sequence[LocalRequest]) -> list[_Made]:
        """Answers of requests with equal sampling, noted while they are under way."""
        first = batch[0].head.row_key
        if self.under_way.is_culprit(first):
            return [_Made(rejected=self.under_way.why_not_asked(first))]
        slots = [self.under_way.begin(request.head.row_key, alone=self._is_suspect(request)) for request in batch]
        answers = self._generate(batch)
        for slot in slots:
            self.under_way.end(slot)
        return answers

    def _generate(self, batch: Sequence[LocalRequest]) -> list[_Made]:
        """What the model cannot do for all is tried with halves, down to one row that fails. Raises LaneDown where all fail."""
        started = time.perf_counter()
        made = self._try(batch)  # an error's traceback would hold the batch's memory: it ends in there
        if isinstance(made, str):
            if self.device == "cuda":
                torch.cuda.empty_cache()
            if len(batch) > 1:
                half = len(batch) // 2
                return self._generate(batch[:half]) + self._generate(batch[half:])
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= FAILED_IN_A_ROW:
                raise LaneDown(f"models.{self.alias}: failed {FAILED_IN_A_ROW} rows in a row ({made})")
            return [_Made(failed=made, answered_before=self._n_answered)]
        self._failed_in_a_row = 0
        self._n_answered += len(batch)
        tokens, logprobs = made
        latency_s = time.perf_counter() - started
        told = logprobs or [[] for _ in batch]
        return [
            _Made(self._completion(request, new, each[: len(new)]), latency_s=latency_s)
            for request, new, each in zip(batch, tokens, told, strict=True)
        ]

    def _try(self, batch: Sequence[LocalRequest]) -> tuple[list[list[int]], list[list[float]]] | str:
        """See `_tokens`; or in one line why not."""
        try:
            return self._tokens(batch)
        except torch.OutOfMemoryError as error:
            return f"out of memory: {one_line(error)}"
        except (RuntimeError, ValueError, IndexError) as error:  # logits that are no numbers, a kernel that refuses
            return f"transformers: {one_line(error)}"

    @torch.inference_mode()
    def _tokens(self, batch: Sequence[LocalRequest]) -> tuple[list[list[int]], list[list[float]]]:
        """New tokens of each request, the end token included, padding not; log-probabilities, [] where nobody wants them."""
        first, width = batch[0].decoding, max(len(r.token_ids) for r in batch)
        ids = torch.tensor([[self.pad] * (width - len(r.token_ids)) + r.token_ids for r in batch])
        mask = torch.tensor([[0] * (width - len(r.token_ids)) + [1] * len(r.token_ids) for r in batch])
        if first.seed is not None:
            set_seed(first.seed % 2**32)
        recorder = DrawnLogprobs() if self.wants_logprobs else None
        output = self.model.generate(
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device),
            generation_config=self._config(first),
            tokenizer=self.tokenizer,
            logits_processor=LogitsProcessorList([recorder] if recorder else []),
        )
        logprobs = recorder.of(output[:, width:]) if recorder else []
        return [until_end(row, self.ends, self.pad) for row in output[:, width:].tolist()], logprobs

    def _config(self, decoding: Decoding) -> GenerationConfig:
        sampling: JsonObject = {"do_sample": False}
        if decoding.temperature > 0:
            sampling = {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
        return _generation(
            **sampling | self.extras,
            max_new_tokens=decoding.max_tokens,
            eos_token_id=self.ends,
            pad_token_id=self.pad,
            stop_strings=list(decoding.stop) or None,
        )

    def _completion(self, request: LocalRequest, new: list[int], logprobs: list[float]) -> Completion:
        """The answer that these new tokens are. `logprobs`: theirs, [] where nobody wants them."""
        text = self.tokenizer.decode(new, skip_special_tokens=True)
        decoding = request.decoding
        cut = min((at for stop in decoding.stop if (at := text.find(stop)) >= 0), default=None)
        stopped = cut is not None or len(new) < decoding.max_tokens or new[-1] in self.ends
        return Completion(
            text if cut is None else text[:cut],
            "stop" if stopped else "length",
            Usage(len(request.token_ids), len(new)),
            logprobs=mean_and_least(logprobs),
        )


def _result_row(made: _Made) -> RayRow:
    """A row of _RESULT."""
    row: RayRow = {"rejected": made.rejected, "failed": made.failed}
    if made.completion is None:
        return row
    completion = made.completion
    mean, least = completion.logprobs or (None, None)
    return row | {
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "latency_s": made.latency_s,
        "mean_logprob": mean,
        "min_logprob": least,
        "n_prompt": completion.usage.prompt_tokens,
        "n_completion": completion.usage.completion_tokens,
    }


def _generation(**options: Any) -> GenerationConfig:
    return GenerationConfig(**options)  # type: ignore[no-untyped-call]


def until_end(tokens: list[int], ends: Sequence[int], pad: int) -> list[int]:
    """An answer's own tokens, the one that ends it included: what follows is padding, as after a stop string."""
    at = next((i for i, token in enumerate(tokens) if token in ends), len(tokens) - 1)
    own = tokens[: at + 1]
    while own and own[-1] == pad and pad not in ends:
        own.pop()
    return own


def _supported(request: LocalRequest) -> LocalRequest:
    if request.decoding.presence_penalty or request.decoding.frequency_penalty:
        return replace(request, error="presence_penalty and frequency_penalty are not supported by engine transformers")
    return request


def batches(requests: Sequence[LocalRequest]) -> list[list[int]]:
    """Positions of the requests to ask, in batches of equal sampling and similar length, longest first.

    A row with a seed and a temperature is alone: its random numbers must not depend on its neighbours.
    """
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for at, request in enumerate(requests):
        if not request.error:
            how = request.decoding
            alone = at if how.seed is not None and how.temperature > 0 else -1
            seed = how.seed if alone >= 0 else None
            groups[how.temperature, how.top_p, how.max_tokens, how.stop, seed, alone].append(at)
    made = []
    for group in groups.values():
        group.sort(key=lambda at: -len(requests[at].token_ids))
        made += [group[start : start + BATCH_ROWS] for start in range(0, len(group), BATCH_ROWS)]
    return made


class _Writer(AnswerWriter):
    """Blocks from the model into the journal."""

    def __call__(self, block: pa.Table) -> pa.Table:
        return self.settle([self._settled(row) for row in block.to_pylist()])

    def _settled(self, row: RayRow) -> Answer:
        head = head_of(row)
        if row["rejected"]:
            return head.unanswered("rejected", row["rejected"], attempts=0)
        if row["failed"]:
            return head.unanswered("failed", row["failed"], attempts=1)
        logprobs = None if row["mean_logprob"] is None else (row["mean_logprob"], row["min_logprob"])
        usage = Usage(row["n_prompt"], row["n_completion"])
        completion = Completion(row["text"], row["finish_reason"], usage, logprobs=logprobs, opened=row["opened"])
        return self.answered(head, completion, row["latency_s"])
