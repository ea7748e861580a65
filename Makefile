# Verbs for people; `make help` lists them. Everything is made inside this folder.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
ENV := eval "$$($(BIN)/python -m infra env)"

.PHONY: help setup run test up down status env check clean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/installed ## make the virtual environment .venv from requirements.lock

.venv/installed: requirements.lock infra/setup.sh
	@bash infra/setup.sh $(PYTHON)

run: setup ## train, measure, gate and promote; SOURCE=/path/to/photos trains on your own
	@$(if $(filter command,$(firstword $(origin SOURCE))),$(BIN)/python -m components.choose "$$SOURCE")
	@$(BIN)/python -m infra up
	@$(ENV) && python -m flows run

# Two workers on two cores: threads of their own would only wait for each other. Long files come first.
test: setup ## run the whole test suite, services included
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

up: setup ## start the services
	@$(BIN)/python -m infra up

down: ## stop the services; what they hold stays
	@test ! -x $(BIN)/python || $(BIN)/python -m infra down

status: setup ## say of each service whether it runs, where, and where its log is
	@$(BIN)/python -m infra status

env: setup ## print exports for your own shell: eval "$(make -s env)"
	@$(BIN)/python -m infra env

check: setup ## ruff, mypy, import-linter
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

clean: down ## remove the environment and the tools' caches; data, models and the registry stay
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@echo "kept: .vitrine (services' data, the registry among it), .dvc/cache, data, models, reports, dvc.lock"
