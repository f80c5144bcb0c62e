"""Tasks, in whatever form a user gives them."""
