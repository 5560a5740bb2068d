"""The operator's own, lean way to the API server: credentials, paths, reads and writes.

A package of its own because nothing in it knows what a LoRATraining means.
"""
