"""What a namespace may train, how much, in which order and at what price.

Values in, values out: no client, no clock, no cache. The operator and `make simulate-policy` run
the same code.
"""
