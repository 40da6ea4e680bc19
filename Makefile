# `make` alone lists the targets.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
LIGHT := .venv
DEV := .venv-dev
AUDIT := .venv-audit
CHECK := .venv-check
BUNDLE := bundles/demo.bundle
TEST_WORKERS ?= 3
TRAINING := demo-training

.DEFAULT_GOAL := help
.PHONY: help demo check test lint types imports pytest faults demo-bundle figures lock sbom audit docs format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(LIGHT)/.installed ## screen synthetic captures of 12 patients with the demo bundle; needs only Python 3.11
	$(LIGHT)/bin/python -m producer.demo --bundle $(BUNDLE) --out demo-output

check: $(CHECK)/.installed ## lint, types, import contract and the unit tests that need neither torch nor a server: about a minute
	$(CHECK)/bin/ruff check -q .
	$(CHECK)/bin/ruff format -q --check .
	$(CHECK)/bin/lint-imports
	$(CHECK)/bin/mypy -p contract -p db -p producer -p worker
	$(CHECK)/bin/python -m pytest tests/unit -q -n auto

test: lint types imports pytest ## lint, types, import contract and all tests

lint: $(DEV)/.installed
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .

types: $(DEV)/.installed
	$(DEV)/bin/mypy

imports: $(DEV)/.installed
	$(DEV)/bin/lint-imports

pytest: $(DEV)/.installed $(LIGHT)/.installed  # many tests wait for processes; the tests of one file share what they set up
	$(DEV)/bin/python -m pytest -n $(TEST_WORKERS) --dist loadfile --ignore tests/faults
	$(DEV)/bin/python -m pytest tests/faults -n 2 --dist loadfile  # apart: they cause failures, and wait for what follows

faults: $(DEV)/.installed ## run the fault tests at full size and write their figures into docs/reliability.md: one to two hours
	$(DEV)/bin/python -m pytest tests/faults --full-faults -rP
	$(DEV)/bin/python -m tests.faults.record

demo-bundle: $(DEV)/.installed ## train the demo bundle again: one to two hours on 2 cores
	$(DEV)/bin/screen synth $(TRAINING)/captures --patients 480 --captures 16 --seed 2026
	$(DEV)/bin/screen train $(TRAINING)/captures --recipe demo --out $(BUNDLE) --force \
		--cache $(TRAINING)/cache --checkpoint $(TRAINING)/checkpoint

PICTURE := chromium --headless --no-sandbox --disable-gpu --disable-background-networking --hide-scrollbars
figures: demo ## make the README's pictures from the demo's run; needs chromium
	mkdir -p docs/images
	SCREEN_DATABASE_URL=sqlite:///demo-output/screening.db $(LIGHT)/bin/screen review show 7 --html demo-output/case.html
	$(PICTURE) --user-data-dir=$$(mktemp -d) --window-size=1120,1180 --screenshot=docs/images/report.png demo-output/report.html
	$(PICTURE) --user-data-dir=$$(mktemp -d) --window-size=1120,1620 --screenshot=docs/images/case.png demo-output/case.html

COMPILE := $(DEV)/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
lock: $(DEV)/.installed ## resolve the dependencies again and write requirements/
	$(COMPILE) --upgrade pyproject.toml -o requirements/base.txt
	$(COMPILE) --upgrade --extra train --extra lite --extra dev -c requirements/base.txt pyproject.toml \
		-o requirements/dev.txt
	$(COMPILE) --extra check -c requirements/dev.txt pyproject.toml -o requirements/check.txt
	$(COMPILE) --extra train --extra lite --excludes requirements/gpu-only.txt -c requirements/dev.txt pyproject.toml \
		--no-annotate -o requirements/train-cpu.txt
	$(COMPILE) --excludes requirements/torch-libraries.excludes -c requirements/dev.txt requirements/torch-libraries.in \
		--no-annotate -o requirements/torch-libraries.txt
	$(COMPILE) --upgrade -c requirements/dev.txt requirements/build.in --no-annotate -o requirements/build.txt
	$(COMPILE) --upgrade -c requirements/dev.txt requirements/audit.in --no-annotate -o requirements/audit.txt

sbom: $(AUDIT)/.installed ## write sbom.json: what an installation consists of, from the lock, as CycloneDX
	$(AUDIT)/bin/cyclonedx-py requirements requirements/base.txt --pyproject pyproject.toml --mc-type application \
		--output-reproducible --of JSON -o sbom.json

# --strict: a package that the service does not know, or a service that does not answer, is no clean bill.
audit: $(AUDIT)/.installed ## look the locked packages up in the list of known weaknesses; needs the network
	@$(AUDIT)/bin/pip-audit --strict --disable-pip --require-hashes -r requirements/base.txt -r requirements/build.txt || { \
		echo "make audit: a package has a known weakness, or not every package could be looked up (the lines above" \
		"say which): see whether this machine reaches the service, and do not take this for a pass" >&2; exit 1; }

docs: $(DEV)/.installed ## write the tables of docs/ again from the code and the results
	$(DEV)/bin/python -m docs.tables

format: $(DEV)/.installed ## format the code and fix what ruff can fix
	$(DEV)/bin/ruff check --fix .
	$(DEV)/bin/ruff format .

clean: ## remove environments, caches and the demo's output; keep the demo bundle
	rm -rf $(LIGHT) $(CHECK) $(DEV) $(AUDIT) sbom.json demo-output demo-training .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

# The light environment: CLI and CPU worker, no torch. The development environment adds trainer and tests.
$(LIGHT)/.installed: requirements/base.txt requirements/build.txt pyproject.toml
	$(call environment,$(LIGHT),requirements/base.txt)

$(CHECK)/.installed: requirements/check.txt requirements/build.txt pyproject.toml
	$(call environment,$(CHECK),requirements/check.txt)

$(DEV)/.installed: requirements/dev.txt requirements/build.txt pyproject.toml
	$(call environment,$(DEV),requirements/dev.txt)

$(AUDIT)/.installed: requirements/audit.txt
	@test -x $(AUDIT)/bin/python || $(PYTHON) -m venv $(AUDIT)
	@$(AUDIT)/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/audit.txt
	@touch $@

# The build backend is locked too: an isolated build would fetch it anew, without a hash.
define environment
	@echo "making the environment $(1) from $(2)"
	@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	@$(1)/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r $(2) -r requirements/build.txt
	@$(1)/bin/python -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@
endef
