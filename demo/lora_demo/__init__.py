"""The demonstration: from a bare machine to a LoRA one can look at, through every real part.

A package of its own because it plays the platform: it does only what a platform's own code would
do (install the chart, upload pictures, apply a YAML, watch its status) and shares no code with
operator or trainer.
"""
