"""Interactions, splits, graphs, models, training, ranking, metrics; arrays in, arrays out."""
