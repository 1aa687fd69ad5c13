"""Data of other tools, in and out: one module per format."""
