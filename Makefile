# Everything a person or CI types. Each target does its own set-up.

CARGO ?= cargo
# What cargo-deny and the tests need beside the toolchain: nothing. Warnings are errors here and only here.
STRICT = -D warnings

.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## the whole story on the built-in example cluster
	@$(CARGO) run --quiet --locked -- demo

.PHONY: test
test: fmt clippy unit end-to-end image-test doc summary ## everything that must hold, on a real control plane too

.PHONY: test-fast
test-fast: fmt clippy unit doc ## everything but the control plane: the inner loop

.PHONY: fmt
fmt: ## formatting
	$(CARGO) fmt --check

.PHONY: clippy
clippy: ## lints, as errors
	$(CARGO) clippy --locked --all-targets --all-features -- $(STRICT)

.PHONY: unit
unit: ## tests that need nothing but this repository
	@mkdir -p target
	@set -o pipefail; $(CARGO) test --locked --no-fail-fast 2>&1 | tee target/test.log

# Where KUBEBUILDER_ASSETS names a folder with the binaries, those are used, as envtest does.
ASSETS := $(abspath target/cluster)
OLDEST := $(abspath target/cluster-oldest)

# Builds every tool of a Go module: $(1) its folder, $(2) where to. Without the stamp kubectl does not know its own version.
define build-tools
	@mkdir -p $(2)
	@cd $(1) && version=$$(awk '$$1 == "k8s.io/kubernetes" {print $$2}' go.mod) && minor=$${version#v1.} && \
	  echo "building Kubernetes $$version: minutes the first time, a second afterwards" && \
	  stamp=k8s.io/component-base/version && \
	  go build -o $(2)/ -ldflags "-s -w -X $$stamp.gitVersion=$$version -X $$stamp.gitMajor=1 -X $$stamp.gitMinor=$${minor%%.*}" tool
endef

.PHONY: control-plane
control-plane: ## etcd, the API server, its controllers, kubectl and helm, from source
ifndef KUBEBUILDER_ASSETS
	$(call build-tools,tests/cluster,$(ASSETS))
	@ln -sf server $(ASSETS)/etcd
	@cd tests/helm && go build -o $(ASSETS)/ -ldflags "-s -w" tool
endif

.PHONY: cluster
cluster: control-plane ## a control plane with the gate in front, left running for you
	@$(CARGO) build --quiet --locked
	@$(CARGO) run --quiet --locked --features control-plane --example cluster

# Everything but Kubernetes itself is the newest one's.
.PHONY: test-oldest
test-oldest: control-plane ## the tests on a real control plane of the oldest Kubernetes that is supported
	$(call build-tools,tests/cluster/oldest,$(OLDEST))
	@ln -sf $(ASSETS)/server $(OLDEST)/etcd
	@ln -sf $(ASSETS)/csi-attacher $(ASSETS)/kwok $(ASSETS)/helm $(OLDEST)/
	KUBEBUILDER_ASSETS=$(OLDEST) $(CARGO) test --locked --features control-plane --test end_to_end -- --test-threads 2

# Two at a time: each test has a control plane of its own, some 650 MB.
.PHONY: end-to-end
end-to-end: control-plane ## tests on a real control plane
	@set -o pipefail; $(CARGO) test --locked --features control-plane --test end_to_end -- --test-threads 2 --show-output 2>&1 \
	  | tee target/end-to-end.log

.PHONY: image
image: ## the container image, without a daemon: target/image/fencegate.oci.tar
	@image/build.sh

.PHONY: image-test
image-test: image ## the image taken apart, and the program run from it
	@set -o pipefail; $(CARGO) test --locked --features image --test image 2>&1 | tee target/image.log

.PHONY: doc
doc: ## the documentation builds, without broken links
	RUSTDOCFLAGS="$(STRICT)" $(CARGO) doc --locked --no-deps --document-private-items

# The closing line, in the form of `cargo test`, for all test binaries together.
.PHONY: summary
summary:
	@awk '/^test result:/ {passed += $$4; failed += $$6; ignored += $$8} \
	  END {printf "test result: %s. %d passed; %d failed; %d ignored; 0 measured; 0 filtered out\n", \
	       failed ? "FAILED" : "ok", passed, failed, ignored; exit failed > 0 || passed == 0}' target/test.log target/end-to-end.log target/image.log

.PHONY: bench
bench: ## what a decision costs
	$(CARGO) bench --locked

# Both sides of ten thousand connections are files of ours.
.PHONY: soak
soak: release ## honest calls beside floods, slow clients and garbage, for a minute
	@$(CARGO) build --quiet --locked --example soak
	@ulimit -n 65536 2>/dev/null || ulimit -n $$(ulimit -Hn); target/debug/examples/soak

.PHONY: release
release: ## the optimised binary, target/release/fencegate
	$(CARGO) build --locked --release

SHELL := bash
