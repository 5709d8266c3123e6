SHELL := bash
# The steps share one build folder and the machine's memory, so they run one after another even with
# -j.
.NOTPARALLEL:

CARGO ?= cargo
# In the checks warnings are errors. In a build by hand they stay warnings.
STRICT = -D warnings

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## run the demonstration on the built-in example cluster
	@$(CARGO) run --quiet --locked -- demo

.PHONY: test
# The histories here see each fault once.
test: CHAOS_TIME = 1
test: fmt clippy deny unit monitoring end-to-end chaos image-test doc summary ## run every check that CI runs, including those on a real control plane

.PHONY: test-fast
test-fast: fmt clippy unit doc ## run the checks that need only the Rust toolchain: the inner loop

.PHONY: fmt
fmt: ## check the formatting
	$(CARGO) fmt --all --check

.PHONY: clippy
clippy: ## run the lints, warnings as errors
	$(CARGO) clippy --locked --workspace --all-targets --all-features -- $(STRICT)

CARGO_DENY := target/tools/bin/cargo-deny
CARGO_DENY_BUILT := target/tools/cargo-deny-0.20.2.built
CARGO_MUTANTS := target/tools/bin/cargo-mutants
CARGO_MUTANTS_BUILT := target/tools/cargo-mutants-27.1.0.built
ADVISORY_DATABASES := $(or $(CARGO_HOME),$(HOME)/.cargo)/advisory-dbs

# The stem is the name and the version of a tool. Without optimisation and debug information the
# build takes a third of the time, and a check still takes only two seconds.
target/tools/cargo-%.built:
	@echo "building cargo-$*: a minute or two, once"
	@CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) install --quiet --locked --debug --force --root target/tools \
	  --version "=$(lastword $(subst -, ,$*))" cargo-$(firstword $(subst -, ,$*))
	@touch $@

# Advisories are checked only if their database was fetched before, because `make test` must not
# fail for an advisory that is published meanwhile. A workflow runs `make advisories` every week.
.PHONY: deny
deny: $(CARGO_DENY_BUILT) ## check the dependencies: licences, bans, sources, and known advisories
	$(CARGO_DENY) --locked check $(STRICT) licenses bans sources
	@if compgen -G "$(ADVISORY_DATABASES)/*/" >/dev/null; then \
	  set -x; $(CARGO_DENY) --locked --offline check $(STRICT) advisories; \
	else \
	  echo "advisories SKIPPED: there is no database in $(ADVISORY_DATABASES); make advisories fetches it"; \
	fi

.PHONY: advisories
advisories: $(CARGO_DENY_BUILT) ## fetch the advisory database and check the dependencies against it
	$(CARGO_DENY) --locked check $(STRICT) advisories

# The worlds of the properties are the same in every run, so that a run says something about the
# change it tests. `make properties` looks for new ones.
.PHONY: unit
unit: export PROPTEST_RNG_SEED ?= 1
unit: ## run the tests that need only this repository
	@mkdir -p target
	@set -o pipefail; $(CARGO) test --locked --workspace --no-fail-fast 2>&1 | tee target/test.log

WORLDS ?= 50000
.PHONY: properties
properties: ## hold the laws for new random worlds: WORLDS=50000 for each property
	PROPTEST_CASES=$(WORLDS) $(CARGO) test --locked --release --test properties

# If KUBEBUILDER_ASSETS names a folder with the binaries, those are used, as envtest does.
ASSETS := $(abspath target/cluster)
# The minor of the control plane that the other tests use.
NEWEST := $(shell sed -n 's/.*k8s.io\/kubernetes v\(1\.[0-9]*\)\..*/\1/p' tests/cluster/go.mod)

# Builds every tool of the Go module in folder $(1) into folder $(2). kubectl takes its own version
# from these linker flags.
define build-tools
	@mkdir -p $(2)
	@cd $(1) && version=$$(awk '$$1 == "k8s.io/kubernetes" {print $$2}' go.mod) && minor=$${version#v1.} && \
	  echo "building Kubernetes $$version: minutes the first time, a second afterwards" && \
	  stamp=k8s.io/component-base/version && \
	  go build -o $(2)/ -ldflags "-s -w -X $$stamp.gitVersion=$$version -X $$stamp.gitMajor=1 -X $$stamp.gitMinor=$${minor%%.*}" tool
endef

.PHONY: control-plane
control-plane: ## build the tools of the end-to-end tests from source: a control plane, kubectl, helm, krew and Prometheus
ifndef KUBEBUILDER_ASSETS
	$(call build-tools,tests/cluster,$(ASSETS))
	@ln -sf server $(ASSETS)/etcd
	@cd tests/helm && go build -o $(ASSETS)/ -ldflags "-s -w" tool
	@cd tests/helm-docs && go build -o $(ASSETS)/ -ldflags "-s -w" tool
	@cd tests/krew && go build -o $(ASSETS)/ -ldflags "-s -w" tool
	@cd tests/kube-state-metrics && go build -o $(ASSETS)/ -ldflags "-s -w" tool
	@cd tests/prometheus && go build -o $(ASSETS)/ -ldflags "-s -w" -tags remove_all_sd tool
endif

.PHONY: cluster
cluster: control-plane ## run a control plane with fencegate installed, until you stop it
	@$(CARGO) build --quiet --locked
	@$(CARGO) run --quiet --locked --features control-plane --example cluster

# Each test has its own control plane, about 650 MB, which mostly waits: three are enough for two cores.
END_TO_END = $(CARGO) test --locked --features control-plane --test end_to_end -- --test-threads 3 --show-output

.PHONY: end-to-end
end-to-end: control-plane ## run the tests on a real control plane
	@mkdir -p target
	@set -o pipefail; $(END_TO_END) 2>&1 | tee target/end-to-end.log

# Not in `make test`: the attach/detach controller forces a detach after six minutes.
.PHONY: test-slow
test-slow: control-plane ## run the end-to-end tests that wait for the forced detach: ten minutes
	$(CARGO) test --locked --features slow --test end_to_end doors::slow:: -- --show-output

# Not in `make test`: cert-manager takes minutes to build. CRDs, RBAC and webhooks are those of its chart.
CERT_MANAGER := $(abspath target/cert-manager)
.PHONY: cert-manager
cert-manager:
	@echo "building cert-manager: minutes the first time"
	@mkdir -p $(CERT_MANAGER) && rm -rf $(CERT_MANAGER)/chart
	@cd tests/cert-manager && go build -o $(CERT_MANAGER)/cert-manager -ldflags "-s -w" . && \
	  cp -r --no-preserve=mode \
	    "$$(go list -m -f '{{.Dir}}' github.com/cert-manager/cert-manager)/deploy/charts/cert-manager" $(CERT_MANAGER)/chart

.PHONY: test-cert-manager
test-cert-manager: control-plane cert-manager ## run the tests of the overlay cert-manager with cert-manager itself
	$(CARGO) test --locked --features cert-manager --test end_to_end cert_manager:: -- --show-output

# The rules are the `spec` of the object that is installed: there is no second copy.
RULES := charts/fencegate/files/monitoring/rules.yaml
.PHONY: monitoring
monitoring: PROMTOOL = $(or $(KUBEBUILDER_ASSETS),$(ASSETS))/promtool
monitoring: control-plane ## check the alerts, and test when each of them fires
	@mkdir -p target/monitoring
	@sed -n '1,/^spec:/d; s/^  //p' $(RULES) >target/monitoring/rules.yaml
	$(PROMTOOL) check rules --lint=all --lint-fatal target/monitoring/rules.yaml
	$(PROMTOOL) test rules monitoring/*.yaml

# What the dashboard shows during an outage, with the data of the test that goes through one.
.PHONY: dashboard-picture
dashboard-picture: export PANELS = $(abspath target/monitoring/panels.json)
dashboard-picture: control-plane ## draw the dashboard during an outage: docs/dashboard.svg
	@mkdir -p target/monitoring
	$(CARGO) test --locked --features control-plane --test end_to_end alerts_and_dashboard_tell_the_story_of_an_outage
	@$(CARGO) run --quiet --locked --example dashboard <$(PANELS) >target/monitoring/dashboard.svg
	@mv target/monitoring/dashboard.svg docs/dashboard.svg

# The bounds are WRITES (answered writes) and CHAOS_TIME (seconds), SEED repeats the choices of a
# run: `make chaos WRITES=100000 CHAOS_TIME=3600`.
CHAOS_TIME ?= 180
.PHONY: chaos
chaos: control-plane ## write to Nodes under faults, and check every stored version
	@mkdir -p target
	@set -o pipefail; CHAOS_TIME=$(CHAOS_TIME) $(CARGO) test --locked --features control-plane --test chaos -- --show-output 2>&1 | tee target/chaos.log

# The older minors have a module of their own, which `tests/cluster/pin.sh` writes. Only Kubernetes
# itself is older; the other tools are the same. About 20 minutes for each.
VERSIONS ?= $(notdir $(wildcard tests/cluster/1.*)) $(NEWEST)
.PHONY: test-versions
test-versions: ## run the end-to-end tests on every supported minor of Kubernetes: VERSIONS="1.30 1.37"
	@unset KUBEBUILDER_ASSETS; failed=0; for version in $(VERSIONS); do \
	  rm -f target/end-to-end-$$version.log; \
	  $(MAKE) --no-print-directory on-version VERSION=$$version || failed=1; \
	done; \
	for version in $(VERSIONS); do \
	  echo "$$version: $$(grep -s '^test result:' target/end-to-end-$$version.log || echo did not run)"; \
	done; exit $$failed

.PHONY: on-version
on-version: $(if $(filter $(NEWEST),$(VERSION)),control-plane,older-control-plane)
	@set -o pipefail; KUBEBUILDER_ASSETS=$(ASSETS)$(if $(filter $(NEWEST),$(VERSION)),,-$(VERSION)) \
	  $(END_TO_END) 2>&1 | tee target/end-to-end-$(VERSION).log

.PHONY: older-control-plane
older-control-plane: control-plane
	$(call build-tools,tests/cluster/$(VERSION),$(ASSETS)-$(VERSION))
	@ln -sf $(ASSETS)/server $(ASSETS)-$(VERSION)/etcd
	@for tool in csi-attacher kwok helm helm-docs krew validate-krew-manifest kube-state-metrics prometheus promtool; do ln -sf $(ASSETS)/$$tool $(ASSETS)-$(VERSION)/; done

.PHONY: image
image: ## build the container image, without a daemon: target/image/fencegate.oci.tar
	@image/build.sh

.PHONY: image-test
image-test: image ## unpack the container image, check it and run its program
	@set -o pipefail; $(CARGO) test --locked --features image --test image 2>&1 | tee target/image.log

.PHONY: doc
doc: ## build the API documentation, broken links as errors
	RUSTDOCFLAGS="$(STRICT)" $(CARGO) doc --locked --no-deps --document-private-items

# In the form of `cargo test`, for all test binaries together.
.PHONY: summary
summary: ## add up the test results of the last unit, end-to-end, chaos and image-test
	@awk '/^test result:/ {passed += $$4; failed += $$6; ignored += $$8} \
	  END {printf "test result: %s. %d passed; %d failed; %d ignored; 0 measured; 0 filtered out\n", \
	       failed ? "FAILED" : "ok", passed, failed, ignored; exit failed > 0 || passed == 0}' \
	  target/test.log target/end-to-end.log target/chaos.log target/image.log

.PHONY: model
model: ## explore every order of events around the gate, with it, without it and without each check
	@$(CARGO) run --quiet --locked --profile model --package fencegate-model

# Two to three hours on two cores. `FLAGS=--iterate` tries only what was not caught before,
# `FLAGS="--file src/policy/rules/lease.rs"` one file.
.PHONY: mutants
mutants: $(CARGO_MUTANTS_BUILT) ## change the code that decides, a line at a time: some test must notice
	CARGO_PROFILE_DEV_DEBUG=0 $(CARGO_MUTANTS) mutants --jobs 2 --output target $(FLAGS)

.PHONY: reference
reference: ## write docs/reference.md from the program's own help
	@$(CARGO) run --quiet --locked -- __reference >target/reference.md && mv target/reference.md docs/reference.md

.PHONY: chart-readme
chart-readme: control-plane ## write charts/fencegate/README.md from the comments in values.yaml
	@$(or $(KUBEBUILDER_ASSETS),$(ASSETS))/helm-docs --chart-search-root charts --sort-values-order file --log-level warning

.PHONY: bench
bench: ## measure what a decision costs
	$(CARGO) bench --locked

# etcd, the API server and the gate share this machine: they need 6 GiB of memory and a minute to fill.
.PHONY: scale
scale: release control-plane ## measure guarded writes in a large cluster: NODES=5000 PODS=150000 ATTACHMENTS=100000 ROUNDS=10
	@$(CARGO) build --quiet --locked --features control-plane --example scale
	@FENCEGATE=$(abspath target/release/fencegate) target/debug/examples/scale

# Not tools of the tests: built the first time that speeds are compared, in ten minutes.
OHA := target/tools/bin/oha
OHA_BUILT := target/tools/oha-1.16.0.built
GATEKEEPER := github.com/open-policy-agent/gatekeeper/v3@v3.23.1
KYVERNO := github.com/kyverno/kyverno@v1.19.1

$(OHA_BUILT):
	@echo "building oha: some minutes, once"
	@$(CARGO) install --quiet --locked --force --root target/tools --version "=$(lastword $(subst -, ,$(basename $(@F))))" oha
	@touch $@

# Builds program $(2) of the Go module $(3) as target/peers/$(1), in the module's own folder, where its
# own versions are pinned, and keeps its CRDs from folder $(4).
define build-peer
	@echo "building $(3): minutes the first time"
	@mkdir -p target/peers && rm -rf target/peers/$(1)-crds
	@module=$$(go mod download -json $(3) | sed -n 's/^\t"Dir": "\(.*\)",$$/\1/p') && \
	  cp -r --no-preserve=mode $$module/$(4) target/peers/$(1)-crds && \
	  cd $$module && go build -o $(abspath target/peers)/$(1) -ldflags "-s -w" $(2)
endef

.PHONY: peers
peers:
	$(call build-peer,gatekeeper,.,$(GATEKEEPER),charts/gatekeeper/crds)
	$(call build-peer,kyverno,./cmd/kyverno,$(KYVERNO),config/crds)

# The servers run on core 0; everything else, the API server included, on core 1.
.PHONY: speed
speed: release control-plane peers $(OHA_BUILT) ## compare the speed with a bare server, Gatekeeper and Kyverno: SECONDS=8 for each measurement
	@$(CARGO) build --quiet --locked --release --features control-plane --example speed
	@taskset -c 1 target/release/examples/speed

.PHONY: bench-cluster
bench-cluster: release control-plane ## measure what the API server and its users feel of the gate: ROUNDS=8 WRITES=200
	@$(CARGO) build --quiet --locked --features control-plane --example api_server
	@FENCEGATE=$(abspath target/release/fencegate) target/debug/examples/api_server

# The client and the server are on this machine: ten thousand connections are twenty thousand open
# files, and clients that are not optimised would take the CPU from the server.
.PHONY: soak
soak: release ## send valid reviews for a minute while floods, slow clients and garbage come in
	@$(CARGO) build --quiet --locked --profile model --example soak
	@ulimit -n 65536 2>/dev/null || ulimit -n $$(ulimit -Hn); target/model/examples/soak

# Coverage-guided, on one core. `make unit` runs the inputs in fuzz/corpus and fuzz/crashes.
TIME ?= 60
.PHONY: fuzz
fuzz: ## try to break the laws of hostile inputs, TIME=60 seconds for each TARGET= of fuzz/targets
	@fuzz/run.sh $(TIME) $(TARGET)

.PHONY: fuzz-corpus
fuzz-corpus: ## keep the inputs of the last fuzzing that reach new code: fuzz/corpus
	@fuzz/run.sh corpus $(TARGET)

.PHONY: release
release: ## build the optimised binary: target/release/fencegate
	$(CARGO) build --locked --release
