"""Meta-reinforcement-learning (Finn et al. 2017, section 5.3).

`__init__.pyi` lists what is public; each name is imported when it is first used. What samples
trajectories, or learns from them, needs the extra `rl`.
"""

import lazy_loader

_EXTRA = ("gymnasium", "mujoco", "tensorflow_probability", "tf_keras")

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
