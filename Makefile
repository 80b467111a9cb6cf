# The commands of this repository. Tools are kept in .tools/; builds go to CARGO_TARGET_DIR if it is
# set, else to target/. What is provisioned needs the network once.

.DEFAULT_GOAL := help
.PHONY: help run test accept fault bench coverage gpu-test gpu-sanitize gpu-bench gpu-check clean
.SUFFIXES:

target := $(abspath $(or $(CARGO_TARGET_DIR),target))
suites := $(sort $(basename $(notdir $(wildcard */benches/*.rs actors/*/benches/*.rs))))

SEED ?= 1
FAULTS ?= 200
SCHEDULES ?= 1000000
MUTATIONS ?= 5000
FUZZ ?= 30

# Shell fragments: a recipe that needs them fails with them.
server := WITHIN_NATS_SERVER="$$(scripts/provision-nats)" && export WITHIN_NATS_SERVER
python := WITHIN_PYTHON="$$(scripts/provision-python)" && export WITHIN_PYTHON
nvrtc := WITHIN_NVRTC="$$(scripts/provision-nvrtc)" && export WITHIN_NVRTC && export REQUIRE_NVRTC=1
nccl := WITHIN_NCCL="$$(scripts/provision-nccl)" && export WITHIN_NCCL && export REQUIRE_NCCL=1
# A CUDA driver that runs kernels on the CPU, and an NCCL for it, for tests of the platform with devices.
played := cargo build -q --workspace --example played_driver && \
	WITHIN_PLAYED_CUDA="$$("$(target)/debug/examples/played_driver" "$(target)/played")" && export WITHIN_PLAYED_CUDA
minilm := WITHIN_MINILM="$$(scripts/provision-minilm)" && export WITHIN_MINILM
# The binary is built with the features of the whole workspace, so that the tests reuse its parts.
binary := cargo build --workspace --bin within && export WITHIN_BIN="$(target)/debug/within"
release := cargo build --release --workspace --bin within && export WITHIN_BIN="$(target)/release/within"

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: ## Train, evaluate and announce a model on generated data, or your job (ARGS="my.yaml --set ...")
	@$(server) && $(binary) && "$$WITHIN_BIN" run $(ARGS)

test: ## Format, lints and every test
	@$(server) && $(python) && $(nvrtc) && $(nccl) && $(binary) && $(played) && set -x && \
	cargo fmt --check && \
	cargo clippy --workspace --all-targets -- -D warnings && \
	cargo test --workspace

accept: ## The full figures: data sets, peers, long matrices, benches
	@$(server) && $(python) && $(nvrtc) && $(nccl) && $(minilm) && $(binary) && $(played) && set -x && \
	PROPTEST_RNG_SEED=$$(date +%s) WITHIN_SCHEDULES=$(SCHEDULES) cargo test --workspace --exclude within-tests && \
	WITHIN_ACCEPT=1 WITHIN_SEED=$(SEED) WITHIN_FAULTS=1100 WITHIN_ELASTIC_CASES=500 cargo test -p within-tests --test it -- --nocapture
	@set -e; for suite in $(suites); do $(MAKE) --no-print-directory bench SUITE=$$suite; done

# Each of them says how long it took; the line of counts comes last.
fault: ## Simulated schedules, damaged and fuzzed files, then random faults on a running platform (SEED=1 SCHEDULES=1000000 MUTATIONS=5000 FUZZ=30 FAULTS=200)
	@$(server) && $(python) && $(binary) && mkdir -p "$(target)" && \
	WITHIN_SEED=$(SEED) WITHIN_SCHEDULES=$(SCHEDULES) cargo test -p within-coordinator every_schedule -- --nocapture && \
	WITHIN_SEED=$(SEED) WITHIN_MUTATIONS=$(MUTATIONS) cargo test -p within-data-loader --test it mutations && \
	scripts/fuzz "$(target)" $(FUZZ) && \
	WITHIN_SEED=$(SEED) WITHIN_FAULTS=$(FAULTS) WITHIN_FAULT_REPORT="$(target)/fault.json" \
	cargo test -p within-tests --test it fault::random -- --nocapture && \
	cat "$(target)/fault.json"

bench: ## One suite of figures, also as JSON in the build folder (SUITE=...)
ifeq ($(filter $(SUITE),$(suites)),)
	@echo "make bench SUITE=...: $(or $(SUITE),none given); there are: $(or $(suites),none yet)" >&2; exit 2
else
	@$(server) && $(python) && $(release) && mkdir -p "$(target)/bench" && \
	WITHIN_BENCH_DIR="$(target)/bench" cargo bench --workspace --bench $(SUITE) -- $(ARGS)
endif

# The processes that the tests start are counted too, except those that they kill.
coverage: ## Share of lines that the tests run, by file
	@$(server) && $(python) && \
	export PATH="$(CURDIR)/.tools/bin:$$PATH" CARGO_TARGET_DIR="$(target)/coverage" && \
	{ command -v cargo-llvm-cov >/dev/null || \
	  cargo install cargo-llvm-cov --version 0.9.1 --locked --root .tools; } && \
	rustup component add llvm-tools && \
	eval "$$(cargo llvm-cov show-env --sh)" && \
	cargo llvm-cov clean --workspace && \
	cargo build --workspace --bin within && \
	export WITHIN_BIN="$$CARGO_TARGET_DIR/debug/within" && \
	cargo test --workspace && \
	cargo llvm-cov report --html --output-dir "$$CARGO_TARGET_DIR/report" && \
	cargo llvm-cov report --ignore-filename-regex '^(.*/)?tests/'

# One stripped binary, which also runs alone on a machine with a driver and NVRTC: REQUIRE_CUDA=1 target/gpu-test ::device::
gpu-test: ## The tests of the device path on this machine's GPU; a skip is a failure
	@scripts/gpu-binary test "$(target)/gpu-test" && \
	REQUIRE_CUDA=1 WITHIN_CURVES="$(target)/curves.png" "$(target)/gpu-test" ::device::

# CUDA's tool has to be on the path. Races in shared memory are looked for where kernels are few: whole models take hours.
gpu-sanitize: ## The same under compute-sanitizer: memcheck, then racecheck of every operation
	@scripts/gpu-binary test "$(target)/gpu-test" && export REQUIRE_CUDA=1 && set -x && \
	compute-sanitizer --tool memcheck --leak-check no --error-exitcode 9 "$(target)/gpu-test" ::device:: --test-threads 1 && \
	compute-sanitizer --tool racecheck --error-exitcode 9 "$(target)/gpu-test" coverage::device:: --test-threads 1

# Without a GPU it says so. Beside PyTorch where WITHIN_TORCH_PYTHON names a Python that has it.
gpu-bench: ## Bandwidth, FLOP/s and steps of this machine's GPU, appended to kernels/benches/RESULTS.md
	@scripts/gpu-binary bench "$(target)/gpu-bench" && "$(target)/gpu-bench" --results kernels/benches/RESULTS.md

# What would run on a GPU, in an empty folder and with nothing but a driver that runs kernels on the CPU, and NVRTC. Built as
# the tests are, since nothing is measured.
gpu-check: ## Both binaries on the played driver, at small sizes (some minutes)
	@$(nvrtc) && $(played) && export PROFILE=dev && set -x && \
	scripts/gpu-binary test "$(target)/gpu-check-test" && scripts/gpu-binary bench "$(target)/gpu-check-bench" && \
	scripts/check-gpu-binary "$(target)/gpu-check-test" "$$WITHIN_PLAYED_CUDA" "$$WITHIN_NVRTC" ::device:: && \
	scripts/check-gpu-binary "$(target)/gpu-check-bench" "$$WITHIN_PLAYED_CUDA" "$$WITHIN_NVRTC" --quick

clean: ## Remove builds and provisioned tools; models and runs in .within stay
	cargo clean
	rm -rf .tools
