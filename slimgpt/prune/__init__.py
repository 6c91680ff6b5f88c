"""Pruning a checkpoint: stream the layers, choose, compensate, cut, and resume after a crash."""
