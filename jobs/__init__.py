"""The job: everything that touches Ray, storage, servers and people. `routing`, beside it, decides; it never imports `jobs`.

Folders from the floor up: `errors`; `spec` and `storage`; `journal` and `report`; `money`; `lanes`; `route`, the job itself;
`demo`, `evaluation` and `replay`; `cli`. A folder must not import one above it: docs/architecture.md has the picture.
"""
