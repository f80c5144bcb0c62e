"""MiniImagenet, in the layout of TensorFlow Datasets."""
