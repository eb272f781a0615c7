"""Routers that are a transformer: a BERT classifier and a causal LLM, fine-tuned here or elsewhere.

Both share `NeuralRouter` (base) and one training loop. Public: the classes, and `FitProgress`, which their `on_progress`
hears. torch and transformers are imported inside functions. Must not import `text`, `calibrated` or `auto`.
"""
