"""Plain functions as operations: definition, columns, and the attributes that they read."""
