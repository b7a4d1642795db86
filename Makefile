# The whole set-up is in `.venv`; every target makes it when it is missing or when the lock file changed.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RUN := $(VENV)/bin
COMPILED := .cache/compiled

.PHONY: demo test check bench format lock clean

demo: $(READY)  ## replicate a small shop on embedded servers, kill an applier, compare every row
	$(RUN)/cdc demo

test: $(READY)  ## all tests, on real servers
	$(RUN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: $(READY)  ## format, lint, types, layers
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy
	$(RUN)/lint-imports

# As a wheel has cdc whose loops were compiled; `.venv/bin/python -m benchmarks` measures it as Python.
bench: $(READY)  ## speed beside PostgreSQL's own tools and others; ARGS="--quick", "--only PATH…", "--list"
	rm -rf $(COMPILED)
	HATCH_BUILD_HOOK_ENABLE_CUSTOM=true $(RUN)/python -m hatchling build --target wheel --directory $(COMPILED)
	$(RUN)/python -m zipfile --extract $(COMPILED)/*.whl $(COMPILED)
	PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/$(COMPILED):$(CURDIR) $(RUN)/python -m benchmarks $(ARGS)

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

clean:
	rm -rf $(VENV) .cache
