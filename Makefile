# All development tasks. `make` alone lists them.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
export CARGO_TARGET_DIR ?= $(CURDIR)/target
# One interpreter for every build of the extension: cargo rebuilds it if the interpreter changes.
export PYO3_PYTHON := $(CURDIR)/$(PY)

LOCKED := $(VENV)/locked
EXTENSION := src/derper/dataplane/_native.abi3.so
SIM := tests/switchboard/_sim.abi3.so
RUST := Cargo.toml Cargo.lock $(shell find rust -name '*.rs' -o -name Cargo.toml)
GO_MODULES := $(dir $(wildcard tests/interop/*/go.mod))
PYTEST_FLAGS ?= --tb=short
# System programs such as dnsmasq: on Debian they are not in a user's PATH.
export PATH := $(PATH):/usr/sbin:/sbin
# Tests start hundreds of relays. If PYTHONDONTWRITEBYTECODE is set, each would compile all modules again.
COMPILED := $(PY) -m compileall -q src
# Tests that need Go or a browser; `make check` skips them.
TESTS_WITH_GO := hostile interop mesh pages prober websocket client tools \
	$(addprefix server/certificates/,test_acme_orders.py test_acme_renewal.py test_tls_flag.py)

.PHONY: help run test check hostile extensions histories loom fuzz lint format bench soak wheel lock clean

help: ## list the targets
	@echo 'make TARGET, one of:'
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 12
	@echo 'Each target installs its requirements and lists missing programs. APT=yes installs Debian packages, APT=no never does.'

run: $(EXTENSION) ## start a local relay, and send a first packet through it
	@$(PY) tools/run.py

test: ## run every test, including those with the real Tailscale client and the Go server
	@PYTHON=$(PYTHON) APT=$(APT) tools/needs.sh build go test
	@$(MAKE) extensions
	$(PY) tests/interop/parts.py
	cargo test --locked --workspace
	@$(COMPILED)
	$(PY) -m pytest $(PYTEST_FLAGS)

check: ## run the tests that need neither Go nor a browser
	@PYTHON=$(PYTHON) APT=$(APT) tools/needs.sh build check
	@$(MAKE) extensions
	cargo test --locked --workspace
	@$(COMPILED)
	$(PY) -m pytest $(TESTS_WITH_GO:%=--ignore=tests/%) $(PYTEST_FLAGS)

hostile: $(EXTENSION) ## attack our relay and the Go server, and print the table of SECURITY.md (ten minutes)
	@tools/needs.sh go test
	DERPER_ATTACK_GO=yes DERPER_ATTACK_SECONDS=$${DERPER_ATTACK_SECONDS:-3} $(PY) -m pytest tests/hostile $(PYTEST_FLAGS)

extensions: $(EXTENSION) $(SIM) ## build the extension, and the simulated data plane for tests

histories: $(EXTENSION) $(SIM) ## compare the switchboard with its model over more random histories (DERPER_HISTORIES=300000)
	DERPER_HISTORIES=$${DERPER_HISTORIES:-300000} $(PY) -m pytest tests/switchboard $(PYTEST_FLAGS)

loom: $(LOCKED) ## test every interleaving of two shards on a mailbox (a separate build)
	RUSTFLAGS='--cfg loom' cargo test --locked --release --manifest-path rust/loom/Cargo.toml --lib \
		--target-dir $(CARGO_TARGET_DIR)/loom interleavings

fuzz: $(LOCKED) ## fuzz the parsers of network input (FUZZ_SECONDS=3600, FUZZ_TARGETS='frames tls')
	PYTHON=$(PY) tools/fuzz.sh $${FUZZ_SECONDS:-3600} $${FUZZ_TARGETS:-}

lint: $(EXTENSION) ## check format, types and lints of Python, Rust and Go
	@tools/needs.sh lint
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo fmt --manifest-path bench/loadgen/Cargo.toml --check
	cargo fmt --manifest-path rust/fuzz/Cargo.toml --check
	cargo fmt --manifest-path rust/loom/Cargo.toml --check
	cargo clippy --locked --manifest-path bench/loadgen/Cargo.toml --all-targets -- -D warnings
	$(if $(shell command -v go),tools/golint.sh $(GO_MODULES),@echo 'no go here: the Go modules are not looked at')

format: $(LOCKED) ## format all code
	$(PY) -m ruff check --fix-only --quiet
	$(PY) -m ruff format
	cargo fmt --all
	cargo fmt --manifest-path bench/loadgen/Cargo.toml
	cargo fmt --manifest-path rust/fuzz/Cargo.toml
	cargo fmt --manifest-path rust/loom/Cargo.toml

bench: $(EXTENSION) ## compare the cost of a packet with the Go server's (twenty minutes; see bench/BENCHMARKING.md)
	@tools/needs.sh go
	$(PY) bench/compare.py $(BENCH_FLAGS)

soak: $(EXTENSION) ## check for memory growth while clients connect, send and disconnect (ten minutes)
	$(PY) bench/soak.py $(SOAK_FLAGS)

wheel: $(LOCKED) ## build the wheels of derper and derper-client into dist/
	$(VENV)/bin/maturin build --release --locked --out dist
	$(PY) -m pip wheel --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation --wheel-dir dist ./packaging/client

lock: $(LOCKED) ## update requirements/ from pyproject.toml
	tools/lock.sh $(LOCK_FLAGS)

clean: ## remove all generated files
	rm -rf $(VENV) .cache target dist $(EXTENSION) $(SIM) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests bench examples tools -name __pycache__ -prune -exec rm -rf {} +

IN_VENV := VIRTUAL_ENV="$(CURDIR)/$(VENV)" PATH="$(CURDIR)/$(VENV)/bin:$$PATH"

# Not rebuilt for Python changes: the package is installed in place.
$(EXTENSION): $(LOCKED) $(RUST) pyproject.toml
	@echo 'building the extension (the first time three to six minutes on two cores) ...'
	@# pip hides the output of a build, so maturin runs first with the same settings, and pip finds it complete.
	@$(IN_VENV) $(VENV)/bin/maturin develop --release --locked --skip-install
	@echo 'installing the package in place ...'
	@$(IN_VENV) $(PIP) --no-index --no-deps --no-build-isolation --editable .
	@touch $@

# The simulated data plane: optimised as in the wheel, with overflow checks and debug assertions.
CHECKED := --config 'profile.release.package.relay.overflow-checks=true' \
	--config 'profile.release.package.relay.debug-assertions=true'
$(SIM): $(LOCKED) $(RUST)
	cargo build --locked --release --package derper-sim $(CHECKED)
	install $(CARGO_TARGET_DIR)/release/lib_sim.so $@

$(LOCKED): requirements/dev.txt
	@PYTHON=$(PYTHON) tools/needs.sh build
	@echo 'installing the locked requirements into $(VENV) ...'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PIP) --require-hashes -r $<
	@touch $@
