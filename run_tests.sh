#!/usr/bin/env bash
# Lint, types and tests; sets up a virtual environment first if none is active.
#
#   ./run_tests.sh            the fast tests
#   ./run_tests.sh -m slow    the long ones, and further cases of costly ones; any pytest arguments will do
set -euo pipefail
cd "$(dirname "$0")"
. tools/environment.sh

environment "[dev]"
ruff check .
ruff format --check .
mypy
python -m pytest -n "${TEST_WORKERS:-2}" --dist loadfile -m "not slow" "$@"
