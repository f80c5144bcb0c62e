"""The package's own programs on a GPU without TensorFlow: made here, run by JAX there."""
