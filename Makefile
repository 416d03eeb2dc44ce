# mirrorfleet: `make` prints what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.DELETE_ON_ERROR:

BIN := .venv/bin
# The distribution's own where it is new enough: it is built with all optimizations, and one that was compiled on the
# machine, as pyenv does, often is not and takes half as long again for everything that is done here.
PYTHON = $(shell for python in /usr/bin/python3 python3; do \
    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
# What runs the playbooks. Python 3.12 or newer may have the newest ansible-core, requirements/newest-playbooks.txt.
LOCK := requirements/playbooks.txt
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
say = printf '\033[1m==> %s\033[0m\n' "$(1)"

# What a control node needs from Debian; and for the local fleet, containers.
DEBIAN_PACKAGES := python3-venv openssh-client
SANDBOX_DEBIAN_PACKAGES := podman crun runc netavark aardvark-dns iptables nftables mmdebstrap uidmap
# The tools that tests call (minisign and signify-openbsd verify the signed list, bind9-utils has named-checkzone for its
# zone fragment, chromium looks at its pages).
TESTS_DEBIAN_PACKAGES := git openssl rsync minisign signify-openbsd bind9-utils chromium fonts-dejavu-core

export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
# Compiled once, whatever the caller's shell says, and out of the roles, which are copied to hosts.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(CURDIR)/build/pycache
export PATH := $(CURDIR)/.venv/bin:$(PATH):/usr/sbin:/sbin

.PHONY: help
help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ------------------------------------------------------------------------------------------------ set-up
.PHONY: setup setup-sandbox setup-tests
setup: build/.debian-packages build/.venv build/.collections  ## install what the control node of a real fleet needs

setup-sandbox: setup build/.debian-packages-sandbox  ## and what the local fleet needs

setup-tests: setup-sandbox build/promtool build/prometheus build/amtool build/nginx build/.venv-tests build/.clients  ## and what lint, tests and benchmarks need

build/.debian-packages: PACKAGES = $(DEBIAN_PACKAGES)
build/.debian-packages-sandbox: PACKAGES = $(SANDBOX_DEBIAN_PACKAGES)
build/.debian-packages-tests: PACKAGES = $(TESTS_DEBIAN_PACKAGES)
# One apt at a time.
build/.debian-packages-sandbox: | build/.debian-packages
build/.debian-packages-tests: | build/.debian-packages-sandbox
build/.debian-packages build/.debian-packages-sandbox build/.debian-packages-tests: Makefile
	@mkdir -p build
	missing=$$(for p in $(PACKAGES); do
	    dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done)
	if [ -n "$$missing" ]; then
	    $(call say,installing Debian packages: $$missing)
	    [ -z "$(SUDO)" ] || command -v sudo >/dev/null || {
	        echo "These Debian packages are missing and neither root nor sudo is here: $$missing." \
	             "Ask an administrator to run: apt-get install $$missing" >&2; exit 1; }
	    $(SUDO) apt-get -q update >build/apt.log 2>&1 &&
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $$missing \
	        >>build/apt.log 2>&1 || { tail -20 build/apt.log >&2; exit 1; }
	fi
	touch $@

# The tests' own: these packages would start servers here, so only one program each is taken out of them.
build/promtool build/prometheus: PACKAGE = prometheus
build/amtool: PACKAGE = prometheus-alertmanager
build/promtool build/prometheus build/amtool: build/.debian-packages-tests
	@$(call say,taking $(@F) out of the package $(PACKAGE))
	folder=$$(mktemp -d build/.$(@F)-XXXXXX); trap 'rm -rf "$$folder"' EXIT
	(cd "$$folder" && { apt-get -q download $(PACKAGE) || { $(SUDO) apt-get -q update && apt-get -q download $(PACKAGE); }; }) \
	    >$@.log 2>&1 || { tail -5 $@.log >&2; exit 1; }
	dpkg-deb --extract "$$folder"/$(PACKAGE)_*.deb "$$folder"
	mv "$$folder/usr/bin/$(@F)" $@ && touch $@

build/nginx: PACKAGES = nginx nginx-common libnginx-mod-http-js libnginx-mod-http-geoip2 libmaxminddb0
build/nginx: build/.debian-packages-tests
	@$(call say,taking nginx out of its packages)
	folder=$$(mktemp -d build/.$(@F)-XXXXXX); trap 'rm -rf "$$folder"' EXIT
	(cd "$$folder" && { apt-get -q download $(PACKAGES) || { $(SUDO) apt-get -q update && apt-get -q download $(PACKAGES); }; }) \
	    >$@.log 2>&1 || { tail -5 $@.log >&2; exit 1; }
	for package in "$$folder"/*.deb; do dpkg-deb --extract "$$package" "$$folder/root"; done
	rm -rf $@ && mv "$$folder/root" $@ && touch $@

build/.venv: $(LOCK) | build/.debian-packages
	@$(call say,installing the pinned Python packages into .venv)
	[ -n "$(PYTHON)" ] || { echo "Python 3.11 or newer is needed; python3 is $$(python3 --version 2>&1). \
	    Next: install one and run this again with PYTHON=path." >&2; exit 1; }
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

build/.venv-tests: requirements/control.txt | build/.venv build/.debian-packages-tests
	@$(call say,installing the Python packages of the tests into .venv)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

# The clients of the tests are apart: they disagree with the control node's packages about versions.
build/.clients: requirements/clients.txt | build/.venv
	@$(call say,installing the clients of the tests into build/clients)
	[ -x build/clients/bin/python ] || $(PYTHON) -m venv build/clients
	build/clients/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

# Galaxy where it answers, the `ansible` wheel (which carries the same versions) where not.
build/.collections: requirements.yml requirements/install_collections.py requirements/collections.sha256 | build/.venv
	@$(call say,installing the Ansible collections of requirements.yml)
	$(BIN)/python requirements/install_collections.py requirements.yml build/collections requirements/collections.sha256
	touch $@

.PHONY: lock
lock: build/.venv-tests  ## write the hash-locked requirement files anew (UPGRADE=1 moves the pins)
	@sh requirements/lock.sh

# ---------------------------------------------------------------------------------------------- the demo
.PHONY: demo demo-page demo-down
demo: setup-sandbox  ## a local fleet, provisioned, synced, published and used by pip and uv
	@playbooks/demo.sh up

demo-page:  ## its status page, in a browser of this machine
	@playbooks/demo.sh page

demo-down:  ## remove the local fleet
	@playbooks/demo.sh down

# --------------------------------------------------------------------------------------------- a real fleet
.PHONY: check-inventory
check-inventory: build/.venv  ## tell all that is wrong with an inventory, without its hosts (INVENTORY=path, SARIF=path)
	@$(BIN)/python playbooks/check_inventory.py $(if $(SARIF),--sarif $(SARIF)) $(INVENTORY)

# ------------------------------------------------------------------------------------------------- tests
.PHONY: test test-quick test-long lint unit faults picture
lint: setup-tests  ## ansible-lint (production), yamllint, ruff, mypy
	@$(call say,lint)
	$(BIN)/ruff check --quiet . && $(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/yamllint --strict .
	$(BIN)/ansible-lint --strict -q

faults: setup-tests  ## the fault tests on this machine; `make test` runs them on Debian 13 and 12
	@$(BIN)/pytest tests/faults --numprocesses 2

unit: setup-tests  ## everything that needs no host: unit, property, template and browser tests
	@$(call say,tests without hosts)
	$(BIN)/pytest tests/unit tests/browser tests/differential --numprocesses 2 --quiet

# What runs whole playbooks is marked slow, and left to `make unit`.
test-quick: setup-tests  ## for the loop of work, three minutes at most: what needs no host and is not slow
	@$(BIN)/pytest tests/unit tests/browser --numprocesses 2 --quiet -m 'not slow'

# By chance a fault may need many tries: as many as fit into some 90 minutes on two cores.
test-long: export TIMES ?= 20
test-long: export UPSTREAMS ?= 250
test-long: setup-tests  ## tests of chance, TIMES=20 as many kills and examples, 250 made-up upstreams: not for CI
	@$(call say,$(TIMES) times as many kills and examples of properties)
	$(BIN)/pytest tests/faults/test_kills.py tests/unit tests/differential --numprocesses 2 --quiet -m 'chance'

# The longest first: the fleet, the fault tests and the roles' scenarios, lint, everything without hosts. In this order, and
# none waits long behind a long one: worksteal lets the last of them wait to the end. Three at a time on two cores, for a
# scenario waits a fifth of its time: for hosts that start, for timers, for rounds of a monitor.
test: setup-tests  ## everything: lint, tests without hosts, fault tests, a scenario per role, the whole fleet
	@$(call say,tests; logs of the scenarios are in build/log)
	$(BIN)/pytest tests/scenarios tests/lint tests/unit tests/differential tests/browser --numprocesses 3 --dist load --maxschedchunk 1 --durations 15

picture: setup-tests  ## docs/status-page.png, for the README: the status page of a made-up fleet
	@PYTHONPATH=src:tests $(BIN)/python tests/browser/picture.py

# --------------------------------------------------------------------------------------------- benchmarks
# One after the other: each wants the machine to itself.
.PHONY: bench
bench:  ## all benchmarks (SIZE=full for documents)
	@$(MAKE) bench-list
	$(MAKE) bench-redirect
	$(MAKE) bench-inventory
	$(MAKE) bench-sync
	$(MAKE) bench-web

.PHONY: bench-list
bench-list: setup-tests  ## measure the list's documents and the prober (SIZE=quick or full)
	@$(BIN)/python benchmarks/list.py
	$(BIN)/python benchmarks/probe.py

.PHONY: bench-redirect
bench-redirect: setup-tests  ## what sending clients to mirrors costs, and how well the choice keeps shares (SIZE=full for documents)
	@$(call say,benchmark of the redirector)
	$(BIN)/python benchmarks/redirect.py

.PHONY: bench-inventory
bench-inventory: setup-tests  ## what reading a fleet costs, and evaluating every input of every host (SIZE=full for documents)
	@$(call say,benchmark of the inventory)
	$(BIN)/python benchmarks/inventory.py

.PHONY: bench-sync
bench-sync: setup-tests  ## what syncing, publishing and caching cost, beside rsync, bandersnatch, devpi and proxpi (SIZE, PARTS)
	@$(call say,benchmark of syncing)
	$(BIN)/python benchmarks/sync.py

.PHONY: bench-web
bench-web: setup-tests  ## a mirror's web server beside bare nginx and other index servers (SIZE=full for documents)
	@$(call say,benchmark of the web server)
	$(BIN)/python benchmarks/web.py

.PHONY: clean
clean: demo-down  ## remove the local fleet, its images and build/ (not .venv)
	@playbooks/demo.sh images-down
	rm -rf build
