"""Two models in one experiment: how much faster is one, and how sure is that."""
