"""The program that makes the small base model: pictures, autoencoder, denoiser, export.

It is a package of its own because it is run once, by hand, and nothing else in the project imports
it: the project only uses the weights it leaves in `examples/small-base/model/`.
"""
