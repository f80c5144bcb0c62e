"""Timings of the package's hot paths, beside the same work done by other libraries."""
