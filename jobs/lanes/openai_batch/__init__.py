"""The lane of OpenAI's batch API: rows in files, answers within a day, at half the price.

Public: `lane.OpenAIBatchLane`; `manifest.close_settled` and `manifest.stopped_line` for a run that starts or stops while
batches are at the provider. It must not import jobs.lanes.local or jobs.route.
"""
