# `make bench` and `make test` set up what they need in .venv; nothing else has to be installed first.
# Another Python: make bench PYTHON=python3.12. Other pip options: make bench PIP_FLAGS="--extra-index-url ...".
PYTHON ?= python3
PIP_FLAGS ?=
BIN := .venv/bin

.PHONY: bench test test-slow lint format figures figures-chat clean

bench: .venv/installed          ## teach the students that ship and show the leaderboard
	$(BIN)/dgym bench --suite quick

test: .venv/installed-test      ## lint, types, import rules, tests
	$(MAKE) --no-print-directory lint
	$(BIN)/pytest

test-slow: .venv/installed-test ## the tests that take minutes
	$(BIN)/pytest -m slow

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

figures: .venv/installed        ## the performance figures in benchmarks/README.md
	$(BIN)/python benchmarks/resident.py
	$(BIN)/python benchmarks/tenants.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/sandbox.py

figures-chat: .venv/installed   ## the figures of language-model teachers, against the test server
	$(BIN)/python benchmarks/limiter.py
	$(BIN)/python benchmarks/overlap.py
	$(BIN)/python benchmarks/faults.py

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q $(PIP_FLAGS) -e .
	touch $@

.venv/installed-test: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q $(PIP_FLAGS) -e ".[test]"
	touch .venv/installed $@

clean:
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
