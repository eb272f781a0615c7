"""Routers on vectors of words and form: kNN, linear, SVM, MLP, Gaussian process, forest, and the pairwise two.

All share `TextRouter` (base): a `TextSpace`, prediction in chunks. Public: the classes. Must not import `neural`, `calibrated` or
`auto`.
"""
