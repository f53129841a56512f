# The front door: one line per target, no logic. `make train BATCH_SIZE=2` passes any setting on, and
# `make monitor NAME=x ONCE=1` any option of the task: tasks.py reads both from MAKE_SETTINGS.
PYTHON ?= python3
INV := .venv/bin/inv
# A .venv that does not run here, was made in another folder or was only half filled is made ready again.
ifneq ($(shell .venv/bin/python -IS sft/host/bootstrap/sound.py 2>/dev/null),sound)
.PHONY: $(INV) .venv/.dev
endif
export MAKE_SETTINGS := $(MAKEOVERRIDES)
# No environment's Python starts with the first one, and the programs below find their modules with neither.
unexport PYTHONHOME PYTHONSAFEPATH
# Standard output is the task's: `make plan JSON=1 >plan.json` may come after a change that renews .venv first.
MACHINES_PYTHON := $(subst $() ,\ ,$(PYTHON))
BOOTSTRAP := command -v $(MACHINES_PYTHON) >/dev/null || { \
  echo "PYTHON=$(PYTHON): not found; install it, on Debian and Ubuntu: sudo apt install python3" >&2; exit 2; }; \
  >&2 $(MACHINES_PYTHON) sft/host/bootstrap/__main__.py
.DEFAULT_GOAL := help
TARGETS := help setup bundle test-env rows plan train resume demo manifest monitor stop logs evaluate bench check test soak docs \
  constraints clean
.PHONY: $(TARGETS)
# Otherwise `make stop older` would stop the latest run first, and say then that there is no `older`.
$(foreach word,$(filter-out $(TARGETS) $(INV) .venv/.dev,$(MAKECMDGOALS)),$(error \
  $(word): is not a target: `make` lists them, and NAME=$(word) would name a run))

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(if $(TORCH_BACKEND)$(OFFLINE),renewed,$(INV)) ## environment, .env, folders, downloads
	@$(INV) setup

bundle: $(INV) ## all that `make setup OFFLINE=1` needs (PYTHON_VERSION=3.12)
	@$(INV) bundle

test-env: $(INV) ## can this run start: a line for each check (JSON=1)
	@$(INV) test-env

rows: $(INV) ## rows as they will be trained (INDEX=n LONGEST=1 CHECK=1)
	@$(INV) rows

plan: $(INV) ## does it fit, how long will it take (GPU=4090 GPUS=4 JSON=1)
	@$(INV) plan

train: $(INV) ## fine-tune with .env, or resume a stopped run (FROM=run)
	@$(INV) train

resume: $(INV) ## continue an unfinished run with its own settings (NAME=run)
	@$(INV) resume

manifest: $(INV) ## a file for another scheduler (KIND=kubernetes|skypilot)
	@$(INV) manifest '$(KIND)'

demo: $(INV) ## the same on any CPU: tiny model, generated data, two nodes
	@$(INV) demo

monitor: $(INV) ## watch the run (NAME=run ONCE=1 JSON=1)
	@$(INV) monitor

stop: $(INV) ## finish the step, save a checkpoint, end (NAME=run)
	@$(INV) stop

logs: $(INV) ## the logs of every node (NAME=run FOLLOW=1 LINES=100 NODE=7)
	@$(INV) logs

evaluate: $(INV) ## evaluate the final model of a finished run (NAME=run)
	@$(INV) evaluate

bench: $(INV) ## compare packed with padded steps on this CPU
	@$(INV) bench

check: .venv/.dev ## ruff, mypy, import-linter, vermin
	@$(INV) check

test: .venv/.dev ## every test this machine can run (OPTIONS="-k words")
	@$(INV) test

soak: .venv/.dev ## kill and stop runs, fill disks, often (OPTIONS="--seed N")
	@$(INV) soak

docs: $(INV) ## write the generated parts of docs/ and .env.example
	@$(INV) docs

# Only a missing environment is made: one that is out of date cannot always be renewed before the constraints are.
constraints: $(if $(wildcard .venv/.dev),,.venv/.dev) ## write the newest versions of all packages to constraints.txt
	@$(INV) constraints

clean: ## remove .venv, caches, containers, images; asks first (YES=1)
	@$(MACHINES_PYTHON) -m sft.host.bootstrap.clean

# While a run is at work with the packages as they are, these do not wait for newer ones.
monitor stop logs: BOOTSTRAP += --as-is

$(INV): pyproject.toml constraints.txt
	@$(BOOTSTRAP)

.venv/.dev: pyproject.toml constraints.txt
	@$(BOOTSTRAP) --dev

# TORCH_BACKEND=cu126 or OFFLINE=1 behind `make setup` counts for an environment that is there, too.
.PHONY: renewed
renewed:
	@$(BOOTSTRAP)
