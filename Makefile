# The commands of the project. `make` alone prints them. `verify` never writes; `fix` does.
SHELL := /bin/bash
PY := .venv/bin/python
CODE := bgf statestore failover benchmarks tests setup.py packaging deploy

.PHONY: help setup setup-bench setup-bpf setup-heat openstack-test demo test page-test simulate model fuzz verify fix bench bench-failover \
	bench-media soak soak-control chaos bpf-check bpf clean \
	deb deb-test image image-test

help:
	@echo 'make demo       set up, run the lab cluster, kill a gateway under 100 real calls, show the outage'
	@echo 'make test       set up, run all tests, fast ones first'
	@echo 'make page-test  the status page in a real browser (installs chromium), with pictures in demo/page'
	@echo 'make openstack-test  a cluster on a real OpenStack control plane (OPENSTACK_LAB=../shared/openstack-lab)'
	@echo 'make simulate   the state plane in 10,000 simulated clusters; failing seeds are printed (FIRST=1 COUNT=10000)'
	@echo 'make model      the formal model of view change, migration and fencing, checked by spin'
	@echo 'make fuzz       libFuzzer on every message parser of the state plane, our own fuzzer on control'
	@echo 'make verify     style, types, walls; never writes'
	@echo 'make fix        repair style'
	@echo 'make bench      the benchmarks, quick forms'
	@echo 'make bench-failover  the figures of a failover, 20 runs each, with a picture in demo/; goes on where it stopped'
	@echo 'make bench-media  the packet path beside its peers, with a picture in demo/ (QUICK=--quick)'
	@echo 'make soak       the packet path at half capacity, every packet accounted for (MINUTES=10)'
	@echo 'make soak-control  calls through Kamailio, the owner killed at every step of every exchange (forty minutes; KILLS= PASSED= SLICE=)'
	@echo 'make chaos      every fault on a standing lab, with what must hold after each (TIMES=1 SEED=1 PREVIOUS=tag, fifteen minutes)'
	@echo 'make bpf-check  rebuild the packet programs with clang and compare with the committed ones'
	@echo 'make bpf        rebuild the packet programs and write them'
	@echo 'make deb        the Debian package, dist/bgf_*.deb, and its test in a bare Debian 12 (deb-test)'
	@echo 'make image      a Debian 12 cloud image with the package in it, dist/bgf_*.qcow2'
	@echo 'make image-test boots the image twice under QEMU and calls through it (ACCEL=tcg: pure emulation; BGF_PATIENCE=4: on a busy machine)'
	@echo 'make setup      only the set-up'
	@echo 'make clean      remove what was built'

setup:
	@scripts/setup.sh

setup-bench:
	@scripts/setup.sh bench

setup-heat:
	@scripts/heat-parser.sh >/dev/null

setup-bpf:
	@scripts/setup.sh bpf

demo: setup
	@mkdir -p demo
	@.venv/bin/bgfctl drill power-off --json demo/report.json --plot demo/outage.png

test: setup setup-heat
	@$(PY) -m pytest tests/test_house.py tests/unit tests/contract tests/simulation tests/kernel tests/integration

OPENSTACK_LAB ?= ../shared/openstack-lab
openstack-test: setup
	@scripts/openstack-test.sh $(OPENSTACK_LAB)

page-test:
	@scripts/setup.sh page
	@$(PY) -m pytest tests/page

FIRST ?= 1
COUNT ?= 10000
simulate: setup
	@scripts/simulate.sh $(FIRST) $(COUNT)

model: setup
	@scripts/model.sh

fuzz: setup
	@scripts/fuzz.sh

verify: setup
	@.venv/bin/ruff check --no-cache $(CODE)
	@.venv/bin/ruff format --no-cache --check $(CODE)
	@.venv/bin/mypy --cache-dir=/dev/null
	@$(PY) -B -m pytest -p no:cacheprovider tests/test_house.py

fix: setup
	@.venv/bin/ruff check --fix $(CODE)
	@.venv/bin/ruff format $(CODE)
	@.venv/bin/bgf config reference > docs/configuration.md

bench: setup-bench
	@$(PY) -m benchmarks.statestore --quick
	@$(PY) -m benchmarks.failover --quick
	@$(PY) -m benchmarks.media --quick
	@$(PY) -m benchmarks.control --quick

bench-failover: setup-bench
	@mkdir -p demo
	@$(PY) -m benchmarks.failover --resume --json demo/failover.json --plot demo/failover.png

QUICK ?=
bench-media: setup
	@mkdir -p demo
	@$(PY) -m benchmarks.media $(QUICK) --json demo/media.json --plot demo/media.png

MINUTES ?= 10
soak: setup
	@$(PY) -m benchmarks.media_soak --minutes $(MINUTES)

# KILLS='-k "pcscf and early"' plays some; PASSED=FILE leaves out what has passed and notes what passes; SLICE=5 stops after
# five minutes, to be gone on with
KILLS ?=
PASSED ?=
SLICE ?=
soak-control: setup
	@BGF_KILLS=all $(PY) -m pytest tests/integration/test_kamailio.py tests/integration/test_kamailio_kills.py \
		$(if $(PASSED),--passed $(PASSED)) $(if $(SLICE),--minutes $(SLICE)) $(KILLS)

TIMES ?= 1
SEED ?= 1
# The version that a rolling upgrade begins with: the newest tag, or else a commit from before the first.
PREVIOUS ?= $(shell git describe --tags --abbrev=0 HEAD^ 2>/dev/null || echo dcdaef6)
chaos: setup
	@mkdir -p demo
	@previous=$$(scripts/previous.sh $(PREVIOUS)) && .venv/bin/bgfctl chaos --times $(TIMES) --seed $(SEED) \
		--previous $$previous --json demo/chaos.json --logs demo/chaos-logs

bpf-check: setup-bpf
	@scripts/bpf-build.sh --check

bpf: setup-bpf
	@scripts/bpf-build.sh

deb:
	@packaging/build.sh
	@packaging/test.sh

deb-test:
	@packaging/test.sh

image:
	@packaging/build.sh
	@deploy/image/build.sh

ACCEL ?=
image-test: setup
	@deploy/image/setup.sh
	@ls dist/bgf_*.qcow2 >/dev/null 2>&1 || $(MAKE) --no-print-directory image
	@$(PY) deploy/image/test.py $(if $(ACCEL),--accel $(ACCEL))

clean:
	rm -rf build .venv *.egg-info demo dist
	find bgf statestore -name '*.so' -delete
