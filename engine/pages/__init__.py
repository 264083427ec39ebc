"""HTML pages: their templates, and the environment that renders them."""
