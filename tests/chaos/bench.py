"""What all scenarios share: a work folder, a seeded generator, S3, and how long the undisturbed job takes."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.buckets import Bucket, moto_server
from tests.chaos.proxy import FaultProxy, Faults, fault_proxy
from tests.chaos.setting import Outcome, Setting, setting

SHARE = {"strong_share": 0.5}


class Skipped(Exception):
    """A scenario that this machine cannot run; says why."""


@dataclass
class Bench:
    """Runs scenarios one after the other. Use it as a context: it ends the S3 server it may have started."""

    root: Path
    seed: int = 0
    bases: dict[str, float] = field(default_factory=dict)
    """Kind of setting → wall seconds of its undisturbed run."""
    _n: int = 0
    _moto: str = ""
    _open: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Bench:
        self.root.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def random(self, *names: object) -> random.Random:
        """A generator for one scenario: the same whatever else runs."""
        return random.Random(repr((self.seed, *names)))

    @contextmanager
    def local(self, *replay_options: str, policy: dict[str, Any] | None = None) -> Iterator[Setting]:
        """A job that writes to a local folder."""
        with self._folder() as folder, setting(folder, *replay_options, policy=policy) as made:
            yield made

    @contextmanager
    def on_s3(self, faults: Faults, policy: dict[str, Any] | None = None) -> Iterator[tuple[Setting, FaultProxy]]:
        """A job that writes to S3 through a proxy with these faults."""
        if not self._moto:
            self._moto = self._open.enter_context(moto_server(self.root / "moto.log"))
        with self._folder() as folder, fault_proxy(self._moto, seed=self._n) as proxy:
            bucket = Bucket(f"bucket-{self._n}-{self.seed}", proxy.url, self._moto)
            bucket.create()
            with setting(folder, bucket=bucket, policy=policy) as made:
                proxy.faults = faults
                yield made, proxy
                proxy.faults = Faults()

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        self._n += 1
        folder = self.root / f"run-{self._n:03d}"
        shutil.rmtree(folder, ignore_errors=True)
        yield folder
        shutil.rmtree(folder, ignore_errors=True)

    def base_s(self, kind: str = "budget") -> float:
        """Wall seconds of the undisturbed job, measured once: `budget`, `share` or `s3`."""
        if kind not in self.bases:
            with ExitStack() as stack:
                if kind == "s3":
                    made = stack.enter_context(self.on_s3(Faults()))[0]
                else:
                    made = stack.enter_context(self.local(policy=SHARE if kind == "share" else None))
                made.finish(max_starts=1)
                outcome = made.outcome("undisturbed", kind, 0.0)
                if not outcome.ok:
                    raise RuntimeError(f"the undisturbed run ({kind}) is not whole: {outcome}; {made.last_words()}")
                self.bases[kind] = outcome.wall_s
        return self.bases[kind]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One fault, done to one job."""

    family: str
    fault: str
    """Scenarios of one family and fault are one row of the table."""
    run: Callable[[Bench], Outcome]
    part: bool = False
    """Among the few minutes that `make test-all` runs."""
    name: str = ""

    @property
    def label(self) -> str:
        return f"{self.family}: {self.fault}" + (f" ({self.name})" if self.name else "")
