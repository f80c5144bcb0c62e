import pytest


@pytest.fixture(scope="module")
def back_end():
    """MuJoCo's way to draw on this machine."""
    from maml_tf.rl import offscreen

    try:
        return offscreen.working_back_end()
    except OSError as error:
        pytest.skip(str(error))
