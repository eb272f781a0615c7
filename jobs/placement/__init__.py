"""What the job asks of a cluster, and whether the cluster has it: said before the run, waited for within a limit, taken in turns.

Public: `Need` (what an engine or a scorer asks for), `Cluster` and `look` (what there is), `shortfall` (what is missing, in one
line), `Placement` (who runs when), `lent_device` (what this process may compute on). Must not import lanes or route.
"""
