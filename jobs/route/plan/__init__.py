"""Stage 2: which model answers which row, and what that costs, before anything is spent.

`planner.Planner` makes a run's plans and cuts them again as the money goes. `cut.decide` is one cut of a
`situation.Situation`, pure; `plan.Plan` is what it comes to, `bill.Bill` its figures. `estimate` and `prices` say what calls are
expected to cost. It asks no model: of jobs.lanes it takes what a request looks like, and it must not import jobs.route.answer,
.pilot or .account.
"""
