# The whole set-up is in `.venv`; every target makes it when it is missing or when the lock file changed.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RUN := $(VENV)/bin
TESTS := $(RUN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
# The compiled build (hatch_build.py) has a set-up of its own. Python must not find the sources of this folder first.
COMPILED_VENV := .venv-compiled
COMPILED_READY := $(COMPILED_VENV)/.ready
ON_COMPILED := PYTHONSAFEPATH=1 CDC_TESTED_BUILD=compiled
# What reaches all compiled modules: unit tests, every kind of message of the source, rows, and kills while pgbench runs.
TESTED_COMPILED := tests/unit tests/integration/test_postgres_source.py tests/e2e/test_rows.py tests/e2e/test_pgbench.py

.PHONY: demo test check bench compiled test-compiled format lock clean

demo: $(READY)  ## replicate a small shop on embedded servers, kill an applier, compare every row
	$(RUN)/cdc demo

test: $(READY)  ## all tests, on real servers
	$(TESTS)

check: $(READY)  ## format, lint, types, layers
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy
	$(RUN)/lint-imports

ifdef COMPILED
bench: $(COMPILED_READY)
	PYTHONSAFEPATH=1 $(COMPILED_VENV)/bin/python -m benchmarks $(ARGS)
else
bench: $(READY)  ## speed beside PostgreSQL's own tools and others; ARGS="--quick", "--only PATH…", "--list"; COMPILED=1
	$(RUN)/python -m benchmarks $(ARGS)
endif

compiled: $(COMPILED_READY)  ## the compiled build, in .venv-compiled; needs a C compiler and Python's headers

test-compiled: $(COMPILED_READY)  ## some of the tests, on the compiled build
	$(ON_COMPILED) $(subst $(RUN),$(COMPILED_VENV)/bin,$(TESTS)) $(TESTED_COMPILED)

format: $(READY)
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

lock: $(READY)  ## resolve the newest versions that pyproject.toml allows
	$(RUN)/uv export --quiet --upgrade --all-extras --all-groups --no-emit-project --output-file requirements.lock
	rm -f uv.lock

$(READY): pyproject.toml requirements.lock
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check uv
	$(RUN)/uv pip install --quiet --python $(RUN)/python --require-hashes -r requirements.lock
	$(RUN)/uv pip install --quiet --python $(RUN)/python --no-deps --editable .
	touch $@

$(COMPILED_READY): $(READY) hatch_build.py $(shell find cdc consumers schemas -name '*.py' -o -name '*.avsc')
	$(PYTHON) -m venv --clear $(COMPILED_VENV)
	$(RUN)/uv pip install --quiet --python $(COMPILED_VENV)/bin/python --require-hashes -r requirements.lock
	CDC_COMPILED=1 $(RUN)/uv build --quiet --wheel --python $(COMPILED_VENV)/bin/python \
	  --build-constraints requirements.lock --out-dir $(COMPILED_VENV)/wheel .
	$(RUN)/uv pip install --quiet --python $(COMPILED_VENV)/bin/python --no-deps $(COMPILED_VENV)/wheel/*.whl
	ln -s $(CURDIR)/benchmarks $(COMPILED_VENV)/lib/python3*/site-packages/
	touch $@

clean:
	rm -rf $(VENV) $(COMPILED_VENV) .cache
