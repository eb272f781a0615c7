"""A job file, or a mapping that says the same, into the `JobSpec` that all inside trusts.

Read (`jobs.spec.job_file`), dates filled in, checked (`jobs.spec.job`), complained of in one line (`jobs.spec.complaints`), and
the schema of `response_format` read from its own file.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from jobs.errors import SpecError
from jobs.spec.complaints import one_line
from jobs.spec.job import JobSpec
from jobs.spec.job_file import plain, printable, read_job_file


def load_spec(path: str, overrides: list[str] | None = None) -> JobSpec:
    """Read and check a job file, `--set a.b=c` overrides applied. Raises SpecError."""
    return parse_spec(read_job_file(path, overrides), base=Path(path).parent)


def parse_spec(data: dict[str, JsonValue], base: Path | None = None) -> JobSpec:
    """Check a mapping. `base`: folder that a relative schema path is read from. Raises SpecError."""
    if not isinstance(data, dict):
        raise SpecError("job file: must be a mapping with input, output, router, models, policy")
    data = plain(data)
    if "output" in data:
        data["output"] = _dated(data["output"])
    if isinstance(reuse := data.get("reuse"), list):
        data["reuse"] = [_dated(uri) for uri in reuse]
    section = data.get("input")
    if isinstance(section, dict) and "path" in section:
        path = section["path"]
        data["input"] = {**section, "path": [_dated(p) for p in path] if isinstance(path, list) else _dated(path)}
    try:
        spec = JobSpec.model_validate(data)
    except ValidationError as error:
        raise SpecError(one_line(error, data, JobSpec)) from None
    if spec.response_format:
        spec = spec.model_copy(update={"response_format": read_schema(spec.response_format, base or Path("."))})
    return spec


def fill_date(path: str) -> str:
    """`{date}` in a path becomes today's date, `{yesterday}` the day's before (ISO, UTC: the same wherever the driver runs)."""
    today = datetime.now(UTC).date()
    return path.replace("{date}", today.isoformat()).replace("{yesterday}", (today - timedelta(days=1)).isoformat())


def _dated(value: JsonValue) -> JsonValue:
    return fill_date(value) if isinstance(value, str) else value


def read_schema(response_format: dict[str, Any], base: Path) -> dict[str, Any]:
    """`{json_schema: FILE or mapping}` → `{"json_schema": mapping}`, the schema itself checked."""
    from jobs.spec.response_format import check_schema

    if set(response_format) - {"json_schema", "type"} or "json_schema" not in response_format:
        raise SpecError("response_format: write it as {json_schema: schema.json} (a file, or the schema itself)")
    schema = response_format["json_schema"]
    if isinstance(schema, str):
        path = base / schema
        try:
            schema = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SpecError(f"response_format.json_schema: no file {printable(str(path))}") from None
        except (OSError, ValueError, RecursionError):
            raise SpecError(
                f"response_format.json_schema: {printable(str(path))} is not JSON, or nested too deeply"
            ) from None
    if not isinstance(schema, dict):
        raise SpecError("response_format.json_schema: must be a JSON schema (a mapping)")
    cleaned: Any = plain({"response_format": {"json_schema": schema}})
    schema = cleaned["response_format"]["json_schema"]
    check_schema(schema)
    return {"json_schema": schema}
