"""Encoders: images and token ids in, vectors out."""
