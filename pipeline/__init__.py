"""What runs, in which order, and where it is kept: configuration, run folder, lineage, locks, demo."""
