"""Where an API's requests go: its address, its key, and what it lists before the run.

The key is read from the environment of the process that sends, or asked of the governor (jobs.money.keys). It is never shown, or
sent after a redirect.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import re
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from jobs.errors import LaneDown
from jobs.lanes.base import LaneContext
from jobs.lanes.faults import Diagnosis, never_say
from jobs.lanes.providers.body import decoded
from jobs.lanes.providers.errors import error_inside
from jobs.lanes.providers.words import status_of
from jobs.money.keys import HERE, Key, KeyCommandError
from jobs.spec.models import ModelSpec

DEFAULT_URL = "https://api.openai.com/v1"
CHECK_TIMEOUT_S = 15.0


def base_url_of(model: ModelSpec) -> str:
    """The endpoint: the job file's, else $OPENAI_BASE_URL, else the provider's own."""
    return (model.base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL).rstrip("/")


def key_of(model: ModelSpec) -> str:
    """The provider's key, from this process's environment or the model's api_key_command; "" where there is none. Raises
    KeyCommandError."""
    if model.api_key_command:
        return command_key(model).value
    return os.environ.get(model.api_key_env, "").strip()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def get(url: str, key: str) -> tuple[int, bytes]:
    """GET with the key: (status, body); status 0 where no reply came, the body then says why."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
    try:
        with opener.open(request, timeout=CHECK_TIMEOUT_S) as response:
            return int(response.status), response.read(2**24)
    except urllib.error.HTTPError as error:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return error.code, error.read(2**16)
        return error.code, b""
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        return 0, str(getattr(reason, "strerror", None) or reason).encode()


def listed_models(raw: bytes) -> dict[str, int | None]:
    """Model names of a /models list, with their context length where the server tells (vLLM does)."""
    try:
        body = decoded(raw)
    except (ValueError, RecursionError):
        return {}
    data = body.get("data") if isinstance(body, dict) else body
    models = [
        item
        for item in (data if isinstance(data, list) else [])
        if isinstance(item, dict) and isinstance(item.get("id"), str)
    ]
    lengths = {item["id"]: item.get("max_model_len") for item in models}
    return {name: length if isinstance(length, int) else None for name, length in lengths.items()}


def status_inside(raw: bytes) -> int | None:
    """The status that an error in a reply with status 200 amounts to; None where it holds none."""
    try:
        error = error_inside(decoded(raw))
    except (ValueError, RecursionError):
        return None
    return None if error is None else status_of(error)


def is_private(host: str) -> bool:
    """A host name without a dot, a cluster-internal one, or an address that does not leave the site."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".svc", ".localhost"))
    return address.is_private or address.is_loopback


class Endpoint:
    """Where requests go, and the key they carry. The key is not shown."""

    def __init__(self, url: str, key: str = "", source: KeySource | None = None) -> None:
        """url: base URL, without a slash at its end. source: asks for another key."""
        self.url, self.key, self._source = url, key, source
        self._trouble = ""
        never_say(key)

    def __repr__(self) -> str:
        return f"Endpoint(url={self.url!r}, key={'set' if self.key else 'none'})"

    def headers(self) -> dict[str, str]:
        """What says who asks."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    async def renewed(self, status: int, said: str, used: str) -> bool:
        """Whether there is another key than the one `used`, after a reply that refuses it. Asks for one where there may be."""
        if self._source is None or not is_key_refused(status, said):
            return False
        if self.key == used:
            await self.ask()
        return self.key != used

    async def ask(self) -> None:
        """Take the key that the source has: another one than this."""
        if self._source is not None:
            new = await self._source(self.key)
            never_say(new.value)
            self.key, self._trouble = new.value, new.trouble

    def named(self, diagnosis: Diagnosis, model: ModelSpec, alias: str, status: int) -> Diagnosis:
        """The diagnosis of a reply in the words of whoever gave the job an api_key_command."""
        if self._source is None:
            return diagnosis
        if not is_key_refused(status, diagnosis.message):
            return replace(diagnosis, message=diagnosis.message.replace(f"${model.api_key_env}", "api_key_command"))
        why = f"; there is no new one: {self._trouble}" if self._trouble else ", and so is a new one"
        said = diagnosis.message.rpartition("(HTTP ")[2].removesuffix(")")
        message = f"models.{alias}.api_key_command: its key is refused{why}; mend the program (HTTP {said})"
        return Diagnosis("lane", message)


KeySource = Callable[[str], Awaitable[Key]]
"""The key that is refused, "" at first → the key to use."""
_EXPIRED = re.compile(
    r"(?:key|token|credential)s?\b.{0,60}expired|expired\w*.{0,20}(?:key|token|credential)|invalid_token", re.IGNORECASE
)


def is_key_refused(status: int, said: str) -> bool:
    """A reply that another key may mend: also a 400 or 403, where its words say that the key has expired."""
    return status == 401 or (status in (400, 403) and _EXPIRED.search(said) is not None)


def command_key(model: ModelSpec) -> Key:
    """What the model's api_key_command prints, run here if it has not been, or refused. Raises KeyCommandError."""
    command = tuple(model.api_key_command or ())
    with HERE.lock:
        key = HERE.get(command)
    if not key.value:
        raise KeyCommandError(key.trouble)
    never_say(key.value)
    return key


def key_source(context: LaneContext) -> KeySource | None:
    """Where a lane's process gets the keys of an api_key_command: from the governor. Raises LaneDown where there is none."""
    command, governor = context.model.api_key_command, context.governor
    if not command or governor is None:
        return None

    async def ask(refused: str) -> Key:
        key = await governor.key(context.alias, tuple(command), refused)
        if not key.value:
            raise LaneDown(f"models.{context.alias}.api_key_command: {key.trouble}")
        return key

    return ask


def endpoint_of(context: LaneContext, url: str) -> Endpoint:
    """The endpoint of a process that sends; `ask` it for its key, where that comes from a command."""
    source = key_source(context)
    return Endpoint(url, "" if source else key_of(context.model), source)


def has_key_here(model: ModelSpec) -> bool:
    """This process has a key in its environment, so that every other must have it too."""
    return not model.api_key_command and key_of(model) != ""


def hand_over(context: LaneContext) -> None:
    """Tell the governor, on the driver, what the api_key_command has printed here."""
    if context.model.api_key_command and context.governor is not None:
        context.governor.know_key(tuple(context.model.api_key_command), command_key(context.model))
