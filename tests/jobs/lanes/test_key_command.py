"""Keys that expire within a run: a program prints them, real servers refuse the old ones, and no row is lost for it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import ray
from aiohttp import web
from aiohttp.test_utils import TestServer
from api_lane_job import Job as LaneJob
from api_lane_job import ask_table, serving

from jobs.errors import SpecError
from jobs.journal.reader import Journal
from jobs.journal.writer import JournalWriter
from jobs.lanes.base import LaneContext
from jobs.lanes.faults import clean, never_say
from jobs.lanes.openai.asker import Asker
from jobs.lanes.openai.endpoint import endpoint_of, is_key_refused
from jobs.lanes.openai.exchange import Exchange
from jobs.lanes.openai.rows import rows_of
from jobs.lanes.openai.slots import Slots
from jobs.lanes.openai_batch.api import BatchApi
from jobs.money import governor as governing
from jobs.money.governor import GovernorService
from jobs.money.keys import HERE, Key
from jobs.money.sender import Allowance
from jobs.replay.options import ReplayOptions
from jobs.route.answer.lane_contexts import check_lanes
from jobs.route.start import Job
from jobs.spec.loader import parse_spec
from jobs.spec.models import ModelSpec
from jobs.storage.store import Store
from routing.pricing import Price
from tests.jobs.money.test_key_keeper import counting, runs
from tests.local_governor import local_governor
from tests.replay_server import small_outcomes, thread_replay

PRICE = Price(input_usd_per_million=1.0, output_usd_per_million=4.0)
Refusal = tuple[int, dict[str, Any]]
REFUSALS: list[Refusal] = [
    (401, {"error": {"code": "invalid_api_key", "message": "Incorrect API key provided"}}),
    (401, {"error": {"code": "Unauthorized", "message": "Access token has expired or is not yet valid."}}),  # Azure
    (401, {"error": {"code": 401, "message": "Request had invalid authentication credentials.", "status": "UNAUTHENTICATED"}}),
    (400, {"error": {"code": 400, "message": "API key expired. Please renew the API key.", "status": "INVALID_ARGUMENT"}}),
    (403, {"message": "The security token included in the request is expired", "code": "ExpiredTokenException"}),
]  # fmt: skip


class Provider:
    """Takes one key; after `lives` requests with it the next one alone."""

    def __init__(self, lives: int, refusal: Refusal) -> None:
        self.lives, self.refusal, self.number, self.used = lives, refusal, 1, 0
        self.refused = 0

    def app(self) -> web.Application:
        app = web.Application()
        for path in ("/v1/chat/completions", "/v1/files", "/v1/batches"):
            app.router.add_post(path, self.reply)
        app.router.add_get("/v1/files/f/content", self.reply)
        return app

    async def reply(self, request: web.Request) -> web.Response:
        key = request.headers["Authorization"].removeprefix("Bearer ")
        await request.read()
        if self.used >= self.lives:
            self.number, self.used = self.number + 1, 0
        if key != f"key-{self.number}":
            self.refused += 1
            status, body = self.refusal
            return web.json_response(
                json.loads(json.dumps(body).replace("key provided", f"key provided {key}")), status=status
            )
        self.used += 1
        if request.path.endswith("content"):
            return web.Response(body=b"one\ntwo")
        usage = {"prompt_tokens": 10, "completion_tokens": 2}
        choice = {"message": {"content": "yes"}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": usage, "id": "f"})


def run_senders(
    tmp_path: Path, provider: Provider, command: tuple[str, ...], n_senders: int = 3, n: int = 60
) -> tuple[list[dict[str, Any]], str]:
    """Rows asked by senders that share a governor, each as a process of its own would: the journal, and why the lane stopped."""

    async def sender(context: LaneContext, keys: list[int]) -> None:
        with JournalWriter(context.output, "gpt", context.local_dir, "s1") as journal:
            async with aiohttp.ClientSession() as session:
                allowance = Allowance(context.governor, "gpt", journal.unique, context.model.limits)
                allowance.start()
                endpoint = endpoint_of(context, str(context.model.base_url))
                await endpoint.ask()
                assert "key-" not in repr(endpoint)
                asker = Asker(context, endpoint, session, allowance, journal, Slots(4))
                await asyncio.gather(
                    *(Exchange(asker, row).run() for row in rows_of(ask_table(keys), np.arange(len(keys))))
                )
                await asker.refusals.end_block()
                await allowance.settle_up()
                await allowance.close()

    async def main() -> str:
        async with TestServer(provider.app()) as server:
            model = ModelSpec.model_validate(
                {
                    "engine": "openai",
                    "model": "m",
                    "base_url": str(server.make_url("/v1")),
                    "api_key_command": list(command),
                }
            )
            run = str(tmp_path / "run")
            service = GovernorService(run, "s1", 1.0, {"gpt": model.limits}, str(tmp_path / "local"))
            await service.know_key(command, Key("key-1", age_s=0.0))
            context = LaneContext(
                "gpt",
                model,
                {"max_tokens": 50},
                None,
                PRICE,
                run,
                "s1",
                str(tmp_path / "local"),
                local_governor(service),
            )
            parts = np.array_split(np.arange(n), n_senders)
            await asyncio.gather(*(sender(context, part.tolist()) for part in parts))
            return (await service.close()).models["gpt"].stopped

    stopped = asyncio.run(asyncio.wait_for(main(), 60))
    return Journal(Store(str(tmp_path / "run"))).read("gpt").to_pylist(), stopped


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The minute between two runs of a program is half a second."""
    monkeypatch.setattr(governing, "MIN_AGE_S", 0.5)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: f"{refusal[0]}-{str(refusal[1])[:30]}")
def test_a_key_that_expires_is_renewed_and_no_row_is_lost(soon: None, tmp_path: Path, refusal: Refusal) -> None:
    command, provider = counting(tmp_path, 'print(f"key-{n + 1}")'), Provider(25, refusal)
    rows, stopped = run_senders(tmp_path, provider, command)
    assert stopped == "" and {row["kind"] for row in rows} == {"answered"} and len(rows) == 60
    assert sum(row["lost_usd"] for row in rows) == 0 and all(row["attempts"] == 1 for row in rows)
    assert provider.number == 3 and runs(tmp_path) == 2, "once for each key that expired, however many senders ask"
    assert provider.refused <= 2 * 3 * 4, "each request under way once"


def test_a_new_key_that_is_refused_too_stops_the_lane_naming_the_command(soon: None, tmp_path: Path) -> None:
    command, provider = counting(tmp_path, 'print(f"other-{n}")'), Provider(25, REFUSALS[0])
    rows, stopped = run_senders(tmp_path, provider, command)
    assert stopped.startswith(
        "models.gpt.api_key_command: its key is refused, and so is a new one; mend the program (HTTP 401"
    )
    assert "key-1" not in stopped and "other-" not in stopped and "OPENAI_API_KEY" not in stopped
    assert {row["kind"] for row in rows} == {"answered"} and len(rows) == 25, "the others stay open"


def test_a_program_that_fails_stops_the_lane_when_the_old_key_is_refused(soon: None, tmp_path: Path) -> None:
    command, provider = counting(tmp_path, "sys.exit(9)"), Provider(25, REFUSALS[0])
    rows, stopped = run_senders(tmp_path, provider, command)
    assert (
        "api_key_command: its key is refused; there is no new one:" in stopped and "ended with exit code 9" in stopped
    )
    assert len(rows) == 25 and runs(tmp_path) == 1


def test_the_calls_of_the_batch_api_renew_it_too(soon: None, tmp_path: Path) -> None:
    command, provider = counting(tmp_path, 'print(f"key-{n + 1}")'), Provider(1, REFUSALS[1])

    async def calls(api: BatchApi) -> None:
        assert await api.upload("x", b"{}") == "f"
        assert [line async for line in api.lines("f")] == [b"one", b"two"]
        assert await api.upload("x", b"{}") == "f"

    async def main() -> None:
        async with TestServer(provider.app()) as server, aiohttp.ClientSession() as session:
            url = str(server.make_url("/v1"))
            model = ModelSpec.model_validate(
                {"engine": "openai_batch", "base_url": url, "api_key_command": list(command)}
            )
            service = GovernorService(str(tmp_path / "run"), "s1", 1.0, {"gpt": model.limits}, str(tmp_path / "local"))
            await service.know_key(command, Key("key-1"))
            context = LaneContext("gpt", model, {}, None, PRICE, "", "", "", local_governor(service))
            endpoint = endpoint_of(context, url)
            await endpoint.ask()
            await calls(BatchApi(endpoint, session, model, "gpt"))

    asyncio.run(asyncio.wait_for(main(), 60))
    assert provider.number == 3 and runs(tmp_path) == 2


def test_a_refusal_of_the_prompt_is_no_refusal_of_the_key() -> None:
    for status, said in [(400, "the coupon in your prompt has expired"), (403, "not allowed to use this model"), (429, "x"),
                         (400, "maximum context length is 5 tokens")]:  # fmt: skip
        assert not is_key_refused(status, said)


def test_all_keys_that_a_process_has_had_are_taken_out_of_what_is_said() -> None:
    for key in ("old-token-12345", "new-token-67890", "x"):
        never_say(key)
    assert clean("old-token-12345 was replaced by new-token-67890 x", "third") == "[key] was replaced by [key] x"


def model_of(folder: Path, url: str, **more: Any) -> dict[str, Any]:
    return {
        "engine": "openai",
        "base_url": url,
        "model": "m",
        "price": {"per_million": {"input": 1, "output": 1}},
    } | more


def job_of(folder: Path, command: Any, url: str = "http://127.0.0.1:1/v1") -> dict[str, Any]:
    return {
        "input": {"path": "in", "prompt": "q"}, "output": str(folder / "out"), "router": "random",
        "models": {n: model_of(folder, url, api_key_command=command) for n in ("weak", "strong")},
        "weak": "weak", "strong": "strong", "policy": {"strong_share": 0.5},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("az account get-access-token", "models.weak.api_key_command: must be a list of arguments, e.g. [gcloud, "),
        ([], "models.weak.api_key_command: must not be empty"),
        ([""], "api_key_command"),
        (["az", 3], "api_key_command"),
        (["az", "a\0b"], "must not hold a NUL character"),
        ({"run": "az"}, "models.weak.api_key_command: must be a list"),
    ],
)
def test_mistakes_are_named_and_what_was_given_is_not_repeated(tmp_path: Path, command: Any, says: str) -> None:
    with pytest.raises(SpecError) as raised:
        parse_spec(job_of(tmp_path, command))
    assert says in str(raised.value) and "access-token" not in str(raised.value).replace("print-access-token", "")


def test_it_is_for_engines_with_a_key_and_instead_of_a_variable(tmp_path: Path) -> None:
    job = job_of(tmp_path, ["echo", "x"])
    job["models"]["weak"] = {"engine": "vllm", "source": "x", "api_key_command": ["echo", "x"]}
    with pytest.raises(SpecError, match=r"models\.weak: api_key_command is for engines that call a provider"):
        parse_spec(job)
    job["models"]["weak"] = model_of(tmp_path, "http://h/v1", api_key_command=["echo", "x"], api_key_env="KEY")
    with pytest.raises(SpecError, match=r"models\.weak: give one of api_key_env, api_key_command"):
        parse_spec(job)


def test_without_allow_code_nothing_is_run(tmp_path: Path) -> None:
    command = counting(tmp_path)
    job = Job(parse_spec(job_of(tmp_path, list(command))))
    for asked in (("weak",), ()):
        with pytest.raises(SpecError, match=r"models\.weak\.api_key_command: runs a program; .*--allow-code"):
            check_lanes(job, asked)
    assert runs(tmp_path) == 0


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("print('right')", ""),
        ("print('wrong')", "the key in api_key_command is refused by"),
        ("sys.exit(4)", "models.weak.api_key_command: "),
    ],
)
def test_the_check_before_the_run_uses_it_once_for_all_models(tmp_path: Path, program: str, says: str) -> None:
    command = counting(tmp_path, program)
    with thread_replay([small_outcomes(2, ("m", "n"))], ReplayOptions(api_key="right")) as server:
        job = Job(parse_spec(job_of(tmp_path, list(command), server.base_url)), allow_code=True)
        if says:
            with pytest.raises(SpecError) as raised:
                check_lanes(job, ("weak", "strong"))
            assert says in str(raised.value) and "wrong" not in str(raised.value)
        else:
            check_lanes(job, ("weak", "strong"))
            assert set(job.checks) == {"weak", "strong"}
    assert runs(tmp_path) == 1


def test_rays_processes_get_the_key_from_the_governor_and_leave_it_nowhere(ray_local: None, tmp_path: Path) -> None:
    """What the check before the run has printed is old by now: the first sender has it printed again, the others share it."""
    right, old = "sk-right-0f9e8d7c", "sk-old-1a2b3c4d"
    (tmp_path / "program").mkdir()
    command = counting(tmp_path / "program", f"print({right[:8]!r} + {right[8:]!r})")
    HERE.take(command, Key(old, age_s=100.0))
    with serving(60, api_key=right) as server:
        job = LaneJob(server, tmp_path / "run", cap_usd=1.0)
        blocks = job.ask(list(range(60)), api_key_command=list(command), replicas=3)
        assert server.stats()["answered"] == 60
    assert runs(tmp_path / "program") == 1 and job.state.models["gpt"].stopped == ""
    assert {row["kind"] for row in job.table()} == {"answered"}
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    logs = [path for path in Path(session_dir()).rglob("*.*") if path.is_file()]
    assert len(logs) > 5
    for key in (right, old):
        assert key not in repr((job.state, blocks, job.model(api_key_command=list(command))))
        assert [path for path in written + logs if key.encode() in path.read_bytes()] == []


def session_dir() -> str:
    return str(ray._private.worker.global_worker.node.get_session_dir_path())
