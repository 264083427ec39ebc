"""Networks that say what each pixel is: the only part of the engine that needs torch.

`base` says what a network is, `unet`, `deeplab` and `unions` are those there are, `building` makes
one by its name, `prediction` runs one on arrays. Importing this package imports no torch; its
modules do (extra ``segment``).
"""
