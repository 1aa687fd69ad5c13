"""Lists of the best items, for users and for items, from a published bundle or a run folder."""
