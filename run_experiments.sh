#!/usr/bin/env bash
# Runs experiments of the paper: trains, evaluates, draws, exports.
#
#   ./run_experiments.sh quick                    the sinusoid and its baselines, 15 000 iterations:
#                                                 minutes on two cores
#   ./run_experiments.sh NAME [--flag=value ...]  flags/NAME.flags in full, e.g. omniglot_5way_1shot
#   ./run_experiments.sh all [--flag=value ...]   every one of them, then the paper's figures, tables
#   ./run_experiments.sh list                     their names and iterations
#
# Sets up a virtual environment first if none is active. Stop it and start it again as you like: it
# goes on from the newest checkpoint. A training says after some steps how long it will take.
set -euo pipefail
cd "$(dirname "$0")"

# The evaluations on the test split that the paper's figures and tables need, one a line.
evaluations() { # evaluations NAME
  local shots trained=--train_update_batch_size
  case "$1" in
    sinusoid_10shot*)
      for shots in 5 10 20; do echo "--update_batch_size=$shots $trained=10"; done
      case "$1" in
        sinusoid_10shot | sinusoid_10shot_pretrained) # Figure 7: all points in one half
          for shots in 5 10 20; do
            echo "--update_batch_size=$shots $trained=10 --inputs=half"
          done
          ;;
      esac
      ;;
    *_1shot_pretrained) # One network for every K, and for both of its baselines.
      for shots in 1 5; do
        echo "--update_batch_size=$shots $trained=1"
        echo "--update_batch_size=$shots $trained=1 --method=nearest_neighbour"
      done
      ;;
    omniglot_*_1shot*) # Published 5-shot figures are those of the model trained 1-shot.
      echo "--update_batch_size=1"
      echo "--update_batch_size=5 $trained=1"
      ;;
    navigation_2d*) echo "--update_batch_size=40 $trained=20" ;; # trajectories, as in the paper
    *) echo ;;
  esac
}

names() {
  local file
  for file in flags/*.flags; do basename "$file" .flags; done
}

setting() { # setting NAME FLAG: what a flagfile, or one that it includes, says of a flag
  local line value=""
  while IFS= read -r line; do
    case "$line" in
      --flagfile=*) value=$(setting "$(basename "${line#--flagfile=}" .flags)" "$2") ;;
      "--$2="*) value=${line#*=} ;;
    esac
  done <"flags/$1.flags"
  echo "$value"
}

trained_as() { # trained_as NAME: the experiment whose model it evaluates; most train their own
  local included
  included=$(sed -n 's/^--flagfile=\(.*\)\.flags$/\1/p' "flags/$1.flags")
  if [ -n "$(setting "$1" train_update_batch_size)" ] ||
    [ "$(setting "$1" method)" = nearest_neighbour ]; then
    trained_as "$included"
  else
    echo "$1"
  fi
}

list() {
  local name iterations
  for name in $(names); do
    iterations=$(setting "$name" metatrain_iterations)
    if [ "${iterations:-0}" = 0 ]; then iterations=$(setting "$name" pretrain_iterations); fi
    if [ "$(setting "$name" method)" = random ]; then iterations=0; fi
    if [ "$(trained_as "$name")" != "$name" ]; then
      printf '  %-38s evaluates %s\n' "$name" "$(trained_as "$name")"
    else
      printf '  %-38s %6d iterations\n' "$name" "${iterations:-0}"
    fi
  done
}

logdir() { # logdir DEFAULT [--flag=value ...]: where the runs go; a --logdir among the flags counts
  local directory=$1 flag before=""
  shift
  for flag in "$@"; do
    case "$flag" in --logdir=* | -logdir=*) directory=${flag#*=} ;; esac
    case "$before" in --logdir | -logdir) directory=$flag ;; esac
    before=$flag
  done
  echo "$directory"
}

one() { # one NAME LOGDIR [--flag=value ...]
  local name=$1 logdir=$2 evaluation arguments
  shift 2
  arguments=("--flagfile=flags/$name.flags" "--logdir=$logdir")
  echo "== $name: $logdir"
  maml-tf train "${arguments[@]}" "$@"
  # Read as a whole first: a command in the loop must not eat its lines.
  mapfile -t all_evaluations < <(evaluations "$name")
  for evaluation in "${all_evaluations[@]}"; do
    # shellcheck disable=SC2086
    maml-tf evaluate --test_set "${arguments[@]}" $evaluation "$@"
  done
  if [ "$(setting "$name" method)" != nearest_neighbour ]; then # which adapts nothing
    maml-tf export "${arguments[@]}" "$@"
  fi
}

all() { # all [--flag=value ...]: each by itself, so that one that fails does not end the others
  local name status directory directories=() failed=()
  echo "In this order; each says how long it will take:"
  list
  for name in $(names); do
    if [ "$(trained_as "$name")" != "$name" ]; then continue; fi
    status=0
    "./$(basename "$0")" "$name" "$@" || status=$?
    if [ "$status" -gt 128 ]; then exit "$status"; fi # interrupted
    if [ "$status" -ne 0 ]; then failed+=("$name"); fi
    directory=$(logdir "logs/$name" "$@")
    if [ -n "$(find "$directory" -path '*/results/*.json' 2>/dev/null)" ]; then
      directories+=("$directory")
    fi
  done
  if [ ${#directories[@]} -gt 0 ]; then maml-tf figures --to=logs/figures "${directories[@]}"; fi
  if [ ${#failed[@]} -gt 0 ]; then
    echo "These failed, as said above: ${failed[*]}" >&2
    exit 1
  fi
}

name="${1:-}"
[ $# -gt 0 ] && shift
case "$name" in
  list) list && exit ;;
  quick | all) ;;
  *)
    if [ ! -f "flags/$name.flags" ]; then
      echo "usage: $0 quick|all|list|NAME [--flag=value ...]; NAME is one of:" >&2
      list >&2
      exit 1
    fi
    ;;
esac

# shellcheck disable=SC1091
. tools/environment.sh
case "$name" in
  all | navigation_* | cheetah_* | ant_*) environment "[rl]" ;;
  *) environment "" ;;
esac
case "$name" in
  all) all "$@" ;;
  quick)
    for name in sinusoid_10shot sinusoid_10shot_pretrained sinusoid_10shot_oracle; do
      if [ -f "flags/$name.flags" ]; then
        one "$name" "logs/quick/$name" --metatrain_iterations=15000 "$@"
      fi
    done
    maml-tf figures "$(logdir logs/quick "$@")"
    ;;
  *)
    directory=$(logdir "logs/$(trained_as "$name")" "$@")
    one "$name" "$directory" "$@"
    maml-tf figures "$directory"
    ;;
esac
