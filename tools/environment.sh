# Sourced by run_experiments.sh, run_tests.sh and .ci/run: a virtual environment with the project.
#
# An active virtual environment is used as it is and gets the project installed; otherwise .venv is
# made. Nothing is installed again while pyproject.toml stays the same.

environment() { # environment EXTRAS, e.g. environment "[dev]"
  if [ -z "${VIRTUAL_ENV:-}" ]; then
    if [ ! -x .venv/bin/python ]; then
      "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
        echo "maml_tf needs Python 3.10 or newer; name one with PYTHON=python3.12 $0" >&2
        exit 1
      }
      echo "Making .venv ..."
      "${PYTHON:-python3}" -m venv .venv
    fi
    # shellcheck disable=SC1091
    . .venv/bin/activate
  fi
  local stamp="$VIRTUAL_ENV/maml-tf$1.installed"
  if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    echo "Installing maml-tf$1 ..."
    python -m pip install --quiet --upgrade pip
    python -m pip install --quiet --editable ".$1"
    touch "$stamp"
  fi
}
