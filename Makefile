# The two commands that matter: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= python3
DISTRO ?= jazzy
VENV := $(CURDIR)/.venv
SOURCES := etuner_ros launch tools test setup.py
RUN := source tools/env.sh &&

.DEFAULT_GOAL := help

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo "  Settings: DISTRO=jazzy|kilted (ROS 2 from wheels, when none is sourced), PYTHON=python3.x, SEED=0, BOXES=1 (demo)"

.PHONY: setup
setup:  ## make the environment (.venv); resumable
	@command -v $(PYTHON) >/dev/null || { echo "etuner_ros: Python is missing; install Python 3.10 or newer (Debian, Ubuntu: sudo apt install python3 python3-venv python3-dev)."; exit 1; }
	@$(PYTHON) tools/bootstrap.py --target "$(VENV)" --distro $(DISTRO)

.PHONY: build
build: setup  ## build messages and package with colcon
	@tools/build.sh

SEED ?= 0
.PHONY: demo
demo: build  ## watch the robot learn from corrections (under 5 minutes); BOXES=1: things, by pointing; page in demo_output/
	@$(RUN) etuner demo --output demo_output --seed $(SEED) $(if $(BOXES),--things)

.PHONY: demo-seeds
demo-seeds: build  ## three runs of the demo, and the table over all of them
	@$(RUN) etuner demo --output demo_output --seeds 0 1 2

.PHONY: bench-serving
bench-serving: build  ## latency of predictions while idle, tuning and swapping; results/serving.json
	@$(RUN) etuner bench serving --output results

.PHONY: bench-switching
bench-switching: build  ## the choice of variants on made days; results/switching.json and .png
	@$(PYTHON) tools/bootstrap.py --target "$(VENV)" --distro $(DISTRO) --section bench
	@$(RUN) etuner bench switching --output results

.PHONY: soak
soak: build  ## swap, learn in peace, kill and damage, fill the disk, cut radio and power; results/soak.json
	@$(RUN) etuner soak --output results

.PHONY: bench
GROCERY ?=
bench: build  ## the table against every rival (hours; GROCERY=grocery128.tar adds the photographs)
	@$(RUN) etuner bench --output results --time $(if $(GROCERY),--grocery "$(GROCERY)")

# The core is computation and takes all cores. What uses DDS waits for other processes, too: two at a time; what plays in real time is alone.
.PHONY: test
test: build lint  ## check style and types, then run all tests
	@$(RUN) pytest -n logical --maxprocesses 8 --dist worksteal test/core; core=$$?; \
	  pytest -n 2 --dist worksteal -m 'not alone' test/launch test/nodes; nodes=$$?; \
	  pytest -m alone test/nodes && exit $$((core + nodes))

.PHONY: lint
lint: build  ## ruff and mypy
	@$(RUN) ruff check . && ruff format --check . && mypy

.PHONY: docs
docs: build  ## the documentation site in site/; a link that leads nowhere fails
	@$(PYTHON) tools/bootstrap.py --target "$(VENV)" --distro $(DISTRO) --section docs
	@$(RUN) NO_MKDOCS_2_WARNING=1 mkdocs build --quiet && echo "site/index.html"

.PHONY: stream
stream: setup  ## render the recorded stream anew (needs pybullet, which is installed)
	@$(PYTHON) tools/bootstrap.py --target "$(VENV)" --distro $(DISTRO) --section stream
	@"$(VENV)/bin/python" tools/render_stream.py

.PHONY: stream-long
stream-long: setup  ## render the longer recordings and videos of the benchmark into recordings/ (an hour)
	@$(PYTHON) tools/bootstrap.py --target "$(VENV)" --distro $(DISTRO) --section stream
	@for kinds in '' --second; do for sort in --long --video; do \
	  "$(VENV)/bin/python" tools/render_stream.py $$sort $$kinds || exit 1; done; done

.PHONY: stream-things
stream-things: setup  ## render the recording with many things a frame anew (minutes)
	@$(PYTHON) tools/bootstrap.py --target "$(VENV)" --distro $(DISTRO) --section stream
	@"$(VENV)/bin/python" tools/render_things.py

.PHONY: proposer
proposer: build  ## fetch the SSD that says where things may be (npm), and what runs it
	@$(PYTHON) tools/bootstrap.py --target "$(VENV)" --distro $(DISTRO) --section proposer
	@$(RUN) etuner fetch-proposer

.PHONY: networks
networks: setup  ## install the weights of larger networks (Lite1, Lite2) for `etuner choose`
	@$(PYTHON) tools/bootstrap.py --target "$(VENV)" --distro $(DISTRO) --section choose

.PHONY: clean
clean:  ## remove build products; the environment stays
	rm -rf build install log demo_output site

.PHONY: distclean
distclean: clean  ## remove the environment too
	rm -rf "$(VENV)"
