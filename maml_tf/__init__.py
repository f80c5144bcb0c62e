"""Model-Agnostic Meta-Learning on TensorFlow 2 and Keras 3 (Finn, Abbeel & Levine 2017).

`__init__.pyi` lists what is public and where it lives; each name is imported when it is first used,
so that the command line answers without TensorFlow.
"""

import lazy_loader

from maml_tf.system import home  # noqa: F401  before TensorFlow looks for one

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
