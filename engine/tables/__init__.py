"""Tables: build slices, merge them, export them."""
