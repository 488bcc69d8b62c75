"""Damaged files of every kind that medxlate reads, each brought through the function that reads it.

``python tests/fuzz --count 20000 --seed 0`` from the repository's root;
``tests/robustness/test_fuzz.py`` is the short form. An input follows from seed,
kind and number alone.
"""
