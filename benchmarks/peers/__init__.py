"""The same meta-step written in PyTorch and in JAX, to be timed beside `maml_tf`."""
