# Everything in two commands: `make demo` and `make test`. Both make the environment first.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test faults soak check audit bench bench-memory bench-search evaluate format clean

demo: $(READY)
	@$(BIN)/immich-indexer demo $(if $(PHOTOS),--photos "$(PHOTOS)") $(if $(filter-out 0,$(ONCE)),--once)

# Three files of tests at once: much of their time is waiting. JOBS=0: one after the other.
JOBS ?= 3
test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

# Every fault there is; the short form is among the tests. MINUTES: how long the long run is.
faults: $(READY)
	$(BIN)/python -m pytest -m 'faults or not faults' tests/faults $(ARGS)

MINUTES ?= 60
soak: $(READY)
	PYTHONPATH=.:tests $(BIN)/python -m faults.soak --minutes $(MINUTES) $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(BIN)/python scripts/audit.py

# Known vulnerabilities in what is installed; a part of check.
audit: $(READY)
	@$(BIN)/python scripts/audit.py

# make bench ARGS='--quick --only clip,ocr'; what the figures mean: docs/performance.md
bench: $(READY)
	@$(BIN)/python -m bench $(ARGS)

# How much memory the models take over photos of all sizes: make bench-memory ARGS='--images 100'
bench-memory: $(READY)
	@$(BIN)/python -m bench.memory $(ARGS)

# SIZE=1000000 takes hours to build once. URL=postgresql://…: on that server.
bench-search: $(READY)
	@$(BIN)/python -m bench.search $(if $(SIZE),--size $(SIZE)) $(if $(URL),--url "$(URL)") $(ARGS)

# make evaluate URL=postgresql://… ARGS='--split report': a server with zhparser asks all rules
evaluate: $(READY)
	@$(BIN)/python -m tests.judged.evaluate $(if $(URL),--url "$(URL)") $(ARGS)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Plain pip; the constraints pin what must be pinned, and say why.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 13) or sys.exit("Python 3.11 or 3.12 is needed, this is %d.%d: make PYTHON=python3.12 …" % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .data build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
