"""The trainer: one job document in, one checked LoRA out.

It knows nothing of Kubernetes. Modules that import torch are themselves imported only when the
stage that needs them begins, because the first optimiser step waits for every import before it.
"""

__version__ = "0.1.0"
