"""Routers that learn next to nothing: always one model, random, prompt length, category mean.

What every learned router has to beat. Public: the four classes, and `category_scores` for evaluation. Must not import `neural`,
`calibrated` or `auto`.
"""
