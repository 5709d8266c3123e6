# Everything a person or CI types. Each target does its own set-up.

CARGO ?= cargo
# What cargo-deny and the tests need beside the toolchain: nothing. Warnings are errors here and only here.
STRICT = -D warnings

.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## the whole story on the built-in example cluster
	@$(CARGO) run --quiet --locked -- demo

.PHONY: test
test: fmt clippy unit doc summary ## everything that must hold

.PHONY: fmt
fmt: ## formatting
	$(CARGO) fmt --check

.PHONY: clippy
clippy: ## lints, as errors
	$(CARGO) clippy --locked --all-targets -- $(STRICT)

.PHONY: unit
unit: ## all tests
	@mkdir -p target
	@set -o pipefail; $(CARGO) test --locked --no-fail-fast 2>&1 | tee target/test.log

.PHONY: doc
doc: ## the documentation builds, without broken links
	RUSTDOCFLAGS="$(STRICT)" $(CARGO) doc --locked --no-deps --document-private-items

# The closing line, in the form of `cargo test`, for all test binaries together.
.PHONY: summary
summary:
	@awk '/^test result:/ {passed += $$4; failed += $$6; ignored += $$8} \
	  END {printf "test result: %s. %d passed; %d failed; %d ignored; 0 measured; 0 filtered out\n", \
	       failed ? "FAILED" : "ok", passed, failed, ignored; exit failed > 0 || passed == 0}' target/test.log

.PHONY: bench
bench: ## what a decision costs
	$(CARGO) bench --locked

.PHONY: release
release: ## the optimised binary, target/release/fencegate
	$(CARGO) build --locked --release

SHELL := bash
