"""Stage 4: every input row once in responses/, and the run's report.

`stage.run_account` writes responses/ bucket by bucket and gives what each adds up to (`totals`); `run_summary.summarise` makes
report.json of it. It reads the plan, the journal and what the judge said (`jobs.route.pilot.judged`), and asks no model: it must
not import jobs.lanes or jobs.route.answer.
"""
