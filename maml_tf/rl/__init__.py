"""Meta-reinforcement-learning (Finn et al. 2017, section 5.3).

`__init__.pyi` lists what is public; each name is imported when it is first used. What samples
trajectories needs the extra `rl`, policies and their learners do not.
"""

import lazy_loader

_EXTRA = ("gymnasium", "mujoco")

_find, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    """Imports a public name.

    Raises:
      ModuleNotFoundError: it needs the extra, which is not installed.
    """
    try:
        return _find(name)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        raise ModuleNotFoundError(
            f"maml_tf.rl.{name} needs {error.name}; pip install maml-tf[rl].", name=error.name
        ) from error
