"""Where an API's requests go: its address, its key, and what it lists before the run.

The key is read from the environment of the process that sends. It is never passed on, shown, or sent after a redirect.
"""

from __future__ import annotations

import ipaddress
import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from jobs.spec.models import ModelSpec

DEFAULT_URL = "https://api.openai.com/v1"
CHECK_TIMEOUT_S = 15.0


def base_url_of(model: ModelSpec) -> str:
    """The endpoint: the job file's, else $OPENAI_BASE_URL, else the provider's own."""
    return (model.base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL).rstrip("/")


def key_of(model: ModelSpec) -> str:
    """The provider's key, from this process's environment; "" where there is none."""
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
        return error.code, error.read(2**16)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return 0, str(getattr(reason, "strerror", None) or reason).encode()


def listed_models(raw: bytes) -> dict[str, int | None]:
    """Model names of a /models list, with their context length where the server tells (vLLM does)."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    data = body.get("data") if isinstance(body, dict) else None
    models = [item for item in data or [] if isinstance(item, dict) and isinstance(item.get("id"), str)]
    lengths = {item["id"]: item.get("max_model_len") for item in models}
    return {name: length if isinstance(length, int) else None for name, length in lengths.items()}


def is_private(host: str) -> bool:
    """A host name without a dot, a cluster-internal one, or an address that does not leave the site."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".svc", ".localhost"))
    return address.is_private or address.is_loopback


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go. The key is not shown."""

    url: str
    """Base URL, without a slash at its end."""
    key: str

    def __repr__(self) -> str:
        return f"Endpoint(url={self.url!r}, key={'set' if self.key else 'none'})"
