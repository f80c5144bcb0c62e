"""Losses, metrics and optimizers, in whatever form a user gives them."""
