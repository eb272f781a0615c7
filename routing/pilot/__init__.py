"""The sample that every model answers before the cut: its folds, what it can promise, and what the run was worth.

Public: `draw`, `fold_sizes`, `assign_folds` (folds), `choose_rank_by`, `candidate_cuts` and `promise` (guarantee), `estimate_run`
(estimates), the intervals for finite sets. Must not import `routers` or `answers`: it judges predictions, whoever made them.
"""
