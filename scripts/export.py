"""Exports a finished run: `python scripts/export.py run=runs/default/RUN into=DIR`.

form=merged (the default) writes a plain transformers checkpoint, with the adapter merged into the weights, and evaluates it
again. form=adapter writes what `peft.PeftModel.from_pretrained` loads. Both include the tokenizer and a model card with the
record's numbers. push=USER/NAME sends the folder to the Hugging Face hub. data.path=DIR, backbone.source=DIR and
backbone.tokenizer=DIR name the folders of the data and of the backbone if they moved.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.checks import one_of
from core.errors import UserError
from scripts.cli import command, parse

OPTIONS = {
    "run": None,
    "into": None,
    "form": "merged",
    "push": None,
    "data.path": None,
    "backbone.source": None,
    "backbone.tokenizer": None,
}
FORMS = ("merged", "adapter")


def export(options: dict[str, str | None]) -> None:
    """Writes the export that the options ask for, and pushes it if they say so."""
    if options["form"] != "folded":  # the earlier name of merged
        one_of(*FORMS)("form", options["form"])
    folder = Path(options["into"])
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"into: {folder} is there already, and not empty: name a new folder")
    from experiments.export import export_adapter, export_merged, merging_table
    from experiments.record import RECORD
    from experiments.restore import restore
    from training.accelerator import make_accelerator  # seconds to import: a mistake should not wait for it

    run = Path(options["run"].removesuffix(RECORD))
    restored = restore(run, options["data.path"], options["backbone.source"], options["backbone.tokenizer"])
    place = options["push"] or str(folder)
    with complete(folder) as unfinished:
        if options["form"] == "adapter":
            export_adapter(restored, unfinished, place)
        else:
            accelerator = make_accelerator(restored.run.trainer, restored.run.deterministic)
            print(merging_table(export_merged(restored, unfinished, accelerator, place)))
    print(f"written: {folder}")
    if options["push"]:
        print(f"pushed: {push(folder, options['push'])}")


@contextmanager
def complete(folder: Path) -> Iterator[Path]:
    """A temporary folder, renamed to `folder` when everything is written; after an error nothing of it is left."""
    unfinished = folder.resolve().with_name(f".{folder.resolve().name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        yield unfinished
        if folder.exists():
            folder.rmdir()  # it is empty
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def push(folder: Path, repository: str) -> str:
    """Sends a folder to the hub with the token of `hf auth login`; returns its address."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        api = HfApi()
        address = api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        raise UserError(f"push={repository}: {str(error).splitlines()[0]}; {folder} is complete") from error
    return str(address)


@command
def main(words: list[str]) -> None:
    export(parse(words, OPTIONS, required=("run", "into"), rest_are="none")[0])


if __name__ == "__main__":
    sys.exit(main())
