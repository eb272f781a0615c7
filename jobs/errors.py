"""The typed errors of a job, and the exit code each one means.

Job-level errors stop a run before it spends; what concerns one row becomes that row's `error` column instead. A message names
the field, the value and the fix, on one line, and never carries a prompt or a key.
"""

from __future__ import annotations

from routing.errors import RoutingError

EXIT_DONE, EXIT_BAD_INPUT, EXIT_OPEN, EXIT_HELD = 0, 2, 3, 4


class HeadgateError(Exception):
    """Base of every error the command line prints as one line."""

    exit_code = EXIT_BAD_INPUT

    def __str__(self) -> str:
        # Bytes of a file that are no UTF-8 are quoted as lone surrogates, which no terminal, file or JSON can take.
        return super().__str__().encode("utf-8", "backslashreplace").decode()


class SpecError(HeadgateError):
    """The job file (or a flag) is wrong: exit 2, nothing spent, nothing written."""


class InputError(HeadgateError):
    """The input set cannot be read as the job file says: exit 2."""


class StoreError(HeadgateError):
    """Storage refused: unknown bucket, wrong secret, no write permission: exit 2."""


class StorageDown(StoreError):
    """Storage refused in the middle of the spending (full, gone, throttled for long). Rows stay open: exit 3."""

    exit_code = EXIT_OPEN


class LaneDown(HeadgateError):
    """A model's lane cannot go on (key, model, quota, server gone). Its rows stay open: exit 3."""

    exit_code = EXIT_OPEN


class RunHeld(HeadgateError):
    """Another run holds the output prefix: exit 4."""

    exit_code = EXIT_HELD


def find_known(error: BaseException | None) -> HeadgateError | None:
    """The error meant for a person, also inside the wrappers that Ray puts around it. The core's own comes as a SpecError."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, HeadgateError):
            return error
        if isinstance(error, RoutingError):
            return SpecError(str(error))
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
    return None
