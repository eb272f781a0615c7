"""What people see: the terminal before, during and after a run, and the run's report as JSON, HTML and Markdown.

`page.write_report` writes the three, `terminal` has the tables of `plan`, `run` and `status`, `progress.Progress` is live,
`console` turns whatever goes wrong into one line. Figures come in as they are and are worded by `formatting`; it computes
none, and must not import ray, jobs.route, jobs.lanes or jobs.money.
"""
