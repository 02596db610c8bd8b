# The two commands are `make demo` and `make test`; each makes what it needs, once.
# `make test ARGS="-k push"`, `make demo DEMO_ARGS="--ratings FILE"`, `make PYTHON=python3.12 …`

PYTHON ?= python3
UV ?= uv
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := $(wildcard crypto mpc services client)
TYPED := $(PACKAGES) proto/rookery $(wildcard bench deploy) tests .ci
# Relative paths would follow a test into its working folder.
export NODE_PATH := $(CURDIR)/.cache/node_modules
# One more than there are cores, for a third of a run is waiting; four at most: a test that
# waits for a server's answer must not wait for a core.
JOBS ?= $(shell $(PYTHON) -c 'import os; print(min(4, 1 + (os.cpu_count() or 1)))')

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test soak bench load observability lint format types contracts proto proto-check \
	proto-baseline policy-check policy-baseline policy-demo policy-page vectors settings wheel lock image-locks venv node programs clean

help: ## What there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' Makefile

# --- the environment: plain venv and pip; requirements.lock says what goes in ---

# A changed lock makes the environment anew, so that what left the lock leaves it too.
$(VENV)/.locked: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --no-index -e .
	@touch $@

venv: $(VENV)/.installed ## Make .venv

node: $(VENV)/.locked
	@$(BIN)/python .ci/node_modules.py $(NODE_PATH)

# Redis, promtool, openssl, Chromium and kubectl for the tests. What is missing they name themselves.
programs: $(VENV)/.locked
	@$(BIN)/python .ci/debian.py .cache/debian redis prometheus openssl chromium || true
	@$(BIN)/python .ci/kubectl.py .cache/kubectl || true

# --- using it ---

demo: venv ## Show the whole system at work
	@$(BIN)/rookery demo $(DEMO_ARGS)

test: venv node programs ## Run the tests
	@$(BIN)/python -m pytest -n $(JOBS) --dist=loadfile --no-loadscope-reorder $(ARGS)

soak: venv node programs ## Run the tests that take minutes: load, faults, reconnect storms
	@$(BIN)/python -m pytest -m soak --timeout=0 $(ARGS)

bench: venv ## Measure, each ratio against its floor
	@$(BIN)/python -m bench $(ARGS)

SCENARIO ?= smoke

observability: venv ## Write rules, dashboards and the tables of docs/operations.md anew
	@$(BIN)/python -m deploy.observability.build

load: venv ## Load-test a service started for it, or TARGET=… (deploy/load/README.md)
	@$(BIN)/python -m deploy.load.run $(SCENARIO) $(if $(TARGET),--target $(TARGET)) $(LOAD_ARGS)

# --- judging it: .ci/run does all of this ---

lint: venv ## Style and suspicious code
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: venv ## Let ruff put right what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: venv ## mypy --strict
	@$(BIN)/mypy --strict $(TYPED)

contracts: venv ## Who may import whom
	@$(BIN)/python .ci/contracts.py

policy-check: venv ## The shipped policy is sound, and what is wider in it is answered
	@$(BIN)/rookery policy check deploy/policy --against deploy/policy/baseline.policy

# --- what is generated and committed ---

proto: venv ## Generate the Python of proto/
	@$(BIN)/python .ci/genproto.py

proto-check: venv ## Generated code is current; the API is tidy and breaks nobody
	@$(BIN)/python .ci/genproto.py --check
	@$(BIN)/buf lint
	@$(BIN)/buf breaking --against proto/baseline.binpb

proto-baseline: venv ## Make today's API the one not to break (docs/releasing.md)
	@$(BIN)/buf build --exclude-source-info -o proto/baseline.binpb

# It is not signed: everybody signs their own.
policy-baseline: venv ## Make the shipped policy the one that its changes are judged against
	@$(BIN)/rookery policy build deploy/policy --unsigned --issued-ms 1 --force \
		-o deploy/policy/baseline.policy

policy-demo: venv ## Compile the shipped policy into client/demo, which has no deploy/ in a wheel
	@$(BIN)/rookery policy build deploy/policy --unsigned --issued-ms 1 --force \
		-o client/demo/shipped.policy

policy-page: venv ## Write summary and diagram of the shipped policy in docs/policy.md anew
	@$(BIN)/python .ci/policy_page.py

vectors: venv ## Generate tests/vectors anew
	@$(BIN)/python tests/vectors/generate.py

settings: venv ## Write the tables of settings in docs/ anew
	@$(BIN)/python .ci/settings_tables.py

wheel: venv ## Build dist/*.whl
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation --wheel

lock: ## Resolve requirements.lock anew (needs uv; UPGRADE=--upgrade for newer versions)
	@$(UV) pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes \
		--no-header --no-emit-index-url --no-emit-find-links $(UPGRADE) \
		pyproject.toml -o requirements.lock

image-locks: venv ## What the image installs, out of requirements.lock
	@$(BIN)/python .ci/image_locks.py

clean: ## Remove all that was made
	rm -rf $(VENV) .cache .*_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
