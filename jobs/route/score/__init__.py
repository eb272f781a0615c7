"""The first stage: every input row becomes a prompt with keys, and the router says what each model would make of it.

`stage.plan_score` and `run_score` do it, `scored.scored_rows` and `read_scored` read it back, `entries.Part` is one file of it,
`router` finds and loads the job's router. No other stage may be imported here.
"""
