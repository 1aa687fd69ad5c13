"""One module per stage: read files, call `features` and `recsys`, write files."""
