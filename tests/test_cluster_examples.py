"""The launchers of examples/cluster start real workers, and read what Slurm and Kubeflow give."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cluster
import pytest

from maml_tf.cli import flags, original
from maml_tf.engine import strategies
from maml_tf.experiments.settings import make

EXAMPLES = cluster.ROOT / "examples" / "cluster"
TINY = ["--norm=None", "--meta_batch_size=4", "--metatrain_iterations=6", "--run_name=run"]
TINY += ["--save_every=3", "--validate_every=3", "--validation_tasks=24", "--progress=False"]
TINY += ["--jit_compile=False"]

SRUN = """#!/bin/bash
# Two tasks on this machine, as Slurm would start them.
while [[ $1 == --* ]]; do shift; done
for task in 0 1; do
    SLURM_PROCID=$task SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=localhost \\
        SLURM_STEP_TASKS_PER_NODE=2 SLURM_STEP_GPUS= "$@" &
    tasks+=($!)
done
status=0
for task in "${tasks[@]}"; do wait "$task" || status=$?; done
exit $status
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder of programs that come first; `maml-tf` of this checkout is one."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def program(name, text):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)

    program("maml-tf", f'#!/bin/bash\nexec "{sys.executable}" -m maml_tf "$@"\n')
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(cluster.ROOT))
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.delenv("TF_CONFIG", raising=False)
    return program


def launched(words, **environment):
    done = subprocess.run(
        ["bash", *map(str, words)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=cluster.SECONDS,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.slow
def test_some_workers_of_this_machine(programs, tmp_path):
    port, _ = cluster.free_ports(2)
    logs = {"LOGS": str(tmp_path / "said"), "PORT": str(port)}
    status, said = launched([EXAMPLES / "local.sh", f"--logdir={tmp_path / 'runs'}", *TINY], **logs)
    assert status == 0, said
    assert "Done: 6 iterations" in said
    assert (tmp_path / "runs" / "run" / "checkpoints" / "ckpt-6.index").is_file()
    assert "This is worker 1 of 2" in (tmp_path / "said" / "worker1.log").read_text()


def test_a_mistake_is_not_tried_again(programs, tmp_path):
    programs("maml-tf", "#!/bin/bash\necho tried; exit 1\n")
    logs = {"LOGS": str(tmp_path / "said")}
    assert launched([EXAMPLES / "local.sh", "--problem=sinus"], **logs)[0] == 1
    assert (tmp_path / "said" / "worker0.log").read_text() == "tried\n"


def test_a_lost_worker_is(programs, tmp_path):
    status, said = launched(
        [EXAMPLES / "local.sh"], LOGS=str(tmp_path), ATTEMPTS="2", MAML_TF="bash -c 'exit 75'"
    )
    assert "Attempt 1 ended with status" in said
    assert "Attempt 2 ended with status" in said
    assert status != 0


@pytest.mark.slow
def test_a_slurm_job(programs, tmp_path):
    programs("srun", SRUN)
    own = " ".join([f"--logdir={tmp_path / 'runs'}", *TINY])
    status, said = launched([EXAMPLES / "slurm.sbatch"], FLAGS=own, SLURM_CPUS_PER_TASK="1")
    assert status == 0, said
    assert "This is worker 1 of 2 workers" in said
    assert (tmp_path / "runs" / "run" / "checkpoints" / "ckpt-6.index").is_file()


def test_slurm_s_variables_say_who_the_workers_are(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    own = {"PROCID": "2", "STEP_NUM_TASKS": "3", "STEP_NODELIST": "n[01-02]"}
    for name, value in {**own, "STEP_TASKS_PER_NODE": "2,1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    resolver = strategies._resolver()
    assert resolver.cluster_spec().job_tasks("worker") == ["n01:8888", "n01:8889", "n02:8888"]
    assert (resolver.task_type, resolver.task_id) == ("worker", 2)
    monkeypatch.delenv("SLURM_STEP_TASKS_PER_NODE")
    with pytest.raises(ValueError, match="Slurm's variables do not say who the workers are"):
        strategies._resolver()


@pytest.mark.parametrize(("left", "passed_on"), [(0, 0), (1, 1), (75, 138), (130, 130)])
def test_a_pod_passes_on_how_it_ended(left, passed_on, programs, tmp_path):
    yaml = pytest.importorskip("yaml", reason="the site's packages (maml-tf[docs]) bring PyYAML")
    job = yaml.safe_load((EXAMPLES / "tfjob.yaml").read_text())
    kinds = job["spec"]["tfReplicaSpecs"]
    programs("maml-tf", f'#!/bin/bash\necho "$@" >"{tmp_path}/words"\nexit {left}\n')
    for kind in ("Chief", "Worker"):
        [container] = kinds[kind]["template"]["spec"]["containers"]
        shell, *command = container["command"]
        assert launched(command)[0] == passed_on
        assert Path(shell).name == "bash"
    command, *words = (tmp_path / "words").read_text().split()
    assert command == "train"
    words = [re.sub("^--flagfile=/opt/maml_tf", f"--flagfile={cluster.ROOT}", w) for w in words]
    settings = make(original.translate(flags.parse(words).given))
    assert settings.machine.distribute == "multiworker"
    mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert mounted == [settings.machine.data_dir]  # of a worker, which writes nothing


def test_the_scripts_are_bash():
    for script in ("local.sh", "slurm.sbatch"):
        assert shutil.which("bash") is not None
        assert launched(["-n", EXAMPLES / script]) == (0, "")
