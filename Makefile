# `make` lists what can be done. Every target sets up what it needs, from nothing but Python 3.11 or newer.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests and the demo never ask a model hub; the real model comes with a package.
export HF_HUB_OFFLINE := 1

.PHONY: help setup demo test test-slow lint format lowest docs bench-startup bench-ingest bench-cpu clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(VENV)/.ready: pyproject.toml $(wildcard integrations/*/pyproject.toml) constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV) (some minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[sentence-transformers,openvino,int8,onnx,parquet,peft]" --editable "integrations/qdrant[all]" --editable "integrations/langchain[all]" --group test --group lint
	@# The peer that the LangChain tests compare with asks for an older huggingface-hub than the host does.
	@$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt langchain-huggingface
	@touch $@

setup: $(VENV)/.ready ## create the environment in .venv

demo: $(VENV)/.ready ## write preferences, check them, embed and index this project's docs, ask three questions
	@$(BIN)/python examples/demo.py

test: $(VENV)/.ready ## run the ordinary tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" --numprocesses auto --dist loadfile

test-slow: $(VENV)/.ready ## run the long tests: kills, memory, thousands of malformed files
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow --numprocesses auto --dist loadfile

lint: $(VENV)/.ready ## style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.ready ## let ruff format and fix
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lowest: $(VENV)/.ready ## look whether the lowest allowed versions exist and hold what is imported (asks the package index)
	@$(BIN)/python tests/lowest_versions.py

docs: $(VENV)/.ready ## write the generated reference pages again
	@$(BIN)/python docs/generate.py

bench-startup: $(VENV)/.ready ## import, --help and check on a 395M-parameter model, in fresh processes
	@$(BIN)/python benchmarks/startup.py

bench-cpu: $(VENV)/.ready ## each figure of the engine on a processor beside its target and the plain host (15 minutes)
	@$(BIN)/python benchmarks/cpu.py

clean: ## remove the environment and what demos and tests wrote
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
