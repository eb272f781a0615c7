"""The typed errors of a job, and the exit code each one means.

Job-level errors stop a run before it spends; what concerns one row becomes that row's `error` column instead. A message names
the field, the value and the fix, on one line, and never carries a prompt or a key.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from routing.errors import RoutingError

EXIT_DONE, EXIT_BAD_INPUT, EXIT_OPEN, EXIT_HELD = 0, 2, 3, 4
LINE_CHARS = 300
"""Most of a line that was not written here."""
GOES_ON = "what is answered is kept: the same command goes on"
RAYS_MEANINGS = {
    "OutOfMemoryError": "a node ran out of memory, and Ray ended a process on it; give the nodes more memory",
    "ObjectStoreFullError": "Ray's object store is full; give its nodes more object_store_memory",
    "OutOfDiskError": "the disk of a node is full where Ray keeps its objects; free space below its temporary folder",
    "NodeDiedError": "a node of the Ray cluster died",
    "LocalRayletDiedError": "a node of the Ray cluster died",
    "ActorUnavailableError": "a process of the job cannot be reached",
    "RayActorError": "a process of the job died (out of memory, killed, or crashed)",
    "WorkerCrashedError": "a process of the job died (out of memory, killed, or crashed)",
    "ObjectLostError": "data on their way between two stages were lost, with a node or a process",
    "GetTimeoutError": "Ray did not answer in time",
    "TaskCancelledError": "Ray cancelled a task of the job",
    "RuntimeEnvSetupError": "a node could not set up the runtime_env",
    "TaskUnschedulableError": "no node of the Ray cluster can take the work",
    "ActorUnschedulableError": "no node of the Ray cluster can take the work",
    "TaskPlacementGroupRemoved": "the Ray cluster took back what the work ran on",
    "ActorPlacementGroupRemoved": "the Ray cluster took back what the work ran on",
    "AuthenticationError": "the Ray cluster refuses this process's token; look at RAY_AUTH_MODE and RAY_AUTH_TOKEN",
    "RpcError": "the Ray cluster cannot be reached",
}
"""Ray's errors that are about what the work runs on, by the name of their class: nothing here imports Ray."""
_CONSTRUCTOR = "raised in its creation task"
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
_ADVICE = re.compile(r"(?:\s|\\n|, ['\"]|^)(?:Failed to .{1,200}? after \d+/\d+ attempts \(total backoff|={20,})")
"""Where what Ray adds to an error's own words begins: how often it tried, its settings, its help with pickling."""
_FURTHER = "\n\nThe above exception was the direct cause"
_TOLD = re.compile(r"^(jobs|routing)\.[\w.]*?(\w+): (.+)$", re.MULTILINE)
"""An error of ours in the text of a traceback."""
_WORDS = re.compile(r"^((?:\w+\.)*[A-Z]\w*)(?:: ((?:.|\n)*))?\Z", re.MULTILINE)
"""The kind and the words of an error at the end of a traceback's text."""


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


class ClusterDown(LaneDown):
    """What the work ran on is gone or full: a process, a node, memory, a disk. Rows stay open: exit 3."""


class RunHeld(HeadgateError):
    """Another run holds the output prefix: exit 4."""

    exit_code = EXIT_HELD


def find_known(error: BaseException | None) -> HeadgateError | None:
    """The error meant for a person, also inside the wrappers that Ray puts around it, or in their text alone. The core's own comes
    as a SpecError; what Ray, memory or a disk refused as a ClusterDown. None for a fault of this program."""
    chain = list(causes_of(error))
    for each in chain:
        if isinstance(each, HeadgateError | RoutingError) and not _is_rays(each):
            kind = type(each) if isinstance(each, HeadgateError) else SpecError
            said = _without_advice(str(each))
            return each if isinstance(each, HeadgateError) and said == str(each) else kind(said)
    for each in filter(_is_rays, chain):
        if told := _TOLD.findall(_root(str(each))):
            package, name, said = told[-1]
            return SpecError(said) if package == "routing" else _kinds().get(name, SpecError)(said)
    for each in chain:
        if meaning := _meaning(each):
            return ClusterDown(f"{meaning}; {GOES_ON}")
    return None


def one_line(error: BaseException, chars: int = LINE_CHARS) -> str:
    """What went wrong, for a person: the kind and the words of what caused it, without Ray's frames, colours and advice."""
    if (known := find_known(error)) is not None:
        return plain(str(known), chars)
    chain = [each for each in causes_of(error) if type(each).__name__ != "SystemException"]
    own = [each for each in chain if not _is_rays(each)]
    if own:
        said, traced, _ = _without_advice(str(own[-1])).partition("Traceback (most recent call last)")
        words = _last_words(str(own[-1])) if traced else ""
        return plain(_named(type(own[-1]).__name__, f"{said} {words}"), chars)
    told = (words for each in chain if (words := _last_words(str(each))))
    return plain(next(told, "") or _named(type(error).__name__, _without_advice(str(error))), chars)


def plain(text: str, chars: int = LINE_CHARS) -> str:
    """`text` as one line for a terminal or a file: no colours, no control characters. Of one that is too long the middle is cut:
    the head says what is wrong, the end often how to mend it."""
    text = _ANSI.sub("", text.encode("utf-8", "backslashreplace").decode())
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    tail = chars // 3
    return text if len(text) <= chars else f"{text[: chars - tail - 3]} … {text[-tail:]}"


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came of, the outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        inner = getattr(error, "cause", None)
        if not isinstance(inner, BaseException):
            inner = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        error = inner


def _is_rays(error: BaseException) -> bool:
    """Also where it is an instance of the original's class too, as Ray raises it: its text is a traceback."""
    return any(each.__module__ == "ray.exceptions" for each in type(error).__mro__)


def _meaning(error: BaseException) -> str:
    if _is_rays(error) and _CONSTRUCTOR not in str(error):
        names = {each.__name__ for each in type(error).__mro__}
        if "RaySystemError" in names:
            return f"Ray failed: {plain(str(error).splitlines()[0], 160)}"
        return next((meaning for name, meaning in RAYS_MEANINGS.items() if name in names), "")
    if isinstance(error, MemoryError):
        return "out of memory; run it where there is more"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the device{f' ({error.filename})' if error.filename else ''}; free some"
    return ""


def _kinds(root: type[HeadgateError] = HeadgateError) -> dict[str, type[HeadgateError]]:
    """Name → class of every error of ours."""
    return {root.__name__: root} | {n: c for sub in root.__subclasses__() for n, c in _kinds(sub).items()}


def _without_advice(text: str) -> str:
    found = _ADVICE.search(text)
    return text[: found.start()].strip() if found else text


def _root(text: str) -> str:
    """Of a traceback's text the part about what came first."""
    return _without_advice(text.partition(_FURTHER)[0])


def _last_words(text: str) -> str:
    """The line of a traceback's text that names its error, and what follows it."""
    found = _WORDS.search(_root(text).strip())
    return _named(found[1].rpartition(".")[2], found[2] or "") if found else ""


def _named(kind: str, said: str) -> str:
    return f"{kind}: {said}" if said.strip() else kind
