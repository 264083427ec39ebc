"""Kernels: arrays in, arrays out; no store, no scheduler, no tables.

`circles` finds circles by edge points (`gradient`, `edges`), votes for centres (`votes`), fits
(`fit`) at their peaks (`candidates`, `search`) with enough of an edge (`support`), and
`competition`; `noise` estimates what it needs to know of the whole image; `measures` says what a
plane shows inside circles; `colour` makes one plane of several channels. `planes` says what may
come as a plane, `workspace` keeps buffers between images.

`contours` fills and measures polygons, `contour_trace` makes them of masks, `contour_checks` says
what may be wrong with them, and `ventricle` what they say of a heart.
"""
