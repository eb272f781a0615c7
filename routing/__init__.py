"""The core: which model answers which prompt, from expected quality, dollars and a policy; and what that is worth.

    features → routers → expected quality (n, m) → upgrades (steps, one cut) → pilot (promises, estimates)
    data: what routers learn from    metrics: how they are judged    answers: what an answer itself shows

Public: the folders' own names, and `errors`, `text`, `pricing`, which lie below them. Arrays and frozen records only: no Ray, no
network, no job file, nothing of `jobs` may be imported here.
"""
