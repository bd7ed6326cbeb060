# Each target sets up all it needs: a bare machine with Python 3.11+ and make is enough.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/uv pip install --quiet --python $(BIN)/python
COMPILE := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --upgrade

.PHONY: demo test lint bench soak lock clean
.DELETE_ON_ERROR:

demo: .venv/.stamp-run  ## search over generated scenes; ARGS=--fresh starts again
	$(BIN)/thresher demo $(ARGS)

test: lint  ## everything that CI runs
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder $(ARGS)

lint: .venv/.stamp-test
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/.stamp-test
	$(BIN)/python -m tests.bench $(ARGS)

soak: .venv/.stamp-test
	$(BIN)/python -m tests.bench.soak $(ARGS)

lock: .venv/.stamp-uv  ## choose versions anew; the tests' extras stand apart
	$(COMPILE) --extra test --output-file .venv/all.lock
	$(COMPILE) --constraints .venv/all.lock --output-file requirements.lock
	$(COMPILE) --extra test --constraints .venv/all.lock --output-file tests/requirements.lock \
		$$(sed -n 's/^\([A-Za-z0-9._-]*\).*==.*/--no-emit-package \1/p' requirements.lock | sort -u)

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info

.venv/.stamp-uv:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and none was found; PYTHON=path names one"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5'
	touch $@

.venv/.stamp-run: .venv/.stamp-uv requirements.lock pyproject.toml
	$(PIP) --require-hashes -r requirements.lock
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

.venv/.stamp-test: .venv/.stamp-run tests/requirements.lock
	$(PIP) --require-hashes -r requirements.lock -r tests/requirements.lock
	touch $@
