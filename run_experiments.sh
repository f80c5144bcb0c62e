#!/usr/bin/env bash
# Runs an experiment of the paper: trains, evaluates, draws, exports.
#
#   ./run_experiments.sh quick                    the sinusoid, 15 000 iterations: a minute or two
#   ./run_experiments.sh NAME [--flag=value ...]  flags/NAME.flags in full, e.g. omniglot_5way_1shot
#
# Sets up a virtual environment first if none is active. Stop it and start it again as you like: it
# goes on from the newest checkpoint.
set -euo pipefail
cd "$(dirname "$0")"
. tools/environment.sh

name="${1:-}"
[ $# -gt 0 ] && shift
case "$name" in
  quick) arguments=(--flagfile=flags/sinusoid_10shot.flags --logdir=logs/quick --metatrain_iterations=15000) ;;
  *)
    if [ ! -f "flags/$name.flags" ]; then
      echo "usage: $0 quick|NAME [--flag=value ...]; NAME is one of:" >&2
      for file in flags/*.flags; do echo "  $(basename "$file" .flags)" >&2; done
      exit 1
    fi
    arguments=("--flagfile=flags/$name.flags" "--logdir=logs/$name")
    ;;
esac
arguments+=("$@")

environment ""
maml-tf train "${arguments[@]}"
maml-tf evaluate --test_set "${arguments[@]}"
maml-tf figures --test_set "${arguments[@]}"
maml-tf export "${arguments[@]}"
