"""Trains and evaluates a flagfile with many seeds or settings, several at a time.

    python examples/sweep/sweep.py --logdir=logs/seeds --jobs=2 --seed=0,1,2 --recipe=,maml++ \
        --flagfile=flags/sinusoid_10shot.flags --split=test --test_shots=5,10

README.md, beside this file, explains the words. A trial is `maml-tf train` and `maml-tf evaluate`,
processes of their own; Optuna keeps which are done in a file that several machines may share.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

try:
    import optuna
except ImportError:
    sys.exit("sweep: Optuna is missing; pip install maml-tf[sweep]")
import over_seeds
from absl.flags import Error as FlagError
from study import Trials
from words import Words, combinations, said, settings_of, text

from maml_tf.results.rows import to_csv
from maml_tf.system.files import write_atomically


class Interrupted(Exception):
    """A command was told to stop; its trial goes on another time."""


class Sweep:
    """Carries out trials as long as there are some."""

    def __init__(self, words: Words):
        """Opens the study; raises what `Trials` does.

        Args:
          words: what was asked for.
        """
        self.words, self.trials = words, Trials(words)
        self.stopping, self.guard = threading.Event(), threading.Lock()
        self.running: set[subprocess.Popen] = set()

    def work(self) -> None:
        """Carries out trials until all have ended, also those of others; says a line of each."""
        while not self.stopping.is_set():
            if (taken := self.trials.take()) is None:
                if self.trials.all_ended():
                    return
                self.stopping.wait(1)
                continue
            (trial, log), began = taken, time.monotonic()
            with log, contextlib.suppress(Interrupted):
                try:
                    score, line = self._carry_out(trial.params, log)
                    self.trials.tell(trial, score)
                except (OSError, ValueError) as error:
                    line = " ".join(f"failed: {error}".split())
                    self.trials.tell_error(trial, line)
                count = f"{len(self.trials.ended())} of {self.trials.count}"
                took = f"{time.monotonic() - began:.0f} s"
                print(f"{count}: {said(trial.params)}: {line} ({took})", flush=True)

    def _carry_out(self, values: dict[str, Any], log: IO[bytes]) -> tuple[float, str]:
        """Trains and evaluates; returns the score and the results in words."""
        evaluations = self.words.evaluations(values)
        self._call(["train", *self.words.training(values)], log)
        for flags in evaluations:
            self._call(["evaluate", *flags], log)
        curve, best_after = self.words.curves(values)[0], settings_of(evaluations[0]).run.best_after
        steps = over_seeds.shown_steps(curve.steps)
        means = ", ".join(f"{over_seeds.scale(curve.metric) * curve.mean[s]:.3g}" for s in steps)
        line = f"{curve.metric} {means} after {', '.join(map(str, steps))} steps, K = {curve.shots}"
        return float(curve.mean[min(best_after, len(curve.mean) - 1)]), line

    def _call(self, words: list[str], log: IO[bytes]) -> None:
        """Runs a command of maml-tf; if it fails, ValueError with its last line."""
        with self.guard:
            if self.stopping.is_set():
                raise Interrupted
            log.write(f"$ {shlex.join(['maml-tf', *words])}\n".encode())
            log.flush()
            command = [sys.executable, "-m", "maml_tf", *words]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            self.running.add(process)
        status = process.wait()
        self.running.discard(process)
        if status in (130, -signal.SIGINT, -signal.SIGTERM):
            raise Interrupted
        if status:
            log.seek(0)
            last = log.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise ValueError(last if status > 0 else f"ended by signal {-status}")

    def stop(self) -> None:
        """Ends what is running; a training saves first."""
        with self.guard:
            self.stopping.set()
        for process in list(self.running):
            process.terminate()

    def report(self) -> str:
        """The table of what is done, which is also written as CSV, and what failed."""
        measured, points = [], combinations(self.words.measured)
        for values in self.trials.complete():
            setting = {name: text(v) for name, v in values.items() if name != "seed"}
            curves = self.words.curves(values)
            measured += [(setting | p, c) for p, c in zip(points, curves, strict=True)]
        rows, target = over_seeds.rows(measured), self.trials.place / "results.csv"
        write_atomically(target, to_csv(rows))
        lines = ["", over_seeds.table(rows), f"Wrote {target}"]
        if self.words.trials and measured:
            best = self.trials.study.best_trial
            lines.append(f"best: {said(best.params)}: {best.value:.4g}")
        return "\n".join(lines + [f"{said(v)}: {line}" for v, line in self.trials.errors()])


def main(arguments: list[str]) -> int:
    """Carries out a sweep; a user's mistake is one line.

    Returns:
      The exit status: 1 if a trial failed, 130 if the sweep was interrupted.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not arguments or "--help" in arguments:
        print(__doc__)
        return 0
    try:
        sweep = Sweep(Words(arguments))
        with ThreadPoolExecutor(sweep.words.jobs) as pool:
            workers = [pool.submit(sweep.work) for _ in range(sweep.words.jobs)]
            try:
                for worker in workers:
                    worker.result()
            except BaseException:
                sweep.stop()
                raise
        print(sweep.report())
        return 1 if sweep.trials.errors() else 0
    except (FlagError, OSError, ValueError) as error:
        print("sweep: " + " ".join(str(error).split()), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sweep: interrupted; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
