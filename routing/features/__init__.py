"""Vectors of prompts: hashed n-grams, a sentence encoder, counts of form, and what is made of them.

Public: `make_features` (by spec), `Features`, `TextSpace`, `NeighbourIndex`, `feature_cache`, `structure`, `prompt_form`,
kernels of Gaussian processes. Must not import `data` or anything above it; torch and transformers only inside functions.
"""
