# Headgate: `make demo` shows it, `make test` proves it. Everything is installed into .venv, pinned; a second call starts at once.
# PYTHON=… names another interpreter (3.11 to 3.13), TORCH_INDEX=… another source of torch's CPU build.

USABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13; do $$p -c '$(USABLE)' 2>/dev/null && echo $$p && break; done)
# The files of tests are shared out to processes, the longest first (tests/conftest.py): much of what one does is waiting, for Ray,
# for engines, for stores that do not answer. Slow tests hold whole jobs to times: one process fewer. WORKERS=0: none but pytest.
PYTEST := .venv/bin/python -m pytest --durations=15 --dist loadfile --no-loadscope-reorder
# make test-all SLOW_ONLY=1 leaves out what `make test` has just passed; PART="tests/jobs/test_k*.py" runs those files alone.
ALL_TESTS := $(if $(SLOW_ONLY),-m slow,) $(PART)

.PHONY: demo test test-all chaos check format schema results install clean

demo: install
	@.venv/bin/headgate demo

test: install
	@$(PYTEST) -n $(or $(WORKERS),3) -m "not slow"

test-all: install
	@$(PYTEST) -n $(or $(WORKERS),2) $(ALL_TESTS)

# docs/reliability.md: faults of every kind done to real jobs, and what became of them. Within an hour.
# CHAOS="--results build/chaos.jsonl" keeps what is done, so that a run cut short goes on.
chaos: install
	@.venv/bin/python -m tests.chaos --minutes 55 --workers 2 --out docs/reliability.md $(CHAOS)

check: install
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/lint-imports --no-cache
	@.venv/bin/mypy

format: install
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

# docs/job-schema.json is made from jobs/spec/; a test says when it is old.
schema: install
	@.venv/bin/python -m jobs.spec.json_schema > docs/job-schema.json

# docs/results.md: every router beside what was published; needs the recorded outcomes in ../shared/data. 50 minutes on one
# core; RESULTS="--parts build/results" keeps what is done, so that a run cut short goes on, or two share the work.
results: install
	@.venv/bin/python -m benchmarks.results --cache build/embeddings --live build/live $(RESULTS)

install:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 to 3.13 with venv found (Debian: apt-get install python3-venv); or name one: make PYTHON=/path/to/python" >&2; exit 2; }
	@"$(PYTHON)" .ci/install.py

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
