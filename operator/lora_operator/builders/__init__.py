"""Spec in, Kubernetes object out.

A package of its own because builders are pure: what a run becomes can be read, and tested, without
a cluster.
"""
