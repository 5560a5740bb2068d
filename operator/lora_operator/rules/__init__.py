"""The policy: small rules, one file each, whose order in `decide` is what the operator does.

A package of its own because this is what a reader comes for: what happens to a run, and why.
"""
