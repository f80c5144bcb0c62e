#!/usr/bin/env bash
# Runs experiments of the paper: trains, evaluates, draws, exports.
#
#   ./run_experiments.sh quick                    the sinusoid and its baselines, 15 000 iterations:
#                                                 a minute or two on two cores
#   ./run_experiments.sh NAME [--flag=value ...]  flags/NAME.flags in full, e.g. omniglot_5way_1shot
#   ./run_experiments.sh all [--flag=value ...]   every one of them, then the paper's figures, tables
#   ./run_experiments.sh list                     their names, what they fill, how long they take
#
# Sets up a virtual environment first if none is active, and calls `maml-tf reproduce`. Stop it and
# start it again as you like: it goes on from the newest checkpoint.
set -euo pipefail
cd "$(dirname "$0")"

if [ $# -eq 0 ]; then
  echo "usage: $0 quick|all|list|NAME [--flag=value ...]" >&2
  exit 1
fi

# shellcheck disable=SC1091
. tools/environment.sh
case "$1" in
  all | navigation_* | cheetah_* | ant_*) environment "[rl]" ;;
  *) environment "" ;;
esac
exec maml-tf reproduce "$@"
