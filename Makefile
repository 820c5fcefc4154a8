# Two commands do everything: `make demo` and `make test`. Both set up .venv first.
PORT ?= 8080
ONCE ?=

.PHONY: setup demo test format lock clean

setup:
	@scripts/setup

demo: setup
	@.venv/bin/python -m scripts.demo --port $(PORT) $(if $(filter-out 0,$(ONCE)),--once)

test: setup
	@scripts/check

format: setup
	@scripts/format

lock: setup
	@scripts/lock

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
