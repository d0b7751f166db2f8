# Everything is set up by the first target that needs it: `make demo` and `make test` are all a new machine has to know.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCHMARKS := demo scrape balance decode duplicates_scale artifacts planted screen review_effort shortcuts \
	curation_gain audit real_photos review train crop explain study

.PHONY: demo test lint bench peers screenshots clean

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	touch $@

demo: $(VENV)/ready  ## the whole loop, offline, on rendered pictures
	$(BIN)/python -m benchmarks.demo

test: lint chromium postgresql  ## lint, types and every test
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadscope

screenshots: $(VENV)/ready chromium  ## the pictures of the app in docs/, from what `make demo` left
	$(BIN)/python docs/screenshots.py

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/ready  ## what we claim, each script's last line one JSON object of its figures
	for script in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$script $(ARGS) || exit 1; done

.venv-peers/ready: peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --disable-pip-version-check -r peers.txt
	touch $@

peers: .venv-peers/ready  ## the tools that we compare ourselves with, in an environment of their own

.PHONY: chromium
chromium:  ## the browser that the tests drive, from the system's own packages
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
		|| (command -v apt-get >/dev/null && $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq chromium >/dev/null) \
		|| echo "no Chromium and no apt-get: the browser tests will be skipped"

.PHONY: postgresql
postgresql:  ## the database server that the tests start for themselves, from the system's own packages
	@command -v postgres >/dev/null || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 \
		|| (command -v apt-get >/dev/null && $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq postgresql >/dev/null) \
		|| echo "no PostgreSQL and no apt-get: its tests will be skipped"

SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)

clean:
	rm -rf $(VENV) .venv-peers demo build *.egg-info .mypy_cache .pytest_cache .ruff_cache
