"""The latent world model (JEPA): encoders, dynamics, heads and the losses that train them.

LeCun, "A Path Towards Autonomous Machine Intelligence" (2022): predict embeddings of future observations, never the
observations themselves. Everything here is a `torch.nn.Module` without knowledge of environments beyond `EnvSpec`.
"""
