"""Where the bytes of pictures come from: files, URIs, contents of a column."""
