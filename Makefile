# s3vol. The work is done by cargo and by the scripts in plugin/; this file only names it.

.DEFAULT_GOAL := help
CARGO ?= cargo
# Seconds that the tests of `test`, and of one lane alone, may run before they are ended; building comes on top.
TEST_SECONDS ?= 3000
LANE_SECONDS ?= 1500
# Seconds for which the soak runs simulated schedules.
SECONDS ?= 600
PREFIX ?= /usr/local

.NOTPARALLEL:
.PHONY: help build install check deny test test-core test-posix test-apps test-monitoring test-upgrade test-package test-examples \
  soak soak-coverage plugin plugin-rootfs deb release demo bench bench-peers clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build the program for this machine
	$(CARGO) build --locked

install: ## Install what the package has, for use without Docker's plugin manager; PREFIX=/usr/local, DESTDIR, S3VOL_BINARY
	@[ -n "$(S3VOL_BINARY)" ] || { set -x; $(CARGO) build --release --locked --bin s3vol; }
	./packaging/stage.sh "$(or $(S3VOL_BINARY),$(or $(CARGO_TARGET_DIR),target)/release/s3vol)" "$(DESTDIR)/" $(PREFIX)
	@test -e "$(DESTDIR)/etc/s3vol/environment" || \
	  install -D -m 0600 packaging/environment "$(DESTDIR)/etc/s3vol/environment"

check: ## Formatting and lints, as far as this toolchain has them; licences, sources and versions of crates
	@$(CARGO) fmt --version >/dev/null 2>&1 || rustup component add rustfmt || true
	@$(CARGO) clippy --version >/dev/null 2>&1 || rustup component add clippy || true
	@if $(CARGO) fmt --version >/dev/null 2>&1; then set -x; $(CARGO) fmt --check; \
	else echo "warning: rustfmt is not installed; the formatting is not checked"; fi
	@if $(CARGO) clippy --version >/dev/null 2>&1; then set -x; $(CARGO) clippy --locked --all-targets -- -D warnings; \
	else echo "warning: clippy is not installed; nothing is linted"; fi
	./plugin/deny.sh crates

deny: ## Licences, sources, versions and known vulnerabilities of all crates (cargo-deny)
	./plugin/deny.sh

test: ## All tests but the long ones, a real dockerd and the POSIX suites included (needs root)
	./plugin/test.sh $(TEST_SECONDS) core posix

test-core: ## The same without third-party suites
	./plugin/test.sh $(LANE_SECONDS) core

test-posix: ## Only the POSIX suites, against a mounted volume
	./plugin/test.sh $(LANE_SECONDS) posix

test-apps: ## Real programs on a mounted volume, databases included (Debian 12)
	./plugin/test.sh $(LANE_SECONDS) apps

test-monitoring: ## The alert rules and a scrape by Debian's Prometheus
	./plugin/test.sh $(LANE_SECONDS) monitoring

test-upgrade: ## From the version that landed last to this one and back, under programs that use volumes
	./plugin/test.sh $(LANE_SECONDS) upgrade

test-package: ## The Debian package: installed, used, upgraded, removed and purged on a copy of this machine (needs root)
	./tests/package/lane.sh

test-examples: ## Each file below examples/ as it stands: Compose, Swarm, Podman (Debian 12)
	./plugin/test.sh $(LANE_SECONDS) examples

soak: ## Everything that takes long; SECONDS=600 for the simulation alone, S3VOL_SOAK_SECONDS=7200 for two hosts
	S3VOL_SIMULATION_SECONDS=$(SECONDS) ./plugin/test.sh 86400 soak

soak-coverage: ## The share of lines that simulated schedules reach; SECONDS=600
	./plugin/coverage.sh $(SECONDS)

plugin-rootfs: ## Lay out the managed plugin in build/plugin
	./plugin/rootfs.sh

plugin: plugin-rootfs ## Build the managed plugin and install it into the running Docker engine
	./plugin/install.sh

deb: ## Make the Debian package in build/packages
	./plugin/deb.sh

release: ## Make what a release publishes for this architecture in build/release
	./plugin/release.sh

demo: plugin-rootfs ## Show it: a volume, its files as plain objects, and back; removes everything at the end
	./plugin/demo.sh

bench: ## Print the figures of the benchmark; PART=near, far, directory, idle, collect, durable, beside, grows or million runs one
	$(CARGO) bench --locked --bench figures -- $(PART)

bench-peers: ## Compare with ext4, s3fs and rclone over a store in memory (needs root); SCALE=1/8, PEERS, NAMES, ZEROFS=1
	./benches/peers/run.sh

clean: ## Remove what was built
	$(CARGO) clean
	rm -rf build
