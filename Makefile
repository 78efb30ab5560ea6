# make demo | test | lint | unit | molecule S=name | scenarios | chaos | stacks S=name | bench | demo-clean | docs | lock
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON := /usr/bin/python3
VENV := .venv
RUN := PATH=$(CURDIR)/$(VENV)/bin:$$PATH
LAB := tests/lab/lab
# What a bare Debian or Ubuntu lacks; `tests/lab/lab check` names what is still missing.
PACKAGES := python3-venv mmdebstrap systemd-container iproute2 iptables openssh-client \
  gcc libc6-dev gpg gpg-agent gpgv debian-archive-keyring zstd
# Hosts spend much of their time waiting: a file more than there are cores.
JOBS := $(shell echo $$(( $$(nproc) + 1 )))
SCENARIOS := $(notdir $(patsubst %/,%,$(dir $(wildcard molecule/*/molecule.yml))))

.PHONY: help deps lint chaos stacks docs unit molecule scenarios test demo demo-clean bench lock

help:
	@sed -n '1s/^# //p' Makefile

# --- what is needed ------------------------------------------------------------------------------
deps: .cache/system $(VENV)/.ready

.cache/system: Makefile
	@echo "==> system packages"
	@mkdir -p .cache
	@missing=(); for p in $(PACKAGES); do dpkg-query -Wf '$${Status}' $$p 2>/dev/null | grep -q ' installed' || missing+=($$p); done; \
	  if (( $${#missing[@]} )); then echo "    installing $${missing[*]}"; export DEBIAN_FRONTEND=noninteractive; \
	    apt-get -qq update && apt-get -qq install -y --no-install-recommends "$${missing[@]}" >/dev/null; fi
	@touch $@

$(VENV)/.ready: requirements/dev.txt | .cache/system
	@echo "==> Python tools (about a minute)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

# --- the parts -------------------------------------------------------------------------------------
lint: deps
	@echo "==> ruff"; $(RUN) ruff check . && $(RUN) ruff format --check .
	@echo "==> mypy"; $(RUN) mypy
	@echo "==> ansible-lint"; $(RUN) ansible-lint --offline --strict
	@echo "==> ansible-doc"; $(RUN) tests/tools/ansible-doc-all

unit: deps
	@echo "==> unit tests"; $(RUN) pytest tests/unit

molecule: deps
	@$(RUN) tests/tools/molecule-all $(or $(S),$(SCENARIOS))

scenarios: deps
	@echo "==> the lab itself"; $(RUN) pytest tests/lab/tests
	@echo "==> the lab's parts and the scenarios, $(JOBS) files at a time"
	@$(RUN) pytest -m "not chaos and not heavy" -n $(JOBS) --dist loadfile tests/lab/mirror tests/lab/driver tests/lab/toolkit tests/scenarios

chaos: deps
	@echo "==> killed runs, power cuts, full disks, random lives, and specs made fifty times under live engines"
	@$(RUN) pytest -m chaos -n $(JOBS) --dist loadfile tests/scenarios

stacks: deps
	@echo "==> the shipped stacks with their real software"
	@$(RUN) pytest -m heavy -n $(JOBS) --dist loadfile $(if $(S),tests/scenarios/test_stack_$(S).py,tests/scenarios)

test: lint unit scenarios molecule
	@echo "==> all tests passed"

bench: deps
	@missed=0; $(RUN) python tests/bench.py || missed=1; $(RUN) python tests/bench_shipped.py; exit $$missed

# --- the demonstration --------------------------------------------------------------------------------
demo: deps
	@$(RUN) python tests/demo.py

demo-clean:
	@$(LAB) destroy --missing-ok demo1
	@$(LAB) mirror down
	@echo "demo host removed; bases stay cached in /var/cache/gpulab-lab for the next time"

# --- maintenance ----------------------------------------------------------------------------------------
docs: deps
	@$(RUN) python tests/tools/findings_doc.py
	@$(RUN) python tests/tools/stack_pages.py

lock: deps
	@cd requirements && for f in dev:3.11 bootstrap:3.10 target:3.10; do $(CURDIR)/$(VENV)/bin/uv pip compile -q --upgrade --generate-hashes \
	  $$([ $${f%:*} = bootstrap ] && echo --universal) --python-version $${f#*:} --no-emit-index-url --no-emit-find-links --no-header \
	  $${f%:*}.in -o $${f%:*}.txt; done
