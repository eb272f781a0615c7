"""Storage that fails: S3 that throttles, cuts, forgets for a moment or crawls; a local disk that is slow or full."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.bench import Bench, Scenario, Skipped
from tests.chaos.proxy import Faults
from tests.chaos.setting import Outcome, Setting

S3, DISK = "S3", "disk"
TMPFS_BYTES = 24 * 2**20
SLOW_MS = 150
SLOW_DISK_C = r"""
/* Every write, fsync, rename and link below a folder of $SLOW_DISK takes $SLOW_DISK_MS longer. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int slow_path(const char *path) {
  const char *root = getenv("SLOW_DISK");
  return root && path && strncmp(path, root, strlen(root)) == 0;
}
static void wait_if(int slow) {
  const char *ms = getenv("SLOW_DISK_MS");
  if (slow && ms) usleep(1000 * atoi(ms));
}
static int slow_fd(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n < 0) return 0;
  path[n] = 0;
  return slow_path(path);
}
#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
ssize_t write(int fd, const void *data, size_t n) { REAL(write); if (fd > 2) wait_if(slow_fd(fd)); return real(fd, data, n); }
int fsync(int fd) { REAL(fsync); wait_if(slow_fd(fd)); return real(fd); }
int rename(const char *a, const char *b) { REAL(rename); wait_if(slow_path(b)); return real(a, b); }
int link(const char *a, const char *b) { REAL(link); wait_if(slow_path(b)); return real(a, b); }
"""


def s3_fault(fault: str, faults: Faults, met: str = "", part: bool = False) -> Scenario:
    """A job on S3 behind a proxy. `met`: the count of the proxy that shows that the fault happened."""

    def run(bench: Bench) -> Outcome:
        base_s = bench.base_s("s3")
        with bench.on_s3(faults) as (job, proxy):
            job.finish()
            if met and not proxy.counts[met]:
                job.problems.append(f"the fault did not happen in {proxy.counts['requests']} requests")
            return job.outcome(S3, fault, base_s)

    return Scenario(S3, fault, run, part)


def s3_kill() -> Scenario:
    """kill -9 of the driver while the store throttles and forgets: the resume reads the journal through the same proxy."""
    fault = "503 at 10 %, new objects unseen for 2 s, driver kill -9"

    def run(bench: Bench) -> Outcome:
        base_s = bench.base_s("s3")
        with bench.on_s3(Faults(slow_down=0.1, visible_after_s=2.0)) as (job, _):
            driver = job.start()
            if job.wait_for_share(0.4, driver):
                job.kill(driver)
            job.finish()
            return job.outcome(S3, fault, base_s)

    return Scenario(S3, fault, run)


def slow_disk() -> Scenario:
    """A local disk where every write takes SLOW_MS longer: an LD_PRELOAD shim, for all processes of the job."""
    fault = f"every write, rename and fsync {SLOW_MS} ms slower"

    def run(bench: Bench) -> Outcome:
        compiler = shutil.which("cc")
        if compiler is None:
            raise Skipped("no C compiler for the shim")
        base_s = bench.base_s()
        library = bench.root / "slow_disk.so"
        source = bench.root / "slow_disk.c"
        source.write_text(SLOW_DISK_C)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
        with bench.local() as job:
            job.env |= {"LD_PRELOAD": str(library), "SLOW_DISK": str(job.output), "SLOW_DISK_MS": str(SLOW_MS)}
            job.finish()
            return job.outcome(DISK, fault, base_s)

    return Scenario(DISK, fault, run)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A tmpfs of TMPFS_BYTES. Raises Skipped where mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise Skipped(f"no mount command ({error})") from None
    if mounted.returncode:
        raise Skipped(f"mounting a tmpfs is not allowed here ({mounted.stderr.strip()[:80]})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def full_disk(what: str, part: bool = False) -> Scenario:
    """The disk of the output, or of the local logs, fills up in the middle; with space again the same command goes on."""
    fault = f"full: {what}"

    def run(bench: Bench) -> Outcome:
        base_s = bench.base_s()
        with bench.local() as job, small_disk(job.folder / "small") as disk:
            if what == "output":
                job.job["output"] = str(disk / "out")
                (job.folder / "out").symlink_to(disk / "out")
            else:
                job.env |= {"TMPDIR": str(disk), "RAY_TMPDIR": "/tmp"}
            driver = job.start()
            job.wait_for_share(0.3, driver)
            filler = disk / "filler"
            fill(filler)
            code = job.end(driver)
            if code not in (0, 3):
                job.problems.append(f"exit code {code} on a full disk: {job.last_words()}")
            full_too(job, code)
            filler.unlink()
            job.finish()
            return job.outcome(DISK, fault, base_s)

    return Scenario(DISK, fault, run, part)


def full_too(job: Setting, code: int) -> None:
    """The same command while the disk is still full ends in order too: well, where committed logs have left enough space."""
    if code == 0:
        return
    again = job.end(job.start())
    if again not in (0, 2, 3):
        job.problems.append(f"exit code {again} on a disk that is still full: {job.last_words()}")


def fill(filler: Path) -> None:
    """Write until the disk is full."""
    with filler.open("wb", buffering=0) as out:
        try:
            while True:
                out.write(bytes(64 * 1024))
        except OSError:
            pass
        try:
            while True:
                out.write(bytes(512))
        except OSError:
            os.fsync(out.fileno())


SCENARIOS = [
    s3_fault("503 SlowDown, 20 %", Faults(slow_down=0.2), "slow_down", part=True),
    s3_fault("uploads cut, 10 %", Faults(cut_upload=0.1), "cut_upload"),
    s3_fault("stored, but the reply is lost, 10 %", Faults(lost_reply=0.1), "lost_reply", part=True),
    s3_fault("downloads cut in half, 5 %", Faults(cut_download=0.05), "cut_download"),
    s3_fault("new objects unseen for 3 s", Faults(visible_after_s=3.0), "not_yet_visible"),
    s3_fault("every reply 0.5 s late", Faults(delay_s=0.5)),
    s3_kill(),
    slow_disk(),
    full_disk("output", part=True),
    full_disk("local logs"),
]
