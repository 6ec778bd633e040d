# The comment after ## is the description of a target in `make help`.
.DEFAULT_GOAL := help
.PHONY: help setup test check bench trust docs ci

BENCHMARK ?= epoch

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/\1\t\2/' | expand -t 8

setup: ## install the package for development, in the active environment
	pip install -e ".[dev]"

test: ## run the tests that need no network; PYTEST_ADDOPTS=--download runs all
	pytest

check: ## check style, formatting and types
	.ci/check

bench: ## run a benchmark: make bench BENCHMARK=epoch, inference, startup, sweep, ...
	python benchmarks/$(BENCHMARK).py $(ARGS)

trust: ## stress tests: kill runs, damage files, fill disks, fuzz command lines (about an hour)
	python benchmarks/trust.py $(ARGS)

docs: ## test what the documentation shows: commands, links, import diagram, model, notebooks
	pytest tests/test_readme.py tests/test_architecture.py tests/test_contributing.py tests/test_notebooks.py

ci: ## run everything that CI runs, in a fresh environment
	.ci/run
