"""The real governor in the test's own process, called as Ray's handle of it is: `handle.method.remote(...)`, awaited.

Lanes talk to nothing else of Ray once they run, so their whole work can be tested without starting it.
"""

from __future__ import annotations

from typing import Any

from jobs.money.governor import GovernorService


class LocalGovernor:
    """Stands where a lane has the governor's handle."""

    def __init__(self, service: GovernorService) -> None:
        self.service = service

    def __getattr__(self, name: str) -> Any:
        class Method:
            remote = staticmethod(getattr(self.service, name))

        return Method
