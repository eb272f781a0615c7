"""How good a router is: pairs (PGR, APGR, CPT), the cost-quality plane (NDCH, AIQ, Zero router, oracle), cascades.

Public: `router_curve`, `apgr`, `cpt` and RouteLLM's own (pair), `ndch`, `aiq`, `zero_router` (plane), `Sweep`, `oracle`
(sweep), `cascade`, `sweep`, `rerank` (cascades), `measure_trials` (figures with intervals), `Interval`, `bootstrap`. Works
on arrays of what happened; must not import `routers`, `pilot` or `answers`.
"""
