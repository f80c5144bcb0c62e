"""`maml-tf completion`: what a shell needs to complete commands, flags and their choices."""

from __future__ import annotations

from collections.abc import Mapping

from maml_tf.cli import flags, main
from maml_tf.experiments import problems
from maml_tf.experiments.records import SettingValue
from maml_tf.experiments.settings import SETTINGS
from maml_tf.system import bundled

SHELLS = ("bash", "zsh")

_BASH = """\
# maml-tf: completion of commands, flags, choices, flagfiles and releases.
_maml_tf() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" flag=""
    # Bash parts --flag=value at the sign.
    if [[ $word == "=" ]]; then flag=$before word=""
    elif [[ $before == "=" ]]; then flag="${{COMP_WORDS[COMP_CWORD-2]}}"
    elif [[ $word == --*=* ]]; then flag="${{word%%=*}}" word="${{word#*=}}"; fi
    case "$flag" in
{cases}
        --*) compopt -o default; return;;
    esac
    if [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "{flags}" -- "$word")); compopt -o nospace
    elif [[ $COMP_CWORD == 1 ]]; then
        COMPREPLY=($(compgen -W "{commands}" -- "$word"))
    else
        compopt -o default
    fi
}}
complete -F _maml_tf maml-tf
"""

_PLACES = {
    "flagfile": [f"flags/{path.name}" for path in bundled.entries("flags")],
    "init": [f"models/{path.name}" for path in bundled.entries("models")],
}
"""Flags whose values come with the package; files of one's own are offered, too."""


def run(given: Mapping[str, SettingValue], words: list[str]) -> int:
    """Prints the text for one shell.

    Raises:
      ValueError: it is given another one, or flags.
    """
    if given or len(words) != 1 or words[0] not in SHELLS:
        raise ValueError(
            f"completion takes one shell: {' or '.join(SHELLS)}; then: "
            'eval "$(maml-tf completion bash)" in ~/.bashrc.'
        )
    print(script(words[0]), end="")
    return 0


def script(shell: str) -> str:
    """The text that a shell evaluates when it starts."""
    cases = []
    for name, choices in sorted(_choices().items()):
        own = f'        --{name}) COMPREPLY=($(compgen -W "{" ".join(choices)}" -- "$word"))'
        cases.append(f"{own}; return;;")
    for name, values in _PLACES.items():
        offered = f'compgen -W "{" ".join(values)}" -- "$word"; compgen -f -- "$word"'
        cases.append(f"        --{name}) COMPREPLY=($({offered})); return;;")
    names = [*SETTINGS, "flagfile", flags.RECIPE, flags.VERBOSITY]
    text = _BASH.format(
        cases="\n".join(cases),
        flags=" ".join(f"--{name}=" for name in names) + " --help",
        commands=" ".join(main.COMMANDS),
    )
    return text if shell == "bash" else f"autoload -U +X bashcompinit && bashcompinit\n{text}"


def _choices() -> dict[str, tuple[str, ...]]:
    """Flags that are one of a few words."""
    found = {flag: each.choices for flag, each in SETTINGS.items() if each.choices}
    found |= {flag: ("True", "False") for flag, each in SETTINGS.items() if each.kind is bool}
    recipes = tuple(path.stem for path in bundled.entries("recipes"))
    return found | {"problem": tuple(problems.known()), flags.RECIPE: recipes}
