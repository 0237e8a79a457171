# make demo    environment, install, the main job on the embedded dataset
# make test    environment, install, all checks
# make check   format, lint, types, tests (layers among them)
# make costs   measures memory and time beside what is predicted, into docs/costs.md; some minutes
# make budgets DATA="ARCHIVE ..."    measures what budgets of time buy, into docs/budgets.md; half an hour per dataset
# make speed-metrics    measures the time of all metrics of a large case, into docs/metrics.md
# make agreement NNUNET=ENVIRONMENT/bin              plans random fingerprints with nnU-Net's planners, too: docs/agreement.md
# make agreement-data NNUNET=... DATA=ARCHIVE        compares fingerprints, trains exported plans with nnU-Net
# make speed-planning NNUNET=... DATA=ARCHIVE        times planning beside nnU-Net: docs/speed.md
# make speed-prediction NNUNET=ENVIRONMENT MODELS=FOLDER    predicts with nnU-Net's models there and here; some minutes
# make prediction-memory    measures the peak memory of predicting a large scan with 100 classes; some minutes
# make kill-test    kills a training at 20 random moments and compares what it ends with; some minutes

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test check format costs budgets kill-test benchmark clean speed-metrics agreement agreement-data speed-planning prediction-memory speed-prediction

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "autoseg needs Python 3.11 or later: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[dev]"
	touch $@

demo: install
	$(BIN)/autoseg benchmark phantom --budget 5m --folds 0 --workspace autoseg_work/phantom

test: install
	$(MAKE) check

check:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2

format:
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

kill-test: install
	$(BIN)/python tools/kill_test.py --kills 20

costs: install
	$(BIN)/python -m tools.measure_costs

prediction-memory: install
	$(BIN)/python -m tools.measure_prediction_memory

budgets: install
	$(BIN)/python -m tools.measure_budgets $(DATA) --work autoseg_work/budgets

speed-metrics: install
	$(BIN)/python -m tools.measure_metrics

agreement: install
	$(BIN)/pytest -q tests/plan/test_published_plans.py
	$(NNUNET)/python -m tests.plan.nnunet_agreement --count 300

agreement-data: install
	$(BIN)/python -m tools.compare_fingerprints $(DATA) --nnunet-bin $(NNUNET)
	$(BIN)/python -m tools.train_export_with_nnunet $(DATA) --nnunet-bin $(NNUNET)

speed-planning: install
	$(BIN)/python -m tools.compare_planning $(DATA) --nnunet-bin $(NNUNET)

# FOLDER is made by: $(NNUNET)/bin/python tools/train_nnunet_models.py FOLDER --hippocampus ARCHIVE --acdc ARCHIVE
speed-prediction: install
	$(BIN)/python -m tools.compare_prediction $(MODELS) --nnunet-bin $(NNUNET)/bin --forward

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
