"""A job from its file to its report: score, plan, answer, account, with a pilot and a cascade where the job asks for them.

`pipeline` is the job read from top to bottom (`plan_job`, `run_job`, `report_job`); each folder is a stage and imports only the
stages before it; `start.Job` is one start of a job. What engines, money and files need is below: this folder imports neither
`jobs.evaluation` nor `jobs.replay`.
"""
