"""Dollars and rates: who may send for a model, what it may cost, and what was paid.

Public: `client.GovernorClient`, the run's governor for whoever calls it; `driver.Money`, the driver's side of a session;
`sender.Allowance`, a lane's side; `messages`, what they tell each other; `reservations`, the dollars of provider batches;
`spent`, what earlier sessions have paid. Inside stand the governor and its parts: budget, ledger, rate limiter, claims. It counts
what lanes do and knows no engine, prompt or plan: it must not import jobs.lanes nor jobs.route.
"""
