# The one way to do each thing: people, hooks and CI all call these targets.

SHELL := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(PATH):$(HOME)/.cargo/bin

VENV := .venv
BIN := $(VENV)/bin
VENV_STAMP := $(VENV)/.installed
MODULE := mautrix_sfu/_media.abi3.so
PAGE := mautrix_sfu/http/page/index.html
SYNAPSE := .cache/synapse-venv/.installed
NODE_MODULES := web/node_modules/.package-lock.json
LIBSRTP := .cache/libsrtp-openssl/libsrtp2.so.1
CARGO := --manifest-path media/Cargo.toml

RUST_SOURCES := $(shell find media -name target -prune -o -type f -print 2>/dev/null)
WEB_SOURCES := $(shell find web -name node_modules -prune -o -name dist -prune -o -name test-results -prune -o -type f -print 2>/dev/null)

.PHONY: help prerequisites prerequisites-test synapse venv build rust page lint lint-python lint-rust lint-web format test test-quick bench bench-cascade bench-forward \
	bench-latency bench-join bench-memory load quality demo wheel wheel-manylinux sdist \
	test-packaging image-steps clean
.DELETE_ON_ERROR:

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

prerequisites: ## say what this machine lacks, and install Debian packages if run as root
	@scripts/prerequisites.sh build

prerequisites-test: prerequisites
	@scripts/prerequisites.sh test

venv: $(VENV_STAMP) ## the virtual environment .venv with all that development needs

$(VENV_STAMP): pyproject.toml constraints.txt scripts/requirements.py | prerequisites
	@[ -x $(BIN)/python ] || { echo "Making the virtual environment $(VENV)"; "$$(scripts/find-python.sh)" -m venv $(VENV); }
	@echo "Installing Python packages into $(VENV) (half a minute)"
	@$(BIN)/python scripts/requirements.py | $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r /dev/stdin
	@touch $@

build: rust page ## the media core and the call page, in place; nothing if nothing changed

rust: $(MODULE) ## the media core alone

$(MODULE): $(RUST_SOURCES) $(VENV_STAMP)
	@echo "Building the media core (a minute or two the first time)"
	@said=$$(VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --release --locked 2>&1) || { echo "$$said"; exit 1; }
	@touch $@

page: $(PAGE) ## the call page alone

$(NODE_MODULES): web/package-lock.json | prerequisites
	@echo "Installing the call page's packages"
	@cd web && npm ci --silent --no-audit --no-fund
	@touch $@

$(PAGE): $(WEB_SOURCES) $(NODE_MODULES)
	@echo "Building the call page"
	@cd web && npm run --silent build -- --logLevel warn
	@touch $@

lint: lint-python lint-rust lint-web ## everything that is checked without running it

lint-python: $(VENV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lint-rust: $(MODULE)
	@scripts/prerequisites.sh lint
	cargo fmt $(CARGO) --check
	cargo clippy $(CARGO) --locked --all-targets --quiet -- -D warnings
	cargo fmt --manifest-path bench/load/Cargo.toml --check
	cargo clippy --manifest-path bench/load/Cargo.toml --target-dir media/target --locked --quiet -- -D warnings
	PYO3_PYTHON=$(CURDIR)/$(BIN)/python cargo clippy $(CARGO) --locked --features python --quiet -- -D warnings
	$(BIN)/python -m mypy.stubtest mautrix_sfu._media

lint-web: $(NODE_MODULES)
	cd web && npm run --silent lint

format: $(VENV_STAMP) $(NODE_MODULES) ## rewrite the sources as the linters want them
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format --quiet .
	cd web && npm run --silent format
	cargo fmt $(CARGO)

synapse: $(SYNAPSE) ## the Synapse that the tests run, in .cache

$(SYNAPSE): scripts/install_synapse.py $(VENV_STAMP)
	@$(BIN)/python scripts/install_synapse.py
	@touch $@

test: build synapse prerequisites-test ## all tests, with a real Synapse and a real browser
	@$(BIN)/python scripts/test.py

test-quick: build ## the tests that need no Synapse, browser, PostgreSQL or Prometheus
	@$(BIN)/python scripts/test.py --quick

bench-cascade: build ## what a hop between foci adds, what crosses trunks, a hundred foci (minutes, on a quiet machine)
	@$(BIN)/python -m bench.cascade

load: $(VENV_STAMP) ## what the benchmarks load a focus with
	@cargo build --release --locked --quiet --manifest-path bench/load/Cargo.toml

bench: bench-forward bench-latency bench-join bench-memory bench-cascade ## all benchmarks, one after the other

bench-forward: build load $(LIBSRTP) ## packets forwarded in a second of CPU, beside Janus and a bare loop (root, two quiet cores)
	@$(BIN)/python -m bench.forward

bench-latency: build load ## how long a packet takes through the focus at half of the load that it carries (root)
	@$(BIN)/python -m bench.latency

bench-join: build $(SYNAPSE) ## from an invite to a picture, joins per second in large calls, everybody back after a crash (two quiet cores)
	@scripts/prerequisites.sh test
	@$(BIN)/python -m bench.join

bench-memory: build load ## resident memory of a thousand legs (root)
	@$(BIN)/python -m bench.memory

quality: build $(LIBSRTP) ## what two pages see and hear on bad links, through the focus and through Janus (root; 40 minutes, quiet machine)
	@$(BIN)/python -m bench.quality

$(LIBSRTP): scripts/libsrtp_openssl.sh
	@scripts/libsrtp_openssl.sh $(dir $@) || true

test-packaging: build synapse prerequisites-test ## what is shipped, built from nothing: the image's steps, the source distribution (minutes)
	@$(BIN)/python -m pytest -m packaging

image-steps: $(VENV_STAMP) ## carry out the Dockerfile without an engine, on a copy of this machine (as root)
	@$(BIN)/python -m scripts.image_steps

demo: build $(SYNAPSE) ## a throw-away Synapse, the focus and a call to open in the browser; Ctrl-C removes it all
	@$(BIN)/python scripts/demo.py

wheel: page ## a wheel for this machine's Linux and any Python from 3.11 on, in dist/
	@$(BIN)/maturin build --release --locked --out dist

wheel-manylinux: page ## a wheel for any Linux with glibc 2.17 or newer; zig, a package of Python's registry, links it
	@[ -x build/zig/bin/maturin ] || { $(BIN)/python -m venv build/zig && build/zig/bin/pip install --quiet "maturin>=1.9,<2" "ziglang>=0.13"; }
	@PATH=$(CURDIR)/build/zig/bin:$$PATH build/zig/bin/maturin build --release --locked --zig --compatibility manylinux2014 --target-dir build/zig-target --out dist

sdist: page ## the source distribution, in dist/
	@$(BIN)/maturin sdist --out dist

clean: ## remove what was built, and the virtual environments
	rm -rf $(VENV) .cache build dist wheelhouse media/target media/fuzz/target bench/load/target web/node_modules web/dist mautrix_sfu/http/page
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -f mautrix_sfu/_media*.so
	find mautrix_sfu tests scripts bench -name __pycache__ -prune -exec rm -rf {} +
