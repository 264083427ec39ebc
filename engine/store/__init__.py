"""Storage of pixels, catalog, results and tables; knows no foreign formats and no scheduler."""
