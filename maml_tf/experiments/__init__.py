"""From settings to the things that they name."""
