"""Completion, tried in bash itself."""

import shutil
import subprocess

import pytest

from maml_tf.cli import main
from maml_tf.cli.completion import script

FLAGFILES = [
    f"flags/ant_goal{end}.flags"
    for end in ("", "_fast", "_oracle", "_pretrained", "_promp", "_random")
]


def offered(*words):
    """What bash offers for the last word; it parts --flag=value into three."""
    text = (
        script("bash")
        + f"""
COMP_WORDS=({" ".join(f"'{w}'" for w in words)})
COMP_CWORD={len(words) - 1}
compopt() {{ :; }}
_maml_tf
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    )
    ran = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
    return ran.stdout.split()


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["maml-tf", "ev"], ["evaluate"]),
        (["maml-tf", "train", "--meta_opt"], ["--meta_optimizer="]),
        (["maml-tf", "train", "--meta_optimizer", "=", "p"], ["promp"]),
        (["maml-tf", "train", "--problem", "=", "cif"], ["cifar_fs"]),
        (["maml-tf", "train", "--problem=fc"], ["fc100"]),
        (["maml-tf", "train", "--conv", "="], ["True", "False"]),
        (["maml-tf", "train", "--flagfile", "=", "flags/ant_g"], FLAGFILES),
        (["maml-tf", "evaluate", "--init", "=", "models/navi"], ["models/navigation_2d"]),
    ],
)
def test_bash_offers(words, expected):
    # Relative names of the repository's own files are offered once more, as files.
    assert sorted(set(offered(*words))) == sorted(expected)


def test_another_shell_is_one_line(capsys):
    assert main.run(["completion", "fish"]) == 1
    assert "completion takes one shell: bash or zsh" in capsys.readouterr().err
    assert main.run(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("autoload")
