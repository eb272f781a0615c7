"""The one error the core raises for what a user got wrong; `jobs` prints it as a line."""

from __future__ import annotations


class RoutingError(ValueError):
    """Bad data, an unknown router or model, an artifact that does not fit. The message names the field and the fix."""
