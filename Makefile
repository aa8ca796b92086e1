# s3vol. The work is done by cargo and by the scripts in plugin/; this file only names it.

.DEFAULT_GOAL := help
CARGO ?= cargo
# Seconds that one test lane may take before it is ended.
LANE_SECONDS ?= 1500

.NOTPARALLEL:
.PHONY: help build check test test-core test-posix test-apps soak plugin plugin-rootfs demo bench clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build the program for this machine
	$(CARGO) build --locked

check: ## Formatting and lints
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

test: test-core test-posix ## All tests but the long ones, a real dockerd and the POSIX suites included (needs root)

test-core: ## Only what is no suite of others
	./plugin/test.sh test $(LANE_SECONDS)

test-posix: ## Only the POSIX suites, against a mounted volume
	./plugin/test.sh posix $(LANE_SECONDS)

test-apps: ## Real programs on a mounted volume, databases included
	./plugin/test.sh apps $(LANE_SECONDS)

soak: ## Everything that takes long
	./plugin/test.sh soak 86400

plugin-rootfs: ## Lay out the managed plugin in build/plugin
	./plugin/rootfs.sh

plugin: plugin-rootfs ## Build the managed plugin and install it into the running Docker engine
	./plugin/install.sh

demo: plugin-rootfs ## Show it: a volume, its files as plain objects, and back; leaves nothing behind
	./plugin/demo.sh

bench: ## Print the figures of the benchmark; PART=near, far, directory, idle or million runs one
	$(CARGO) bench --locked --bench figures -- $(PART)

clean: ## Remove what was built
	$(CARGO) clean
	rm -rf build
