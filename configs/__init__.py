"""Configuration: the schema of a run, and its registration with Hydra."""
