"""What makes a pruned checkpoint a release: its manifest and its card."""
