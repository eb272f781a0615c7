"""Engines that run a model on the cluster's own machines.

Public: `vllm.VLLMLane` and `transformers.TransformersLane`; both share how a row becomes a request and an answer a journal row
(`rows`), where a model is and how it counts (`model_source`), and what engines died of (`under_way`). It must not import
another engine's folder or jobs.route, and vLLM only in `vllm_engine`, for not everybody has it.
"""
