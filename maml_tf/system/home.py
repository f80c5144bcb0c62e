"""A user without a home folder, as in many containers.

TensorFlow and Keras keep a file in `~/.keras`. Where there is neither HOME nor such a user,
TensorFlow takes the ~ for a name and makes a folder of it in the working directory.
"""

from __future__ import annotations

import os
import tempfile

if not os.path.isabs(os.path.expanduser("~")):
    os.environ.setdefault("KERAS_HOME", os.path.join(tempfile.gettempdir(), ".keras"))
