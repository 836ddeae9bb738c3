# Two commands do everything on a fresh machine with Python 3.11:
#   make run    installs into .venv and runs the simulated shop from logs to a pushed model
#   make test   installs into .venv and runs the gate
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin

FLINK_JARS ?= build/flink-jars
MVN ?= mvn --batch-mode --quiet

.PHONY: help install run test check lint types test-slow test-flink flink-jars image golden lock clean FORCE

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-12s %s\n", $$1, $$2}'

# The stamp makes installing happen once, and again when a dependency changes.
$(VENV)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip setuptools wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[kubeflow,serving,dev]'
	touch $@

install: $(VENV)/.installed ## create .venv and install longplay into it

run: install ## run the pipeline on the simulated shop
	$(BIN)/longplay run

test: install check ## install and run the gate

check: lint types ## the gate: ruff, mypy --strict, pytest
	$(BIN)/python -m pytest --numprocesses logical --dist loadfile

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

test-slow: install ## the long tests
	$(BIN)/python -m pytest -m slow

flink-jars: $(FLINK_JARS)/.fetched ## fetch the jars of Flink and of Beam's job server into FLINK_JARS (needs Maven)

# Changes when other versions are asked for. A folder in which there are jars of somebody else's is left alone.
$(FLINK_JARS)/.fetched-with: FORCE
	@mkdir -p $(@D)
	@if [ ! -e $@ ] && ls $(@D)/*.jar > /dev/null 2>&1; then \
		echo "FLINK_JARS=$(@D): there are jars already that were not fetched by this command; name an empty folder" >&2; exit 1; fi
	@echo '$(MVN)' | cmp -s - $@ || echo '$(MVN)' > $@

$(FLINK_JARS)/.fetched: kubeflow/flink/pom.xml kubeflow/flink/job-server/pom.xml $(FLINK_JARS)/.fetched-with
	rm -f $(FLINK_JARS)/*.jar
	$(MVN) --file kubeflow/flink/pom.xml dependency:copy-dependencies -DoutputDirectory=$(abspath $(FLINK_JARS))
	$(MVN) --file kubeflow/flink/job-server/pom.xml package -Dfolder=$(abspath $(FLINK_JARS))
	touch $@

test-flink: install flink-jars ## the tests that run on a standalone Flink, which they start (needs Java 11 or 17)
	LONGPLAY_FLINK_JARS=$(abspath $(FLINK_JARS)) $(BIN)/python -m pytest -m flink

image: ## build the image of the steps
	docker build --file kubeflow/Dockerfile --tag longplay:0.1.0 .

golden: install ## make the golden files anew
	LONGPLAY_UPDATE_GOLDEN=1 $(BIN)/python -m pytest tests -k golden

lock: ## resolve constraints.txt anew (needs uv)
	uv pip compile --python-version 3.11 --all-extras setup.py --no-annotate --no-header --output-file constraints.txt
	echo 'pip==26.3' >> constraints.txt && LC_ALL=C sort -o constraints.txt constraints.txt

clean: ## remove .venv and artifacts
	rm -rf $(VENV) artifacts
