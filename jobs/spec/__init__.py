"""The job file: YAML in, one checked and frozen `JobSpec` out, or one line that names the field and the fix.

Public: `loader.load_spec` and `parse_spec`; the sections in `job`, `models` and `sections`; `engines.traits_of`, what there is
to know of an engine; `response_format.parsed_column`. It must not import Ray, nor anything of jobs but errors: every command
reads a job file first, also those that only look.
"""
