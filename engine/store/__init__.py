"""Where pixels, catalog, results and tables live; knows no foreign formats and no scheduler."""
