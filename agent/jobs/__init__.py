"""What the commands do: each job is made of what `agent/build.py` builds."""
