"""A real single-node Kubernetes, S3 server and fake GPUs on a plain Linux machine."""
