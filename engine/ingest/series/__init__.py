"""Places of planes in time, across slices and in the patient; levels of slides."""
