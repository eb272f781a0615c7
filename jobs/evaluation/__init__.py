"""Routers fitted and measured on recorded outcomes: `headgate train` and `headgate evaluate`.

`train.run_train` writes an artifact, `evaluate.run_evaluate` makes one table of many routers; `sources` and `training_data`
read what both need, `run_outcomes` a finished run; `results` is what both find, as records and as JSON. The figures
themselves are routing's (`routing.metrics`). It needs no Ray and no server, and must not import ray, jobs.lanes or jobs.replay.
"""
