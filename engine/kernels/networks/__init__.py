"""Segmentation networks: the only kernels that need torch.

`base` defines the interface; `unet`, `deeplab` and `ensembles` are the architectures; `factory`
creates a network by name; `torch_predictor` and `onnx_predictor` run one on arrays. Importing this
package does not import torch; importing its modules does (extra ``segment``).
"""
