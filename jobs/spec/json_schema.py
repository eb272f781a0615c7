"""The job file as a JSON schema, for editors that complete and check YAML.

`python -m jobs.spec.json_schema > docs/job-schema.json` makes it from `jobs.spec.job`, which also holds the rules
between fields that a schema cannot say (one policy, weak and strong differ).
"""

from __future__ import annotations

import json
import sys
from typing import Any

from jobs.spec.job import JobSpec


def job_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a job file."""
    schema = JobSpec.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Headgate job file"}


def schema_text() -> str:
    """What docs/job-schema.json holds."""
    return json.dumps(job_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
