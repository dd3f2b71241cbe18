"""Prints a Markdown table of finished runs: `python scripts/results.py runs/default [more folders or result.json files]`.

A row a method, a column a task; a cell is the best evaluation of the task's main metric, times 100 and the median where
there are several seeds. A star marks runs on generated data, a dagger those that answered everything alike.
"""

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ORDER = ("full", "lora", "dora", "lora_fa", "lora_fa_corrected", "vera", "qlora")
TASKS = ("mnli", "sst2", "mrpc", "cola", "qnli", "qqp", "rte", "stsb", "wnli")


def read(paths: list[Path]) -> list[dict[str, Any]]:
    """The complete records below the paths."""
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*.json")))]
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return [record for record in records if record.get("status") == "complete"]


def cell(records: list[dict[str, Any]]) -> str:
    """One number of the table; nothing where there is no run."""
    if not records:
        return ""
    score = statistics.median(100 * record["best"][record["metric"]] for record in records)
    marks = "*" * any(record["data"] == "generated" for record in records)
    marks += "†" * any(record["best"]["collapsed"] for record in records)
    return f"{score:.1f}{marks}" + (f" ({len(records)})" if len(records) > 1 else "")


def table(records: list[dict[str, Any]]) -> str:
    """Markdown, for records of one backbone."""
    cells = defaultdict(list)
    for record in records:
        cells[record["method"], record["task"]].append(record)
    methods = sorted({m for m, _ in cells}, key=lambda m: (ORDER.index(m) if m in ORDER else len(ORDER), m))
    tasks = [task for task in TASKS if any(t == task for _, t in cells)]
    metrics = {task: next(r["metric"] for (_, t), rs in cells.items() if t == task for r in rs) for task in tasks}
    lines = ["| method | trained | " + " | ".join(f"{task} ({metrics[task]})" for task in tasks) + " |"]
    lines.append("|---|" + "---:|" * (len(tasks) + 1))
    for method in methods:
        trained = next(
            r["parameters"]["trained_without_head"] for (m, _), rs in cells.items() if m == method for r in rs
        )
        row = [cell(cells.get((method, task), [])) for task in tasks]
        lines.append(f"| {method} | {trained:,} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def main() -> int:
    records = read([Path(word) for word in sys.argv[1:] or ["runs"]])
    if not records:
        print(
            "error: no complete run there; give folders of runs, as in scripts/results.py runs/default", file=sys.stderr
        )
        return 2
    for backbone in sorted({record["backbone"] for record in records}):
        print(f"\n{backbone}\n")
        print(table([record for record in records if record["backbone"] == backbone]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
