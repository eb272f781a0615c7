"""An output prefix on any storage, and what makes it one run.

`store.Store` reads, writes, lists and creates exactly once; `manifest.Run` is a run's identity with the entries of its finished
stages; `lease` lets one process at a time work on it; `keys` makes and finds keys of rows. It knows files and bytes, and neither
Ray nor what the stages write: it imports nothing of the project but `jobs.errors`.
"""
