"""Objects of label images: measures of `skimage.measure.regionprops_table`, rings, neighbours.

`runs` finds the runs of each object, on which all other modules work; `extents` measures boxes and
sums, `ellipse` second moments, `borders` perimeter and Euler number, `hulls` convex hulls and
`values` intensities. `measure.measure_objects` calls them for a selection of properties. `rings`
grows rings around objects, and `relations` finds their neighbours and parents.
"""
