#!/usr/bin/env bash
# Several workers on this machine, to try it: WORKERS=2 examples/cluster/local.sh --problem=sinusoid
#
# Each writes what it says to its own file in $LOGS. A worker that dies ends the others, with status
# 75; then all are started again, and the run goes on from its newest checkpoint.
set -u
WORKERS=${WORKERS:-2} PORT=${PORT:-12345} LOGS=${LOGS:-logs/workers} ATTEMPTS=${ATTEMPTS:-20}
MAML_TF=${MAML_TF:-maml-tf}
mkdir -p "$LOGS"

addresses=""
for ((index = 0; index < WORKERS; index++)); do
    addresses+="${addresses:+, }\"localhost:$((PORT + index))\""
done

for ((attempt = 1; attempt <= ATTEMPTS; attempt++)); do
    workers=()
    for ((index = 0; index < WORKERS; index++)); do
        # shellcheck disable=SC2086  # "python -m maml_tf" is three words.
        TF_CONFIG="{\"cluster\": {\"worker\": [$addresses]},
                    \"task\": {\"type\": \"worker\", \"index\": $index}}" \
            $MAML_TF train --distribute=multiworker "$@" >>"$LOGS/worker$index.log" 2>&1 &
        workers+=($!)
    done
    trap 'kill "${workers[@]}" 2>/dev/null' INT TERM
    status=0
    for worker in "${workers[@]}"; do
        wait "$worker" && continue
        own=$?
        while kill -0 "$worker" 2>/dev/null; do # A signal to this script ended the waiting alone.
            wait "$worker"
            own=$?
        done
        test "$status" -eq 1 || status=$own
    done
    case $status in
    0 | 1 | 130) break ;; # done, a mistake that a restart would repeat, or asked to stop
    esac
    echo "Attempt $attempt ended with status $status; starting again." >&2
done
tail -n 1 "$LOGS"/worker0.log
exit $status
