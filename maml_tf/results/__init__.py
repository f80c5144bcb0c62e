"""What an evaluation leaves, and how it is read back."""
