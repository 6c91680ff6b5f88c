"""``python -m slimgpt``: the command line without its script."""

from slimgpt.cli import main

main()
