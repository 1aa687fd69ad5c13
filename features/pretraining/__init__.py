"""Pre-training a multimodal encoder on a catalogue's own items."""
