"""The commands of README and docs compose, the worked example is a method that runs, and what is generated is current."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from support.command_line import ROOT, compose

from methods.base import REGISTERED
from scripts.methods_page import markdown
from tasks.glue import METRICS

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {file.name: file.read_text(encoding="utf-8") for file in sorted((ROOT / "docs").glob("*.md"))}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the code with the documented method written into it."""
    folder = tmp_path_factory.mktemp("house")
    for part in ("adapters", "conf", "core", "experiments", "hydra_plugins", "methods", "models", "tasks", "training"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", folder)
    write_documented_files(folder)
    return folder


def write_documented_files(folder) -> None:
    files = dict(re.findall(r"`([\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", PAGES["own_method.md"], flags=re.S))
    assert set(files) == {"methods/ia3.py", "conf/method/ia3.yaml"}
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def test_the_documented_method_trains_from_the_command_line(house):
    words = ["method=ia3", "task=rte", "profile=offline", "backbone=tiny", "logger=none", "trainer.max_steps=5"]
    done = subprocess.run([sys.executable, "train.py", *words], cwd=house, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    record = json.loads((house / done.stdout.splitlines()[-1].removeprefix("result: ")).read_text())
    assert record["status"] == "complete"
    assert record["method"] == "ia3"
    assert record["parameters"]["trained_without_head"] == 2 * 2 * 32


def test_the_documented_method_starts_at_the_pretrained_model_and_merges(house):
    script = """
import sys; sys.path.insert(0, sys.argv[1])
import torch
from methods.base import merge
from methods.ia3 import IA3
from support.tiny import shake, tiny_inputs, tiny_model
model = tiny_model()
with torch.no_grad():
    start = model(**tiny_inputs()).logits
    IA3().apply(model)
    assert torch.allclose(model(**tiny_inputs()).logits, start, atol=1e-6)
    shake(model)
    moved = model(**tiny_inputs()).logits
    assert not torch.allclose(moved, start, atol=1e-3)
    assert torch.allclose(merge(model)(**tiny_inputs()).logits, moved, atol=1e-5)
"""
    tests = house / "tests"
    tests.mkdir()
    shutil.copytree(ROOT / "tests/support", tests / "support")
    done = subprocess.run(
        [sys.executable, "-c", script, str(tests)], cwd=house, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_documented_commands_compose():
    """Each `train.py` line of README and docs, placeholders filled in."""
    text = "\n".join([README, *PAGES.values()])
    lines = re.findall(r"^(?:[\w/.]*python|accelerate launch) train\.py (?!-m)(.*?)(?:\s+#.*)?$", text, flags=re.M)
    assert len(lines) >= 8
    for line in lines:
        compose(*shlex.split(line.replace("DIR", "somewhere").replace("HUB_NAME_OR_FOLDER", "some/where")))


def test_the_help_fits_a_screen_and_its_commands_compose():
    done = subprocess.run([sys.executable, "train.py", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) <= 40
    assert re.search(r"^method: .*\bdora\b", done.stdout, flags=re.M)
    for words in re.findall(r"^  python train\.py ((?!-m)\S+(?: \S+)*?)  ", done.stdout, flags=re.M):
        compose(*words.split())
    settings = re.findall(r"^  ((?:\S+=\S+ ?)+)$", done.stdout, flags=re.M)
    assert len(settings) == 3
    compose(*shlex.split(" ".join(settings)))


def test_the_documented_scripts_and_targets_exist():
    text = "\n".join([README, *PAGES.values()])
    makefile = (ROOT / "Makefile").read_text()
    for script in set(re.findall(r"(?:python |`)(scripts/\w+\.py)", text)):
        assert (ROOT / script).exists(), script
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)(?:`|$|\s+#)", text, flags=re.M)):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target


def test_the_readme_is_a_front_door():
    """At most 150 lines of at most 120 characters, tables and links aside."""
    lines = README.splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_every_link_of_the_readme_leads_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 20
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_methods_md_matches_the_docstrings():
    """`python scripts/methods_page.py` writes it again. A method that is not listed yet does not count."""
    page, written = PAGES["methods.md"], markdown()
    if any(f"`method={name}`" not in page for name in REGISTERED):
        pytest.skip("a method of the user's own is not listed")
    assert page == written


def test_the_site_builds_without_a_dead_link(tmp_path):
    zensical = pytest.importorskip("zensical", reason="zensical is not installed: requirements-dev.txt")
    assert zensical
    for part in ("docs", "zensical.toml"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]

    def build() -> subprocess.CompletedProcess:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    done = build()
    assert done.returncode == 0, done.stdout + done.stderr
    assert {f"{name[:-3]}.html" for name in PAGES} <= {file.name for file in (tmp_path / "site").glob("*.html")}
    assert (tmp_path / "site/search.js").exists()
    (tmp_path / "docs/limits.md").write_text("# Limits\n\n[a dead link](nowhere.md)\n")
    assert build().returncode != 0


OWN_LORA = """
from dataclasses import dataclass
from typing import ClassVar

from methods.base import register
from methods.lora import LoRA


@register
@dataclass
class OwnLoRA(LoRA):
    learning_rate: ClassVar[float] = 8e-4
    name: str = "own_lora"
"""
OWN_EXPERIMENT = """# @package _global_
defaults:
  - override /backbone: minilm
  - override /data: local
hydra:
  sweeper:
    params:
      seed: 0,1
      method: ia3,own_lora,lora
"""


@pytest.mark.long
def test_methods_and_an_experiment_dropped_into_a_clone_pass_its_tests(tmp_path):
    """The documented method, a subclass of LoRA, and an experiment: files are added, none is changed."""
    clone, kept = tmp_path / "clone", ["records", "runs", ".*", "*.egg-info", "__pycache__", "figures"]
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(*kept))
    write_documented_files(clone)
    (clone / "methods/own_lora.py").write_text(OWN_LORA)
    (clone / "conf/method/own_lora.yaml").write_text("defaults: [/schema/method/own_lora]\n")
    (clone / "conf/experiment/mine.yaml").write_text(OWN_EXPERIMENT)
    chosen = (
        "ia3-rte or ia3] or own_lora] or own_lora-cola or mine] or registered or layers or ia3-roberta or own_lora-bert"
    )
    where = ("tests/house", "tests/methods", "tests/experiments/test_config.py", "tests/training/test_train.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-k", chosen, *where],
        cwd=clone,
        env=os.environ | {"PYTHONPATH": str(clone)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 40


def test_every_metric_of_a_task_of_ones_own_is_documented():
    page = (ROOT / "docs/own_study.md").read_text(encoding="utf-8")
    assert [name for name in METRICS if name not in page] == []
