"""The catalog: tables of images, shards and annotations, and their index."""
