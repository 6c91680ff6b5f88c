"""One thin module a verb; slimgpt.cli finds them by name."""
