"""Training of networks: `loop`, on crops of `augmentation`, with `losses` and `checkpoints`.

Only these modules import torch at the top, besides `datasets.torch` and `datasets.transforms`.
"""
