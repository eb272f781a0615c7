"""What providers and gateways write around their answers: bodies, errors, what those are about, and how long to wait.

Other people's shapes end here: a body becomes one JSON value, an error a `ProviderError`, a wait a number of seconds. Public:
`body`, `errors`, `words`, `waits`. Pure functions without a network; it must not import anything of jobs.lanes but `chat`.
"""
