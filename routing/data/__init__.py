"""Tables that routers learn from and are measured on: outcomes (prompts x models) and battles, and their readers.

Public: `Outcomes`, `Preferences`, `read_outcomes`, `read_preferences`, `as_outcomes`, `as_preferences`, `mix`, `Tiers` and
Bradley-Terry strengths, contamination. Must not import `metrics`, `routers`, `pilot` or `answers`.
"""
