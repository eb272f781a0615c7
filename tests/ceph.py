"""A real Ceph object gateway on loopback: one monitor, one in-memory OSD, one RGW, plain processes.

Debian's own packages, no cluster tools and no system services: `apt-get install --no-install-recommends radosgw
ceph-mon ceph-osd`. Ready in 3-4 s on 2 cores, half a gigabyte; all of it is gone when it stops. moto_server is quicker,
but accepts any secret and was not written by people who run storage: use this one for what an owner's S3 would say.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

from ports import free_port

BINARIES = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
START_TIMEOUT_S = 90

CONFIG = """
[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{mon_port}]
mon_initial_members = a
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
keyring = {folder}/keyring
mon_data = {folder}/mon
osd_data = {folder}/osd
rgw_data = {folder}
run_dir = {folder}
admin_socket = {folder}/$name.asok
pid_file = {folder}/$name.pid
log_file = {folder}/$name.log
crash_dir = {folder}

# Memory only, one copy, one host.
osd_objectstore = memstore
memstore_device_bytes = 2147483648
osd_pool_default_size = 1
osd_pool_default_min_size = 1
mon_allow_pool_size_one = true
osd_crush_chooseleaf_type = 0
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_pool_default_pg_autoscale_mode = off
mon_max_pg_per_osd = 1000

# The monitor gathers changes for a second by default; seven pools made one after another wait for it.
paxos_propose_interval = 0.05
paxos_min_wait = 0.01
# A nearly full disk under the temporary folder is no reason to refuse.
mon_data_avail_crit = 1
mon_data_avail_warn = 2
"""


def missing_binaries() -> list[str]:
    """Programs of Ceph that this machine lacks; empty where the gateway can be started."""
    return [name for name in BINARIES if shutil.which(name, path=_path()) is None]


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class CephGateway:
    """Started by entering it, which raises RuntimeError where that fails; clients need endpoint and keys."""

    def __init__(self) -> None:
        self.access_key = "HEADGATETESTKEY00000"
        self.secret_key = secrets.token_hex(20)
        self.endpoint = ""
        self._folder = Path()
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> CephGateway:
        # A short path: the daemons' sockets live in it, and a socket's path ends at 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="hg-ceph-", dir="/tmp"))
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        mon_port, rgw_port = free_port(), free_port()
        fsid = str(uuid.uuid4())
        (self._folder / "ceph.conf").write_text(CONFIG.format(folder=self._folder, mon_port=mon_port, fsid=fsid))
        keyring, monmap = str(self._folder / "keyring"), str(self._folder / "monmap")
        self._run("ceph-authtool", "--create-keyring", keyring)
        for name, allowed in {
            "mon.": ("mon",),
            "client.admin": ("mon", "osd", "mgr"),
            "osd.0": ("mon", "osd", "mgr"),
        }.items():
            caps = [word for daemon in allowed for word in ("--cap", daemon, "allow *")]
            self._run("ceph-authtool", keyring, "--gen-key", "--name", name, *caps)
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{mon_port}]", monmap)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        self._daemon("ceph-mon", "-i", "a")
        self._run("ceph", "--connect-timeout", "30", "osd", "create")
        (self._folder / "osd").mkdir()
        self._run("ceph-osd", "-i", "0", "--mkfs")
        self._daemon("ceph-osd", "-i", "0")
        keys = ("--access-key", self.access_key, "--secret-key", self.secret_key)
        made = self._run("radosgw-admin", "user", "create", "--uid", "headgate", "--display-name", "headgate", *keys)
        assert json.loads(made)["user_id"] == "headgate"
        self._daemon("radosgw", "-n", "client.admin", "--rgw_frontends", f"beast endpoint=127.0.0.1:{rgw_port}")
        self.endpoint = f"http://127.0.0.1:{rgw_port}"
        self._wait_for_answer()

    def _command(self, program: str, *arguments: str) -> list[str]:
        own = (
            ["-c", str(self._folder / "ceph.conf")]
            if program in ("ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin")
            else []
        )
        return [program, *own, *arguments]

    def _run(self, program: str, *arguments: str) -> str:
        environment = {**os.environ, "PATH": _path()}
        command = self._command(program, *arguments)
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=START_TIMEOUT_S, env=environment, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{program} {arguments[0]}: exit {done.returncode}: {done.stderr[-500:]}")
        return done.stdout

    def _daemon(self, program: str, *arguments: str) -> None:
        output = (self._folder / f"{program}.out").open("wb")
        with output:
            command = self._command(program, "-f", *arguments)
            self._processes.append(
                subprocess.Popen(
                    command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env={**os.environ, "PATH": _path()}
                )
            )

    def _wait_for_answer(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            for process in self._processes:
                if process.poll() is not None:
                    raise RuntimeError(f"{process.args!r} ended with {process.returncode}: {self._tail()}")
            try:
                with urllib.request.urlopen(self.endpoint, timeout=2):
                    return
            except urllib.error.HTTPError:
                return  # any HTTP answer at all
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"no answer from {self.endpoint} in {START_TIMEOUT_S} s: {self._tail()}")

    def _tail(self) -> str:
        return " | ".join(log.read_text(errors="replace")[-300:] for log in sorted(self._folder.glob("*.out")))

    def stop(self) -> None:
        """End the three daemons by their own process ids and remove the folder."""
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(timeout=3)  # the data is in memory: there is nothing to save
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        shutil.rmtree(self._folder, ignore_errors=True)
