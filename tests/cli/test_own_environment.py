"""The README's environment of one's own, as a stranger would run it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gymnasium", reason="needs the extra rl")

ROOT = Path(__file__).parents[2]
SMALL = {
    "train": "--meta_batch_size=2 --shots=2 --iterations=1 --validation_tasks=2 --asynchronous",
    "evaluate": "--test_tasks=2 --test_steps=1",
}


@pytest.mark.slow
def test_the_readme_s_environment_trains_and_is_evaluated(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("### Your own environment")[2]
    module, commands = re.findall(r"```\w+\n(.*?)```", section, re.DOTALL)[:2]
    assert len([line for line in module.splitlines() if line.strip()]) <= 10
    (tmp_path / "my_tasks.py").write_text(module)
    said = {}
    for line in commands.replace("\\\n", "").splitlines():
        words = line.partition("#")[0].split()
        assert words[:3] == ["python", "-m", "maml_tf"]
        done = subprocess.run(
            [sys.executable, *words[1:], *SMALL[words[3]].split()],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        said[words[3]] = done.stdout + done.stderr
    assert "Done: 1 iterations" in said["train"]
    assert re.search(r"^ +1 +-\d+", said["evaluate"], re.MULTILINE)
