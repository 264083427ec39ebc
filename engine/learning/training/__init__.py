"""Training itself: `loop` runs it, on crops of `augment`, with `losses`, kept by `checkpoints`.

The only modules of this package that import torch, beside those that load models where asked.
"""
