"""Draw decision time against the planning budget, and peak memory with and without chunks.

python benchmarks/plot_speed.py        results/speed/scaling.json -> docs/images/planning_cost.png
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import EngFormatter

from forethought.agent.files import read_json

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "speed" / "scaling.json"
PICTURE = ROOT / "docs" / "images" / "planning_cost.png"


def main() -> None:
    """Write the picture."""
    if not RESULT.exists():
        raise SystemExit(f"{RESULT} must exist: `python benchmarks/speed.py --parts scaling` makes it")
    results = read_json(RESULT)["results"]
    points = results["points"]
    work = np.array([p["samples"] * p["iterations"] * p["horizon"] for p in points], float)
    times = np.array([p["p50_ms"] for p in points])
    slope, start = np.polyfit(work, times, 1)
    fit = start + slope * work
    explained = 1 - ((times - fit) ** 2).sum() / ((times - times.mean()) ** 2).sum()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    for horizon, marker in zip(sorted({p["horizon"] for p in points}), "os^", strict=False):
        chosen = np.array([p["horizon"] == horizon for p in points])
        left.plot(work[chosen], times[chosen], marker, ms=5, label=f"horizon {horizon}")
    order = np.argsort(work)
    left.plot(work[order], fit[order], color="gray", lw=1, label=f"linear fit, R² = {explained:.3f}")
    left.set_xlabel("candidates x iterations x horizon")
    left.set_ylabel("decision, ms")
    left.xaxis.set_major_formatter(EngFormatter(sep=""))
    left.legend(fontsize=8, frameon=False)
    ways = ["at once" if r["limit"] is None else f"{r['limit']:,} per call" for r in results["memory"]]
    labels = [f"{r['samples']:,}\n{way}" for r, way in zip(results["memory"], ways, strict=True)]
    right.bar(labels, [r["mib"] for r in results["memory"]], color=["tab:orange", "tab:blue"] * (len(labels) // 2))
    right.set_ylabel("peak memory of a plan, MiB")
    right.tick_params(axis="x", labelsize=8)
    for axes in (left, right):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=110, metadata={"Software": None})
    print(f"{PICTURE} drawn")


if __name__ == "__main__":
    main()
