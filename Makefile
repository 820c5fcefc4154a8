# Two commands do everything: `make demo` and `make test`. Both set up .venv first.
PORT ?= 8080
ONCE ?=

.PHONY: setup demo test clients format lock clean demo-model

setup:
	@scripts/setup

demo: setup
	@.venv/bin/python -m scripts.demo --port $(PORT) $(if $(filter-out 0,$(ONCE)),--once)

test: setup
	@scripts/check

clients: setup
	@python3 -m venv .venv-clients
	@.venv-clients/bin/python -m pip install --quiet -r requirements-clients.txt
	@.venv/bin/python -m pytest tests/server/test_llama_index.py
	@.venv/bin/python -m bench.lm_eval .venv-clients/bin/python

format: setup
	@scripts/format

lock: setup
	@scripts/lock

# Trains the built-in model again (tools/demo_model): some fifteen minutes, PyTorch in an environment of its own.
demo-model:
	@python3 -m tools.demo_model

clean:
	rm -rf .venv .venv-clients build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
