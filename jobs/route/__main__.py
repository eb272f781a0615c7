"""`python -m jobs.route --config JOB.yaml`: the same as `headgate run JOB.yaml`, for `ray job submit`."""

from __future__ import annotations

import sys

from jobs.report import console
from jobs.route.commands import app


def main() -> None:
    """Takes what `headgate run` takes; the job file may follow `--config`."""
    sys.argv[1:] = ["run", *(a.removeprefix("--config=") for a in sys.argv[1:] if a != "--config")]
    console.main(app)


if __name__ == "__main__":
    main()
