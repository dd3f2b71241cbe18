"""How training moves magnitudes and directions of weights, as in DoRA's figure 2: `python scripts/decompose.py runs/NAME`.

    python train.py -m experiment=minilm_3_epochs method=full,lora,dora data.path=DIR reuse_records=false
    python scripts/decompose.py runs/minilm_3_epochs

Reads the best state of each finished run of full fine-tuning, LoRA and DoRA below the folder, at the rate that held-out data
choose where several were tried. Writes a record for each to `into=paper_tables/records/decomposition`, of which
`make_figures.py` draws `decomposition`, and prints the correlation of the two changes over the layers' query matrices.
"""

import sys
from pathlib import Path

from analysis.decomposition import FOLDER, correlations, decompose, groups, runs_below, shown, title
from analysis.records import METHODS, at_chosen_settings, read_runs
from core.errors import UserError
from core.io import write_json
from scripts.cli import command, parse


@command
def main(words: list[str]) -> None:
    options, folders = parse(words, {"into": str(FOLDER)}, rest_are="paths")
    if len(folders) != 1:
        raise UserError("give one folder of runs, as in runs/minilm_3_epochs")
    chosen = set(at_chosen_settings(read_runs([Path(folders[0])]))["path"])
    records = []
    for folder in runs_below(Path(folders[0])):
        if str(folder) in chosen:
            records.append(decompose(folder))
            write_json(Path(options["into"]) / f"{folder.name}.json", records[-1])
    if not records:
        raise UserError(
            f"no run of {folders[0]} can be compared: where a method has several settings, held-out data (data.holdout=0.1) "
            "must choose one, and the runs' folders must hold their weights"
        )
    for group in groups(records):
        figures = "; ".join(f"{METHODS[method]} {shown(s)}" for method, s in correlations(group).items())
        print(f"{title(group)}: correlation of ΔM and ΔD over layers: {figures}")


if __name__ == "__main__":
    sys.exit(main())
