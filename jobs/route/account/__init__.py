"""Stage 4: every input row once in responses/, and the run's report.

`stage.run_account` writes responses/ bucket by bucket and gives what each adds up to (`totals`); `run_summary.summarise` makes
report.json of it. It reads the plan, the journal and what the stages left on the store, and asks no model: it must not import
jobs.lanes, nor jobs.route.answer or jobs.route.pilot.
"""
