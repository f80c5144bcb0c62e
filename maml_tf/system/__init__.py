"""What touches the machine: files, locks, signals, the terminal."""
