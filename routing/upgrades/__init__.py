"""The one cut over all rows: each row's upgrade steps, their order, and where a policy stops.

Public: `build_steps`, `Steps`, `cut`, `CutLimits`, `Cut`, `Policy`. Arrays in, arrays out; must not import `data`, `metrics`
or anything above them.
"""
