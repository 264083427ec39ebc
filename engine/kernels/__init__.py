"""Kernels: arrays in, arrays out; no store, no scheduler, no tables.

`circles` detects circles: edge points (`gradient`, `edges`), votes for centres (`votes`), fits
(`fit`) at the peaks of the votes (`candidates`, `search`), edge support (`support`) and
non-maximum suppression (`suppression`). `circles.measure` measures the grey values inside circles,
`circles.buffers` keeps work buffers between images.

`noise` estimates the noise of a whole image; `colour` makes one plane of several channels; `planes`
validates planes and their memory layout; `outline_drawing` draws soft outlines.

`contours.geometry` fills and measures polygons, `contours.trace` traces masks, `contours.checks`
checks contours for plausibility, and `contours.ventricle` measures ventricular walls and volumes.
`segmentation`, `networks` and `tiling` segment pixels, with and without neural networks. `objects`
measures the objects of label images, as scikit-image defines their measures.
"""
