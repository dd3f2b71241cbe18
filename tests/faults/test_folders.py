"""Damaged folders of adapters (ours and peft's) and of encoders: each trains or is refused."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.command_line import compose
from support.files import save_encoder

import train
from faults.inputs import train_in, tries

SHAPES = (None, 0, [], {}, "a", [{}], {"a": 1})
NUMBERS = (True, False, 0, -1, 1, 2, 3, 10**9, 1e300, 0.5)
VALUES = st.sampled_from((*NUMBERS, None, "", "a", "gelu", "../x", "\0", "\ud800", [], [1], ["a"], {}, {"a": 1}))


@dataclass(frozen=True)
class Damage:
    """A folder's files with one of them damaged, None for a folder in its place; a report names the damage, not the files."""

    what: str
    files: dict[str, bytes | None] = field(repr=False)


@st.composite
def damages(draw: st.DrawFn, files: dict[str, bytes]) -> Damage:
    """One of the files, damaged in one way."""
    name = draw(st.sampled_from(sorted(files)))
    raw, rest = files[name], {other: files[other] for other in files if other != name}
    kinds = ["cut", "empty", "flip", "flip", "header", "delete", "folder", "swap", "garbage"]
    if name.endswith(".json"):
        kinds += ["shape", "key", "key", "key", "key", "drop"]
    place = draw(st.integers(0, len(raw) - 1))
    kind = draw(st.sampled_from(kinds))
    if kind in ("key", "drop"):
        values = json.loads(raw)
        if not isinstance(values, dict) or not values:
            return Damage("none", files)
        key, value = draw(st.sampled_from(sorted(values))), draw(VALUES)
        changed = {other: values[other] for other in values if other != key} | ({key: value} if kind == "key" else {})
        return Damage(f"{name}: {kind} {key} {value!r}", rest | {name: json.dumps(changed).encode()})
    if kind == "delete":
        return Damage(f"{name}: {kind}", rest)
    if kind == "header":
        place %= min(len(raw), 400)
    bit, other = draw(st.integers(0, 7)), draw(st.sampled_from(sorted(files)))
    flipped = raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :]
    changed = {
        "cut": raw[:place],
        "empty": b"",
        "folder": None,
        "flip": flipped,
        "header": flipped,
        "swap": files[other],
        "garbage": draw(st.binary(max_size=40)),
        "shape": json.dumps(draw(st.sampled_from(SHAPES))).encode(),
    }
    return Damage(f"{name}: {kind} {place} {bit} {other}", rest | {name: changed[kind]})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def fill(folder: Path, files: dict[str, bytes | None]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, raw in files.items():
        (folder / name).mkdir() if raw is None else (folder / name).write_bytes(raw)


@pytest.mark.parametrize("architecture", ["roberta", "bert"])
def test_a_damaged_encoder_trains_or_is_refused(architecture, is_long, tally, tmp_path):
    save_encoder(tmp_path / "whole", architecture)
    files, tried = contents(tmp_path / "whole"), []
    words = ("backbone=custom", f"backbone.source={tmp_path / 'damaged'}", "task.max_length=32", "task=rte")

    @tries(5, 200, is_long)
    @given(damages(files))
    def attempt(damaged: Damage) -> None:
        tried.append(damaged.what)
        fill(tmp_path / "damaged", damaged.files)
        train_in(tmp_path / "x", *words)

    attempt()
    tally("inputs tried", len(tried))


METHODS = {"lora": ("method=lora", "method.rank=4"), "vera": ("method=vera", "method.rank=8")}


@pytest.mark.parametrize("kind", ["ours", "peft", "run"])
@pytest.mark.parametrize("method", METHODS)
def test_a_damaged_adapter_trains_or_is_refused(method, kind, is_long, tally, tmp_path):
    words = ("profile=offline", "backbone=tiny", "logger=none", "trainer.max_steps=2")
    sizes = ("data.train_size=16", "data.eval_size=8")
    run = compose(*words, *sizes, *METHODS[method], f"output_dir={tmp_path / 'runs'}")
    train.train(run)
    folder = run.folder if kind == "run" else run.folder / "adapter"
    files, tried = contents(folder), []
    if kind == "run":
        files = {name: files[name] for name in ("result.json", "best.safetensors")}
    if kind == "peft":  # whose header names no backbone
        from safetensors.torch import load_file, save_file

        save_file(load_file(folder / "adapter_model.safetensors"), tmp_path / "plain", {"format": "pt"})
        files["adapter_model.safetensors"] = (tmp_path / "plain").read_bytes()

    @tries(3, 100, is_long)
    @given(damages(files), st.sampled_from(("fresh", "kept")))
    def attempt(damaged: Damage, head: str) -> None:
        tried.append(damaged.what)
        fill(tmp_path / "damaged", damaged.files)
        train_in(tmp_path / "x", *METHODS[method], f"init_from={tmp_path / 'damaged'}", f"init_head={head}", "seed=0")

    attempt()
    tally("inputs tried", len(tried))
