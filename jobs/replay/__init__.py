"""The replay server: an OpenAI-compatible endpoint that answers from recorded outcomes, with faults on demand.

A real HTTP server, not a mock: tests count at it what was paid, and a user rehearses a job against it at no cost.
`server` is the aiohttp application, `table` finds recorded answers, `faults` and `limits` are what goes wrong, `counts`
what `/stats` tells, `batches` the files and batches, `wire` the JSON bodies, `options` the checked settings. An answer
costs one dictionary look-up.
Sampling parameters do not change an answer, and no log-probabilities are recorded: use a real engine for those. It reads
outcomes and serves them; it must not import ray, jobs.route or jobs.lanes.
"""
