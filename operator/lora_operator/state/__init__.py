"""What is seen of a run, and what is decided about it: values only, no I/O.

A package of its own so that rules, builders and tests share one small vocabulary.
"""
