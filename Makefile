# sudo make run    installs what is missing, builds, runs the lab
# sudo make test   installs what is missing, builds, runs every test
# As an ordinary user the same commands work once the Debian packages are there; what needs root says so.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := build

PYTHON := .venv/bin/python
# How many 2 MiB pages `make run` and `make test` try to have.
HUGEPAGES ?= 512

# Under sudo the clone stays its owner's: what root has made in it is given to them.
owner := $(shell stat -c %u:%g .)
give_back = [[ $(owner) == 0:* || $$EUID != 0 ]] || find . -path ./.git -prune -o -user root -exec chown -h $(owner) {} + || true

.PHONY: build run test bench lint format clean setup packages hugepages

## run: the lab; without a terminal one demonstration that says what failed
run: build hugepages
	@$(PYTHON) -m pylwaftr.lab

## test: every stage, one line each
test: build hugepages
	@status=0; $(PYTHON) scripts/run_tests.py || status=$$?; $(give_back); exit $$status

## bench: packets per second and cycles per packet; more: .venv/bin/pylwaftr bench --help
bench: build hugepages
	@.venv/bin/pylwaftr bench forward

## lint: the stages that only read the source
lint: build
	@$(PYTHON) scripts/run_tests.py format lint layers

## format: rewrite the source as `make lint` wants it
format: .venv/installed
	@.venv/bin/clang-format -i $$(find csrc tests -name '*.[ch]pp')
	@.venv/bin/ruff format -q . && .venv/bin/ruff check -q --fix .

## build: .venv and everything compiled, in place
build: .venv/installed
	@$(PYTHON) setup.py -q build_ext --inplace
	@[[ .venv/bin/pylwaftr -nt pyproject.toml ]] || { \
	  $(PYTHON) -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	  touch .venv/bin/pylwaftr; }
	@$(give_back)

## setup: Debian packages, .venv, hugepages, build
setup: build hugepages

packages:
	@scripts/apt_packages.sh install

.venv/installed: requirements/run.txt requirements/build.txt requirements/dev.txt | packages
	@mkdir -p .build; exec 9>.build/lock; flock 9; \
	  $(PYTHON) -m pip --version >/dev/null 2>&1 || { echo "making .venv"; /usr/bin/python3 -m venv --clear .venv; }; \
	  echo "installing Python packages into .venv"; \
	  $(PYTHON) -m pip install -qq --disable-pip-version-check -r requirements/dev.txt; touch $@

# Without hugepages everything works, only slower: that is said and is no error.
hugepages:
	@scripts/hugepages.sh reserve --size 2M --count $(HUGEPAGES) --quiet && scripts/hugepages.sh mount --size 2M --quiet \
	  || echo "no hugepages: the router runs with --no-huge (works, slower)"

clean:
	@rm -rf build .build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis pylwaftr/api/generated
	@find pylwaftr -name '*.so' -delete; rm -f pylwaftr/_core.pyi pylwaftr/_build_info.py
	@$(MAKE) -s -C tests/native clean
