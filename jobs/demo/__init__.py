"""The demo: generated tasks, two small language models trained on them, and the router between them.

`headgate demo` is the whole job on these.
`run.run_demo` is the command. What ships in models/ and router/ is made by `train_models` and `record`, from `tasks` alone.
It uses the job as a user would, and must not import a lane's or a stage's insides.
"""
