"""mmrec: item catalogue and interaction log in, measured multimodal recommender out."""
