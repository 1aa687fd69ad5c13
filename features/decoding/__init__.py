"""From the bytes of a picture, however damaged, to the pixels that an encoder takes."""
