"""What pruning cost: perplexity, and the divergence from the dense model."""
