"""Names of files that hold weights."""

ENDING = ".weights.h5"
"""Of Keras' own weights files."""

WEIGHTS_FILE = "initial" + ENDING
"""A learner's weights before adaptation, in a release."""
