"""Generates crds/ and docs/reasons.md from lora_api.

Apart from lora_api because only developers run it: the images ship the models, not the generator.
"""
