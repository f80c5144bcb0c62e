"""Whether a process is there; apart from the helpers, which import TensorFlow."""


def is_running(pid):
    """Whether there is such a process, and no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
