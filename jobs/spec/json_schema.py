"""The job file as a JSON schema, for editors that complete and check YAML.

`python -m jobs.spec.json_schema > docs/job-schema.json` makes it from `jobs.spec.job`, which also holds the rules
between fields that a schema cannot say (one policy, weak and strong differ).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from jobs.spec.engines import BUILT_IN, engines
from jobs.spec.job import JobSpec


def job_schema(known: Sequence[str] = tuple(BUILT_IN)) -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a job file. known: engines that an editor offers; other names are no mistake to it."""
    schema = JobSpec.model_json_schema()
    schema["$defs"]["ModelSpec"]["properties"]["engine"]["anyOf"][0]["enum"] = list(known)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Headgate job file"}


def schema_text(known: Sequence[str] = tuple(BUILT_IN)) -> str:
    """What docs/job-schema.json holds: the engines built in, whatever else is installed where it is checked."""
    return json.dumps(job_schema(known), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text(engines()))
