"""A rover in a package of its own; installing it is enough for `Rover-v0` to be known."""

import gymnasium


def register() -> None:
    """Called by way of the entry point in pyproject.toml; nothing heavy is imported before a rover is made."""
    gymnasium.register("Rover-v0", entry_point="forethought_rover.rover:Rover", max_episode_steps=100)
