"""One process, two and three take the same steps; what one of them refuses, or does not survive."""

import json
import signal
import socket
import threading
import time

import cluster
import numpy as np
import pytest
import tensorflow as tf
import worker_program
from helpers import slow

import maml_tf
from maml_tf.cli import main
from maml_tf.engine import strategies
from maml_tf.engine.strategies import refuse_parameter_servers, strategy
from maml_tf.engine.workers import Workers


@pytest.fixture(
    scope="module",
    params=[(2, False), slow((2, True)), slow((3, True))],
    ids=["two", "two, in full", "three, in full"],
)
def case(request):
    """How many workers, and whether they compute all that they can."""
    return request.param


@pytest.fixture(scope="module")
def alone(case, tmp_path_factory):
    return worker_program.results(tmp_path_factory.mktemp("alone"), case[1])


@pytest.fixture(scope="module")
def places(case, tmp_path_factory):
    """Where some workers have written what they found."""
    count, in_full = case
    place = tmp_path_factory.mktemp(f"{count} workers")
    words = ["-m", "tests.worker_program", place, in_full]
    for status, output in cluster.together(lambda index: words, count):
        assert status == 0, output
    return place, count


def test_workers_and_one_process_find_the_same(alone, places):
    place, count = places
    each = [dict(np.load(place / f"{index}.npz")) for index in range(count)]
    assert each[0].keys() == alone.keys()
    for name, expected in alone.items():
        # The weights are the chief's; a norm that is shown may be rounded by each in its own way.
        exact = {"rtol": 0 if "weight" in name else 1e-6}
        for found in each[1:]:
            np.testing.assert_allclose(found[name], each[0][name], **exact, err_msg=name)
        size = max(float(np.max(np.abs(expected), where=np.isfinite(expected), initial=0)), 0.02)
        np.testing.assert_allclose(
            each[0][name], expected, rtol=0, atol=3e-6 * size, err_msg=name, equal_nan=True
        )


def test_they_learned(alone):
    """Weights that nothing moved would be equal, too."""
    learned = [alone[f"sines weight {i}"] for i in range(6)]
    moved = [np.abs(w - 0.5 * worker_program.start(w.shape)).max() for w in learned]
    assert min(moved) > 1e-4


def test_the_chief_alone_exports_and_calls_back_what_writes(places):
    place, count = places
    assert maml_tf.load_export(place / "0" / "export") is not None
    assert (place / "0" / "model.keras").is_file()
    assert not any(list((place / str(index)).iterdir()) for index in range(1, count))


def test_what_does_not_fit_is_refused_on_all_alike(places):
    place, count = places
    said = [json.loads((place / f"{index}.json").read_text()) for index in range(count)]
    assert "Worker 1 (localhost:" in said[0]["difference"]
    assert "other flags than worker 0: --b=1, not --b=0." in said[0]["difference"]
    assert said[0]["chief"] == "There is no room."
    assert said[1]["chief"] == "Worker 0 says: There is no room."
    assert "1 tasks are too few" in said[0]["few"]
    assert f"7 tasks do not divide among {count} workers; take" in said[0]["undivided"]
    if count == 3:
        told = "32 tasks does not divide into 3 replicas x 1 pieces; choose 30 or 33"
        assert told in said[0]["uneven"]
    assert said[0] | {"chief": ""} == said[1] | {"chief": ""}


# --- the command line ---

FLAGS = ["--distribute=multiworker", "--norm=None", "--meta_batch_size=6", "--run_name=run"]
FLAGS += ["--save_every=10", "--validate_every=20", "--validation_tasks=24", "--progress=False"]
FLAGS += ["--jit_compile=False", "--log_every=5", "--meta_lr=0.0001"]


def command(directory, iterations, *more):
    """`maml-tf train`, with a log directory of each worker's own."""

    def words(index):
        own = [f"--logdir={directory / str(index)}", f"--metatrain_iterations={iterations}"]
        return ["-m", "maml_tf", "train", *FLAGS, *own, *more]

    return words


def ended_well(results):
    for status, output in results:
        assert status == 0, output


def weights(directory, iteration):
    path = directory / "0" / "run" / "checkpoints" / f"ckpt-{iteration}"
    reader = tf.train.load_checkpoint(str(path))
    names = [n for n in reader.get_variable_to_shape_map() if n.startswith(("weights", "optim"))]
    return {name: reader.get_tensor(name) for name in sorted(names)}


def alike(directory, other, iteration, tolerance):
    theirs = weights(other, iteration)
    for name, value in weights(directory, iteration).items():
        np.testing.assert_allclose(value, theirs[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run of two workers that nobody disturbed."""
    place = tmp_path_factory.mktemp("undisturbed")
    ended_well(cluster.together(command(place, 40), 2))
    return place


def test_the_chief_alone_writes(undisturbed):
    assert {path.name for path in undisturbed.iterdir()} == {"0"}
    run = undisturbed / "0" / "run"
    assert (run / "checkpoints" / "ckpt-40.index").is_file()
    assert not (run / "run.lock").exists()
    assert len(list(run.glob("events.*"))) == 1


def newest(place):
    saved = (place / "0" / "run" / "checkpoints").glob("ckpt-*.index")
    return max((int(path.stem.partition("-")[2]) for path in saved), default=0)


@pytest.mark.parametrize(
    ("victim", "blow"),
    [
        (1, signal.SIGKILL),
        pytest.param(0, signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(0, signal.SIGTERM, marks=pytest.mark.slow),
        (1, signal.SIGTERM),
    ],
)
@pytest.mark.cases(1)
def test_a_run_goes_on_after_a_worker_died_or_was_asked_to_stop(
    victim, blow, undisturbed, tmp_path
):
    processes = cluster.start(command(tmp_path, 1000000), 2)
    began = time.monotonic()
    while newest(tmp_path) < 10 and time.monotonic() < began + cluster.SECONDS:
        time.sleep(0.05)
    processes[victim].send_signal(blow)
    results = cluster.ends(processes)
    other = results[1 - victim]
    if blow == signal.SIGKILL:
        assert other[0] == 75, other[1]
        assert f"Worker {victim} (localhost:" in other[1]
        assert "is gone, so that the 2 workers cannot go on; give the same command" in other[1]
        assert "Traceback" not in other[1]
    else:
        assert [status for status, _ in results] == [130, 130], results
        assert "saved; the same command goes on from there" in results[0][1]
    reached = newest(tmp_path)
    if reached > 40:
        pytest.skip("this machine was too fast to stop before iteration 40")
    ended_well(cluster.together(command(tmp_path, 40), 2))
    alike(tmp_path, undisturbed, 40, tolerance=0)


@pytest.mark.slow
def test_another_number_of_workers_goes_on(undisturbed, tmp_path):
    ended_well(cluster.together(command(tmp_path, 20), 2))
    ended_well(cluster.together(command(tmp_path, 30), 3))
    ended_well(cluster.together(command(tmp_path, 40), 1))
    alike(tmp_path, undisturbed, 40, tolerance=1e-6)


@pytest.mark.slow
def test_a_worker_that_keeps_no_log_does_not_hold_up_the_chief(tmp_path):
    def words(index):
        return command(tmp_path, 5)(index) + (["--log=False"] if index else [])

    ended_well(cluster.together(words, 2))
    assert newest(tmp_path) == 5


@pytest.mark.slow
def test_policies_are_trained_and_evaluated(tmp_path):
    own = ["--problem=navigation_2d", "--meta_batch_size=4", "--shots=2", "--horizon=10"]
    own += ["--distribute=multiworker", f"--logdir={tmp_path}", "--run_name=run"]
    trains = ["--iterations=1", "--validation_tasks=2"]
    run = tmp_path / "run"
    ended_well(cluster.together(lambda index: ["-m", "maml_tf", "train", *own, *trains], 2))
    measures = ["evaluate", run, "--num_test_tasks=2", "--test_steps=1", own[4]]
    ended_well(cluster.together(lambda index: ["-m", "maml_tf", *measures], 2))
    assert list((run / "results").glob("*.json"))


@pytest.mark.parametrize(
    ("configuration", "told"),
    [
        ("", "Nothing says who the workers are: set TF_CONFIG"),
        ("{", "TF_CONFIG is malformed: it is no JSON"),
        ("[]", 'it needs "cluster" and "task"'),
        ('{"cluster": {"ps": ["a:1"]}, "task": {}}', 'its cluster has "ps"'),
        ('{"cluster": {"worker": "a:1"}, "task": {}}', 'is no list of "host:port"'),
        ('{"cluster": {"worker": ["a"]}, "task": {}}', 'is no list of "host:port"'),
        ('{"cluster": {"worker": ["a:1", "a:1"]}, "task": {}}', "one address is there twice"),
        ('{"cluster": {"chief": ["a:1", "b:1"]}, "task": {}}', "it has several chiefs"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief"}}', "its task is a 'chief'"),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
            "its task has index 1, and there are 1 workers",
        ),
    ],
)
def test_a_malformed_configuration_is_one_line(configuration, told, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", configuration)
    for name in ("SLURM_PROCID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="TF_CONFIG") as raised:
        strategy("multiworker")
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_who_waits_long_says_for_whom(monkeypatch, caplog):
    monkeypatch.setattr(strategies, "_NEWS", 0.0)
    with socket.socket() as place:
        place.bind(("localhost", 0))
        address = f"localhost:{place.getsockname()[1]}"
        threading.Timer(0.5, place.listen).start()
        strategies._await(address)
    told = [record.message for record in caplog.records]
    assert told == [f"Still waiting for the worker at {address} (Connection refused)."]


def test_an_export_is_of_one_process(capsys):
    assert main.run(["export", "--distribute=multiworker"]) == 1
    told = "maml-tf: An export is made by one process; drop --distribute=multiworker."
    assert told in capsys.readouterr().err


def test_other_words_than_these_are_no_strategy():
    with pytest.raises(ValueError, match="one of none, mirrored, multiworker; not 'many'"):
        strategy("many")


def test_parameter_servers_are_refused():
    with pytest.raises(ValueError, match="has workers that do not step together"):
        refuse_parameter_servers(object.__new__(tf.distribute.experimental.ParameterServerStrategy))


def test_one_process_is_all_and_exchanges_nothing():
    workers = Workers(tf.distribute.get_strategy())
    assert (workers.count, workers.index, workers.is_chief, workers.together) == (1, 0, True, False)
    assert workers.gather(3).tolist() == [3]
    assert workers.share(5) == slice(0, 5)
    assert workers.texts("a") == ["a"]
    with workers.named(), pytest.raises(tf.errors.UnavailableError):
        raise tf.errors.UnavailableError(None, None, "Collective ops is aborted")
