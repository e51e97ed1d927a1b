# The project's commands, each written once: people, `.ci/run` and .github/workflows/ci.yml call these recipes.
# `just` comes with the test extra (`pip install -e '.[dev]'`). Arguments go to the command behind a recipe.

set positional-arguments
set shell := ["bash", "-euo", "pipefail", "-c"]

# Show the recipes.
_default:
    @{{ just_executable() }} --list --unsorted

# Install the checkout, and what tests and checks need, into the active virtual environment.
setup:
    python -m pip install --quiet --upgrade pip setuptools wheel
    pip install --quiet -e '.[dev]'

# Install the published reference AppView, which tests ask, into the user's cache; prints the folder.
reference:
    python -m appview_pipeline_tests.conformance.reference.packages

# Start Dagster, and with it the firehose sensor, on http://localhost:3000.
dev *options:
    DAGSTER_HOME="${DAGSTER_HOME:-$PWD}" dagster dev "$@"

# Start the simulated network: relay, PLC directory, name server and PDSes on this machine (docs/simulated-network.md).
network *options:
    appview-simulated-network "$@"

# Check style and format.
lint:
    ruff check .
    ruff format --check .

# Check types.
types:
    mypy

# Rewrite the code in the project's format, and mend what ruff can mend.
format:
    ruff check --fix .
    ruff format .

# Run the tests: `just test`, `just test appview_pipeline_tests/store -k gap`.
[no-exit-message]
test *arguments:
    pytest "$@" || { code=$?; [ $code -ne 5 ] || echo "No test was run: what was given ($*) chooses none." >&2; exit $code; }

# Check and test as CI does, slow tests included; random properties share a quarter of a minute.
[no-exit-message]
ci *arguments: lint types
    {{ just_executable() }} test --slow --budget=0.25 "$@"

# Run the random properties for MINUTES, and the tests marked thorough (docs/testing.md).
thorough minutes="60" *options:
    python -m appview_pipeline_tests.thorough --minutes "$@"

# Measure how fast commits are indexed (docs/benchmarks.md): `just bench --quick` takes a minute.
bench *options:
    python -m appview_pipeline_tests.benchmark "$@"

# Take the pictures of docs/quick-start.md again, or those named; needs Chromium.
pictures *names:
    python -m appview_pipeline_tests.screenshots "$@"

# Run the hooks of .pre-commit-config.yaml on all files.
hooks:
    pre-commit run --all-files
