"""From YAML to a checked recipe, and all that can be wrong with one."""
