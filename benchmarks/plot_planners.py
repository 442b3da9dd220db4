"""Draw what planners make of budgets, task by task.

python benchmarks/plot_planners.py        results/planners_budgets.json -> docs/images/planner_budgets.png
"""

from pathlib import Path

from forethought.agent.files import read_json, write_bytes
from forethought.agent.report.comparison import curves_by_task
from forethought.agent.report.comparison_plots import budget_curves

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "planners_budgets.json"
PICTURE = ROOT / "docs" / "images" / "planner_budgets.png"


def main() -> None:
    """Write the picture."""
    if not RESULT.exists():
        raise SystemExit(f"{RESULT} must exist: it is the `results.json` of `forethought bench planners budgets=...`")
    write_bytes(PICTURE, budget_curves(curves_by_task(read_json(RESULT)), "evaluations per plan", "score"))
    print(f"{PICTURE} drawn")


if __name__ == "__main__":
    main()
