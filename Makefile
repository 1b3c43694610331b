# Everything runs from here. `make help` lists the targets.
SHELL := /bin/bash
unexport PYTHONDONTWRITEBYTECODE # compiled once, not at every start of a plugin, an agent or a test
VENV  := .venv
PY    := $(VENV)/bin/python
STAMP := $(VENV)/.stamp-$(shell sha256sum requirements/dev.txt | cut -c1-12)
KEEP  ?=
RUNNER ?= netns
SECONDS ?= 120
OUTAGE ?= 300
SEED  ?=
WORKERS ?= 2
IMAGE ?= routed:$(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' routed/__init__.py)

.PHONY: help install system demo test lab chaos containers images lint format bench lock samples clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

$(STAMP): requirements/dev.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --require-hashes -r requirements/dev.txt
	$(VENV)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

install: $(STAMP) ## virtual environment with the pinned, hash-checked dependencies

system: ## Debian packages of the real components (OVS, FRR, BIRD, containerd, ...); needs root
	@bash containerlab/packages.sh

demo: system install shim ## the main job on a fabric of two racks; KEEP=1 leaves it up
	@KEEP=$(KEEP) $(PY) -m containerlab.demo

test: system install shim ## the whole suite, system tests on real components included, in WORKERS=2 processes; needs root
	@if command -v go >/dev/null; then $(MAKE) --no-print-directory go-tools; fi # tests have no time to build them
	@bash containerlab/packages.sh browser
	@bash containerlab/packages.sh kernel || echo "no kernel of its own: the tests that need one are skipped"
	@$(PY) -m pytest --ignore tests/nic_lab -n $(WORKERS)

.PHONY: end-to-end
end-to-end: system install shim go-tools ## a whole cluster on the fabric, from its installation to the loss of a server; OUTAGE=300 seconds without an API server
	@$(PY) -m pytest tests/kube/test_end_to_end.py --outage $(OUTAGE)

chaos: system install shim ## random faults and pod churn on the fabric for SECONDS; SEED=n draws the same again; needs root
	@$(PY) -m tests.lab.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

lab: system install shim ## the fabric's tests; RUNNER=containerlab has containerlab and Docker run the fabric
	@$(if $(filter containerlab,$(RUNNER)),bash containerlab/packages.sh containers)
	@$(PY) -m pytest tests/lab --runner $(RUNNER) $(ARGS)

.PHONY: kernel-lab
kernel-lab: system install shim ## the tests that need a kernel with openvswitch, bonding and TC, in User-Mode Linux; needs root
	@bash containerlab/packages.sh kernel
	@$(PY) -m pytest tests/kernel $(ARGS)

.PHONY: nic-lab
nic-lab: system install shim ## the tests that need a NIC with SR-IOV, in QEMU on Debian's kernel; fetches both, 240 MB; needs root
	@$(PY) -m tests.nic_lab.packages
	@$(PY) -m pytest tests/nic_lab $(ARGS)

.PHONY: kernel-bench
kernel-bench: system install shim ## throughput and latency between pods beside other ways, in User-Mode Linux, as ratios; needs root
	@bash containerlab/packages.sh kernel-bench
	@$(PY) -m tests.bench.kernel $(ARGS)

containers: ## Debian packages that containerlab and the nodes' images need, where they are missing; needs root
	@bash containerlab/packages.sh containers

images: containers install shim ## the nodes' images, for `containerlab deploy`; BASE=debian:bookworm-slim builds on that
	@host=$$(containerlab/docker.sh start) && DOCKER_HOST=$$host BASE=$(BASE) containerlab/images/build.sh && \
		echo "export DOCKER_HOST=$$host" && \
		echo "$$(containerlab/fetch.sh) deploy -t containerlab/two-racks.clab.yml"

.PHONY: image
image: containers install shim ## the agent's image, for deploy/; IMAGE=registry/routed:tag names it, BASE=debian:bookworm-slim builds on that
	@host=$$(containerlab/docker.sh start) && DOCKER_HOST=$$host BASE=$(BASE) IMAGE=$(IMAGE) containerlab/images/build.sh agent

.PHONY: image-test
image-test: image ## the DaemonSet's tests with that image
	@DOCKER_HOST=$$(containerlab/docker.sh start) tests/image.sh $(IMAGE) $(PY) -m pytest tests/lab/test_daemonset.py

lint: install ## ruff, mypy --strict, import-linter
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

format: install ## let ruff fix what it can
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

.PHONY: shim
shim: build/routed-cni ## the CNI plugin: a static C program

build/routed-cni: deploy/cni/shim.c
	@mkdir -p build
	$(CC) -std=c11 -Os -static -Wall -Wextra -Werror -o $@ $<

.PHONY: go-tools
go-tools: install ## kube-apiserver, kubectl, helm, promtool, ... from pinned Go modules, once per release
	@$(PY) -m tests.kube.binaries
	@$(PY) -m tests.kube.plugins
	@$(PY) -m tests.kube.podresources
	@$(PY) -m tests.deploy.tools

.PHONY: manifests
manifests: install ## render deploy/kustomize anew from deploy/chart
	@$(PY) -m tests.deploy.render

.PHONY: matrix
matrix: system install shim ## every failure and what it costs; ARGS="--write docs/failure-matrix.md" keeps the figures
	@$(PY) -m tests.lab.matrix $(ARGS)

bench: system install shim ## ratios to other plugins and BGP speakers; ARGS="--write docs/performance.md" keeps them
	@$(PY) -m tests.bench $(ARGS)

lock: install ## refresh the hash-locked requirement files
	@$(VENV)/bin/pip install --quiet uv
	@$(VENV)/bin/uv pip compile -q pyproject.toml --extra kubernetes --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 -o requirements/run.txt
	@$(VENV)/bin/uv pip compile -q pyproject.toml --group dev --extra kubernetes --extra napalm --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 -o requirements/dev.txt

samples: install ## render the lab's ToRs and deploy/tor anew from their rack files
	@for tor in r1a r1b r2a r2b; do \
		$(VENV)/bin/routed tor-config --vendor frr --tor $$tor containerlab/racks/$${tor%?}.yaml >containerlab/configs/$$tor/frr.conf || exit; \
	done
	@$(VENV)/bin/routed tor-config --vendor frr --output-dir deploy/tor/frr containerlab/racks/r1.yaml
	@for vendor in sonic cumulus eos nxos junos srlinux; do \
		$(VENV)/bin/routed tor-config --vendor $$vendor --output-dir deploy/tor/$$vendor deploy/tor/$$vendor/rack.yaml || exit; \
	done

clean: ## remove what a run left: fabric, caches, build output
	@if [ -x $(PY) ]; then $(PY) -m containerlab.demo --down; $(PY) -m containerlab down --all; fi
	@containerlab/docker.sh stop --all
	@rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis
