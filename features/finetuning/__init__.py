"""Fine-tuning an encoder on the image-text pairs of a catalogue."""
