"""Give a finished run a macro-action model, without touching what it has learned: for `agent.configurator.guide=macro`.

    python benchmarks/macro_model.py runs/maze runs/maze-macro
    forethought eval run=runs/maze-macro agent.configurator.mode=auto agent.configurator.guide=macro

The macro-action model sends no gradient to the rest of the world model, so it can as well be trained after it, on the
run's memory: with the loss, windows and step sizes of `forethought train ... world_model.macro_stride=24
learner.window=32 learner.batch_size=64`. Everything else of the run stays as it is, and both can be compared.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch

from forethought.agent.build import load_alone
from forethought.agent.memory.sampler import SequenceSampler
from forethought.agent.memory.store import EpisodeStore
from forethought.agent.runs import RESULTS
from forethought.agent.training.checkpoint import load_checkpoint, save_checkpoint
from forethought.agent.world_model.macro import MacroModel

STRIDE, DIM, WINDOW, BATCH = 24, 4, 32, 64
LEARNING_RATE, CLIP = 1e-3, 10.0


def fit(run: Path, out: Path, seed: int = 0, updates: int = 5000) -> float:
    """Train a macro-action model on the memory of a run, into the folder of a new one.

    Args:
        run: of a finished training toward goals.
        out: folder to make; memory and logs of the run are not copied into it.
        seed: of weights and draws.
        updates: gradient steps.

    Returns:
        what jumps miss by, as a share of what they cover: root mean squares over latents, at the end.
    """
    torch.set_flush_denormal(True)
    model = load_alone(run).model.requires_grad_(requires_grad=False)
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        macro = MacroModel(model.latent_dim, model.spec.action_dim, model.options.hidden_dim, STRIDE, DIM, model.norm)
    optimizer = torch.optim.AdamW(macro.parameters(), lr=LEARNING_RATE, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates, eta_min=LEARNING_RATE / 10)
    missed = covered = 0.0
    with EpisodeStore.open(run / "memory") as store:
        sampler = SequenceSampler(store, model.spec, WINDOW)
        for update in range(updates):
            batch = sampler.sample(BATCH, rng)
            with torch.no_grad():
                z, actions = model.encode_sequence(batch.obs, batch.actions), model.normalize_action(batch.actions)
            noise = torch.randn(BATCH, WINDOW - STRIDE + 1, DIM, generator=generator)
            optimizer.zero_grad()
            macro.loss(z, actions, noise).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(macro.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            if update >= updates - 100:
                with torch.no_grad():
                    ahead = macro.jump(z[:, 0], macro.encode(z[:, 0], actions[:, :STRIDE])[0])
                missed += float((ahead - z[:, STRIDE]).square().mean())
                covered += float((z[:, STRIDE] - z[:, 0]).square().mean())
    saved = load_checkpoint(run / "best.safetensors")
    saved.state["card"]["config"]["world_model"] |= {"macro_stride": STRIDE, "macro_dim": DIM}
    tensors = saved.tensors | {f"model.macro.{name}": weights for name, weights in macro.state_dict().items()}
    begun = out.with_name(f"{out.name}.part")  # so that a folder by that name is whole
    shutil.rmtree(begun, ignore_errors=True)
    shutil.copytree(run, begun, ignore=shutil.ignore_patterns("memory", "tensorboard", "best.safetensors", *RESULTS))
    save_checkpoint(begun / "best.safetensors", tensors, saved.state)
    begun.rename(out)
    return float(np.sqrt(missed / covered))


def main() -> None:
    """Train one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--seed", type=int, default=0, help="of weights and draws")
    parser.add_argument("--updates", type=int, default=5000, help="gradient steps")
    arguments = parser.parse_args()
    missed = fit(arguments.run, arguments.out, arguments.seed, arguments.updates)
    print(f"{arguments.out}: jumps of {STRIDE} decisions miss by {missed:.0%} of what they cover")


if __name__ == "__main__":
    main()
