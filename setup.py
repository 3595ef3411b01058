"""Packaging for tools that ask for a setup.py; everything stands in pyproject.toml."""

from setuptools import setup

setup()
