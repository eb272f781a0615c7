"""The lane of OpenAI-compatible APIs: one request a row, many in flight.

Public: `lane.OpenAILane`. The batch lane takes from here what both need: `endpoint`, `rows` and the limits of attempts. It must
not import that lane, jobs.lanes.local or jobs.route.
"""
