"""What the agent has lived through, on disk, outliving the process.

- `episode`: one episode as arrays, its checks and its byte layout.
- `store`: the episodes of any number of environments in an embedded, crash-safe database.
- `sampler`: batches of short sequences and hindsight goal pairs for training.
- `normalizer`: running mean and standard deviation of vector observations.
- `interop`, `interop_lerobot`, `interop_lerobot_write`: exchange with Minari and LeRobot datasets.
- `graph`: landmarks, and the ways between them.
- `commands`: what `forethought memory` does.

Retrieval (`index`) has its place here too.
"""
