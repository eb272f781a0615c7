"""The real governor in the test's own process, behind the real client: only Ray between the two is missing.

Lanes talk to nothing else of Ray once they run, so their whole work can be tested without starting it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobs.money.client import GovernorClient
from jobs.money.governor import GovernorService


def local_governor(service: GovernorService) -> GovernorClient:
    """What a lane has in a run."""
    return GovernorClient(_Handle(service))


class _Handle:
    """Called as Ray's handle of an actor is: `handle.method.remote(...)`, awaited."""

    def __init__(self, service: GovernorService) -> None:
        self._service = service

    def __getattr__(self, name: str) -> _Method:
        return _Method(getattr(self._service, name))


class _Method:
    def __init__(self, remote: Callable[..., Any]) -> None:
        self.remote = remote
