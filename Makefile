# The table of contents: `make help`. Everything happens in .venv, made from locks with hashes.

# The newest Python that the tests cover, of those that are here and can make environments.
PYTHONS := 3.13 3.12 3.11
ifndef PYTHON
PYTHON := $(shell for v in $(PYTHONS); do \
  if python$$v -c 'import ensurepip, venv' 2>/dev/null; then echo python$$v; exit; fi; done; echo python3)
endif
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUNNERS ?= 3
FUZZ_SECONDS ?= 600

.DEFAULT_GOAL := help
.PHONY: help dev up test test-unit test-pythons test-postgres faults fuzz lint format docs bench bench-quick lock \
	env env-rotate compose-up compose-test down clean pin-images sbom check-arm

help:  ## Show this table
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1); Python 3.11 or newer is needed." >&2; \
	  echo "hint: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) cannot make virtual environments." >&2; \
	  echo "hint: on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	@echo "Preparing $(VENV), once"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

dev: $(READY)  ## Prepare the environment and nothing else

up: $(READY)  ## Start Kafka, PostgreSQL and the bridge here, until Ctrl-C
	@exec $(BIN)/kwb up

test: $(READY)  ## Run every test, on a real Kafka and a real PostgreSQL for each of the runners side by side
	$(BIN)/pytest -n $(RUNNERS) --dist loadfile

test-unit: $(READY)  ## Run the tests that need no server
	$(BIN)/pytest tests/unit

test-pythons: $(READY)  ## Run the unit tests on each Python that is supported and installed here
	$(BIN)/python tools/test_pythons.py

test-postgres: $(READY)  ## Run the tests of store and archive on each other PostgreSQL that is installed here
	$(BIN)/python tools/test_postgres.py

faults: $(READY)  ## Break Kafka, PostgreSQL and the bridge under load; writes docs/reports/faults.md (about 25 minutes)
	PYTHONPATH=tests $(BIN)/python -m faults --report docs/reports $(ARGS)

fuzz: $(READY)  ## Look for requests, cases and catalog rows that break the engine (FUZZ_SECONDS, 10 minutes)
	PYTHONPATH=tests $(BIN)/python -m fuzz --seconds $(FUZZ_SECONDS)

lint: $(READY)  ## Style, types, who may import whom, file sizes, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_house.py

format: $(READY)  ## Write the code as `make lint` wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## Make the generated files of docs/ anew
	$(BIN)/python tools/reference.py

bench: $(READY)  ## Measure speed and memory, beside a rival; writes benchmarks/results (about an hour)
	$(BIN)/python benchmarks/http_to_kafka.py
	$(BIN)/python benchmarks/http_to_outbox.py
	$(BIN)/python benchmarks/archive.py
	$(BIN)/python benchmarks/relay_drain.py
	$(BIN)/python benchmarks/replay.py
	$(BIN)/python benchmarks/verify.py
	$(BIN)/python benchmarks/outside.py

bench-quick: $(READY)  ## The same in a few minutes, to see whether a change matters
	$(BIN)/python benchmarks/http_to_kafka.py --quick
	$(BIN)/python benchmarks/http_to_outbox.py --quick
	$(BIN)/python benchmarks/archive.py --quick
	$(BIN)/python benchmarks/relay_drain.py --quick
	$(BIN)/python benchmarks/replay.py --quick
	$(BIN)/python benchmarks/outside.py --quick

lock: $(READY)  ## Resolve the dependencies anew, with hashes
	$(BIN)/python tools/lock.py

env:  ## Make .env for compose.yaml with random passwords, once, and the containers' secret files from it
	@$(PYTHON) tools/compose_env.py make

env-rotate:  ## New passwords in the running stack; ONLY="KAFKA_PASSWORD …" for some, or those that .env has
	@$(PYTHON) tools/compose_env.py rotate $(if $(ONLY),--only $(ONLY))

compose-up:  ## Start compose.yaml: nginx with TLS, Kafka, PostgreSQL and the bridge in containers
	@$(PYTHON) tools/local_stack.py up

compose-test: $(READY)  ## Bring compose.yaml up on a Docker engine and check it; writes docs/reports/compose.md (minutes)
	PYTHONPATH=tests $(BIN)/python -m compose --report docs/reports/compose.md

down:  ## End what compose-up started; its data stay
	@$(PYTHON) tools/local_stack.py down

clean:  ## Remove caches, the environment and, after a question, the data of compose-up; .kwb of `make up` stays
	@$(PYTHON) tools/local_stack.py clean
	rm -rf $(VENV) .venv-aws .venv-checkov .venv-fuzz .fuzz .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist

pin-images: $(READY)  ## Look up the digests of the official images and write them into compose.yaml and the Dockerfiles
	@$(BIN)/python tools/pin_images.py

sbom: $(READY)  ## List the parts of the bridge in dist/sbom.cdx.json, as the image carries them
	@$(BIN)/python tools/sbom.py

check-arm: $(READY)  ## See that every locked wheel of the image can be had for aarch64
	@$(BIN)/python tools/check_arm.py
