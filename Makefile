# Two commands do everything: `make demo` and `make test`. Both set up .venv first.
PORT ?= 8080
ONCE ?=
NAMES ?=

.PHONY: setup demo test docs clients ray format lock clean demo-model

setup:
	@scripts/setup

demo: setup
	@.venv/bin/python -m scripts.demo --port $(PORT) $(if $(filter-out 0,$(ONCE)),--once)

test: setup
	@scripts/check

# The documentation site, in build/site.
docs: setup
	@scripts/docs

# The real programs, some 7 GB of them: all, or make clients NAMES="claude-code codex".
clients: setup
	@.venv/bin/python -m tests.clients $(NAMES)

# Two nodes of Ray on this computer, tested and measured; Ray is installed into .venv-ray.
ray: setup
	@.venv/bin/python -m bench.ray_environment pytest -q tests/fleet/ray
	@.venv/bin/python -m bench.ray_nodes

format: setup
	@scripts/format

lock: setup
	@scripts/lock

# Trains the built-in model again (tools/demo_model): some fifteen minutes, PyTorch in an environment of its own.
demo-model:
	@python3 -m tools.demo_model

clean:
	rm -rf .venv .venv-clients .venv-ray .node-clients build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
