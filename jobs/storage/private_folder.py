"""Folders on this node's disk that nobody else on the machine may read or have prepared."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from jobs.errors import StoreError


def private_folder(*names: str) -> Path:
    """headgate-UID/NAME/… in the temporary folder: per user, 0700, made if needed. Raises StoreError for another's."""
    folder = Path(tempfile.gettempdir())
    for name in (f"headgate-{os.getuid()}", *names):
        folder /= name
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise StoreError(f"{folder}: belongs to another user; set TMPDIR to a folder of your own")
        folder.chmod(0o700)
    return folder
