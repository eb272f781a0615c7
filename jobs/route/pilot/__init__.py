"""What is learnt from answers before the cut: on a sample that every model answers, and from the weak model's own answers.

`stage.pilot_stage` and `cascade.cascade_stage` are the two stages, either skipped where it is done or not asked for; both write
predictions through `repredict`, and leave an entry of `jobs.route.plan.entries`. `judge` asks a model how good the sample's
answers are, `judged` reads that back. The accounting comes later and is not imported.
"""
