"""What both sides say to each other: the resource, the job document, progress, result, exit codes.

A package of its own because the operator and the trainer must agree on it and must not import each
other. It needs pydantic and nothing else, so either side can import it in milliseconds.
"""

GROUP = "loratraining.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
