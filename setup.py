"""Lets tools that know only setup.py install the project; pyproject.toml says everything."""

from setuptools import setup

setup()
