# ArtCafe PubSub: everything a person or CI does here. `make help` tells what there is.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.SUFFIXES:

# PYTHON chooses the interpreter, else the newest that can make a virtual environment is taken.
PYTHON ?=
VENV := .venv
EMULATOR_VENV := .venv-emulator
BIN := $(VENV)/bin
PYTEST_ARGS ?=
JOBS ?= 2

PACKAGES := libs/common libs/agent-sdk services/auth services/registry services/gateway-ws services/metering \
	tools/devstack
FIND_PYTHON := PYTHON="$(PYTHON)" sh tools/devstack/find-python.sh
PIP_INSTALL := sh tools/devstack/pip-install.sh
# What has been installed: a second call finds these newer than what they are made from, and does nothing.
STACK_STAMP := $(VENV)/.stack
DEV_STAMP := $(VENV)/.dev
EMULATOR_STAMP := $(EMULATOR_VENV)/.emulator

.PHONY: help
help: ## Show this help
	@awk 'BEGIN { FS = ":.*## " } /^[a-z][a-z0-9-]*:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- Setting up ---

.PHONY: setup
setup: ## Install what running takes: .venv and .venv-emulator (PYTHON=... chooses the interpreter)
	@$(MAKE) --no-print-directory --jobs=2 both-environments

.PHONY: both-environments
both-environments: $(STACK_STAMP) $(EMULATOR_STAMP)
	@:

.PHONY: setup-dev
setup-dev: setup $(DEV_STAMP) ## Install what testing and checking takes, too

# pip comes last into a new environment: where it is, the environment is whole.
$(VENV)/bin/pip $(EMULATOR_VENV)/bin/pip:
	@python=$$($(FIND_PYTHON)) || exit 1; \
	echo "[setup] $(@:/bin/pip=): a virtual environment with $$($$python --version)"; \
	$$python -m venv --clear $(@:/bin/pip=)

$(STACK_STAMP): requirements/stack.txt $(PACKAGES:=/pyproject.toml) | $(VENV)/bin/pip
	@$(PIP_INSTALL) "$(VENV): packages and servers" $(BIN)/python --require-hashes -r requirements/stack.txt
	@$(PIP_INSTALL) "$(VENV): this checkout" $(BIN)/python --no-deps --no-build-isolation $(PACKAGES:%=-e ./%)
	@touch $@

$(DEV_STAMP): $(STACK_STAMP) requirements/dev.txt
	@$(PIP_INSTALL) "$(VENV): tools for tests and checks" $(BIN)/python --require-hashes -r requirements/dev.txt
	@touch $@

$(EMULATOR_STAMP): requirements/emulator.txt | $(EMULATOR_VENV)/bin/pip
	@$(PIP_INSTALL) "$(EMULATOR_VENV): AWS emulator" $(EMULATOR_VENV)/bin/python --require-hashes -r requirements/emulator.txt
	@touch $@

.PHONY: requirements
requirements: $(DEV_STAMP) ## Write requirements/*.txt anew from what the packages declare (UPGRADE=1 for newest)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python requirements/compile.py $(if $(UPGRADE),--upgrade)

# --- Running ---

.PHONY: run
run: setup ## Run everything on this machine (EDGE_PORT=8080, ARTCAFE_STATE=.artcafe, ARGS="--help")
	@exec $(BIN)/python -m artcafe_devstack $(ARGS)

.PHONY: demo
demo: setup ## Show two agents talking through the running stack
	@exec $(BIN)/python -m artcafe_devstack.demo $(ARGS)

.PHONY: doctor
doctor: ## Check a running deployment: this machine's stack, docker compose, or ARGS="--kubernetes"
	@python=$(BIN)/python; test -x $$python || python=$$($(FIND_PYTHON)) || exit 1; \
	PYTHONPATH=tools exec $$python -m doctor $(ARGS)

.PHONY: backup
backup: setup ## Back up the usage counters of the running stack
	@exec $(BIN)/python -m artcafe_devstack.metering backup

.PHONY: restore
restore: setup ## Replace the running stack's usage counters by a backup (FROM=file, default the last; ARGS=--force)
	@exec $(BIN)/python -m artcafe_devstack.metering restore $(ARGS) $(if $(FROM),"$(FROM)")

# --- Checking ---

# Both parts run, whatever the first says: one run tells all that is wrong.
.PHONY: test
test: setup-dev ## Run all tests but those of containers and Kubernetes (PYTEST_ARGS="-k name")
	@failed=0; \
	for part in test-unit test-suite; do $(MAKE) --no-print-directory $$part || failed=1; done; \
	exit $$failed

.PHONY: test-suite
test-suite: setup-dev ## Run the tests of the whole: contracts, integration, end to end, browser, chaos
	@$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile tests --ignore=tests/containers --ignore=tests/kubernetes $(PYTEST_ARGS)

.PHONY: test-chaos
test-chaos: CHAOS_SECONDS ?= 300
test-chaos: setup-dev ## Kill parts of the platform under load, and compare usage (CHAOS_SECONDS=300, CHAOS_SEED)
	@CHAOS_SECONDS=$(CHAOS_SECONDS) $(BIN)/python -m pytest tests/chaos --capture=no --show-capture=no $(PYTEST_ARGS)

.PHONY: test-unit
test-unit: setup-dev ## Run the packages' own tests
	@$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile $(PACKAGES:=/tests) $(PYTEST_ARGS)

.PHONY: lint
lint: setup-dev ## Check style, formatting and the pinned requirements
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python requirements/compile.py --check

.PHONY: format
format: setup-dev ## Bring all code into the house's form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: types
types: setup-dev ## Check types
	@for package in $(PACKAGES); do $(BIN)/mypy $$package/src $$package/tests || exit 1; done
	@$(BIN)/mypy conftest.py requirements bench tests tools/doctor

.PHONY: docs
docs: setup-dev ## Write the documents that are made from the code
	@$(BIN)/python tools/docs.py

.PHONY: docs-check
docs-check: setup-dev ## Check that these documents are up to date
	@$(BIN)/python tools/docs.py --check

.PHONY: bench
bench: setup-dev ## Measure, side by side with the alternatives
	@$(BIN)/python -m bench $(ARGS)

# --- Containers (docs/operations.md); DOCKER_HOST chooses the engine ---

.PHONY: secrets
secrets: ## Make the secrets that compose.yaml mounts, where they are missing
	@sh deploy/make-secrets.sh

.PHONY: rotate
rotate: ## Replace a secret of the containers and recreate those who use it (SECRET=nats-auth, ...)
	@sh deploy/rotate.sh $(SECRET)

.PHONY: images
images: ## Build the container images of the services
	@IMAGE_REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) docker compose build $(ARGS)

.PHONY: up
up: secrets images ## Run everything in containers, on http://127.0.0.1:8080
	@docker compose up --detach --wait $(ARGS)

.PHONY: down
down: ## Stop the containers; the volumes stay
	@docker compose down $(ARGS)

.PHONY: tables
tables: ## Make all tables and buckets, or what they lack (VIA=compose; VIA=python: settings of this shell)
	@PYTHON=$(BIN)/python sh deploy/tables.sh create-tables $(VIA)

.PHONY: tables-check
tables-check: ## Tell how tables and buckets differ from what the services declare; ends with an error where they do
	@PYTHON=$(BIN)/python sh deploy/tables.sh check-tables $(VIA)

.PHONY: test-containers
test-containers: setup-dev ## Test images, compose.yaml and the pods of k8s in a container engine
	@$(BIN)/python -m pytest tests/containers --capture=no $(PYTEST_ARGS)

# --- Kubernetes (docs/operations.md) ---

# Validates against the schemas of several versions; on some machines it lies beside the repository.
K8S_CHECKER ?= ../shared/containers/k8s-check.sh
# Of operators that may be there: their schemas are their own.
CUSTOM_KINDS := SecretStore ExternalSecret PodMonitor PrometheusRule

.PHONY: k8s-check
k8s-check: setup-dev ## Check manifests and alerts: schemas (K8S_CHECKER), and that they agree with the code
	@if [ -x "$(K8S_CHECKER)" ]; then \
		"$(K8S_CHECKER)" $(CUSTOM_KINDS:%=--allow %) k8s/overlays/local k8s/overlays/production k8s/monitoring \
			k8s/examples/external-secrets; \
	else \
		printf '%s\n' '!!! NOT RUN: the check of the manifests against the schemas of Kubernetes.' \
			"!!! There is no $(K8S_CHECKER): set K8S_CHECKER to one."; \
	fi
	@$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile tests/kubernetes $(PYTEST_ARGS)

.PHONY: promtool
promtool: setup ## Fetch promtool, which k8s-check plays the alerts with, where it is missing (Debian's package)
	@command -v promtool > /dev/null || sh tools/fetch-promtool.sh $(BIN)/promtool

# --- Tidying up ---

.PHONY: clean
clean: ## Remove what setup and the tools have made; the stack's data in .artcafe stays
	rm -rf $(VENV) $(EMULATOR_VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
