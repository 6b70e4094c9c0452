"""Fuzzing of what strangers write: requests, cases, saved requests, forms, and the rows of a catalog.

`python -m fuzz` (`make fuzz`) lets atheris look for inputs; the functions of `targets` are called by unit tests, too.
"""
