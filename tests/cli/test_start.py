"""What is set before TensorFlow is imported."""

import os
import platform

import pytest

from maml_tf.cli import start


@pytest.mark.parametrize(
    ("processor", "before", "after"),
    [("x86_64", None, "1"), ("AMD64", None, "1"), ("x86_64", "0", "0"), ("arm64", None, None)],
)
def test_an_x86_takes_onednn_unless_the_environment_says_otherwise(
    processor, before, after, monkeypatch
):
    monkeypatch.setattr(platform, "machine", lambda: processor)
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if before is not None:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", before)
    start.use_onednn()
    assert os.environ.get("TF_ENABLE_ONEDNN_OPTS") == after
