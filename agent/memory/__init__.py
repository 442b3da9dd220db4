"""What the agent has lived through, on disk, outliving the process.

- `episode`: one episode as arrays, its checks and its byte layout.
- `store`: the episodes of any number of environments in an embedded, crash-safe database.
- `sampler`: batches of short sequences and hindsight goal pairs for training.
- `normalizer`: running mean and standard deviation of vector observations.
- `interop`, `interop_lerobot`, `interop_lerobot_write`: exchange with Minari and LeRobot datasets.
- `graph`: landmarks, and the ways between them.
- `index`: moments like the present one, and what was done after them.
- `moments`: moments of episodes as a world model sees them.
- `commands`, `model_commands`: what `forethought memory` does, without and with a model.

"""
