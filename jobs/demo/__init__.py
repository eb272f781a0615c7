"""The demo's own material: generated tasks, two small language models trained on them, the router between the two."""
