"""What the scripts' command lines share: help, one sentence for a mistake, no secrets, no traceback for a closed pipe."""

import importlib
import subprocess
import sys

import pytest
from support.command_line import ENVIRONMENT, ROOT, TINY

from core.console import log
from core.errors import Diverged, UserError
from core.io import write_text
from scripts.cli import command, parse

SCRIPTS = sorted(file.stem for file in (ROOT / "scripts").glob("*.py") if file.stem != "cli")
PRINTED = """
import sys
from scripts.cli import command

@command
def main(words):
    {body}

sys.exit(main())
"""


def run(body: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess:
    code = PRINTED.format(body=body)
    words = [sys.executable, "-c", code]
    if shell:
        words = ["bash", "-c", f'set -o pipefail; "$0" -c "$1" | {shell}', sys.executable, code]
    return subprocess.run(words, cwd=ROOT, env={"PYTHONPATH": str(ROOT)} | environment, capture_output=True, text=True)


def status_of(monkeypatch, main, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["script.py", *words])
    return command(main)()


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_prints_its_docstring_for_help(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"scripts/{script}.py", "--help"])
    assert not importlib.import_module(f"scripts.{script}").main()
    assert f"scripts/{script}.py" in capsys.readouterr().out


def test_libraries_print_nothing_beside_the_reference_runs_lines(tmp_path):
    command = [sys.executable, ROOT / "scripts/reference.py", *TINY, "method=lora", "task=cola", "trainer.max_steps=1"]
    environment = ENVIRONMENT | {"WANDB_MODE": "online"}  # of `offline` transformers prints a line
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("epoch 0.17, step 1: ")


def test_a_script_runs_from_any_folder(tmp_path):
    command = [sys.executable, ROOT / "scripts/results.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "scripts/results.py" in done.stdout


@pytest.mark.parametrize(("error", "status"), [(UserError, 2), (OSError, 2), (Diverged, 1)])
def test_an_error_becomes_one_sentence_and_a_status(error, status, monkeypatch, capsys):
    def main(words):
        raise error("no such thing: take another")

    assert status_of(monkeypatch, main) == status
    assert capsys.readouterr().err == "error: no such thing: take another\n"


def test_a_file_where_a_folder_is_needed_is_named(monkeypatch, capsys, tmp_path):
    (tmp_path / "notes").touch()
    assert status_of(monkeypatch, lambda words: (tmp_path / "notes").mkdir(exist_ok=True)) == 2
    assert status_of(monkeypatch, lambda words: (tmp_path / "notes/more").mkdir()) == 2
    lines = [f"error: {tmp_path}/{name}: a file is there, and a folder is needed\n" for name in ("notes", "notes/more")]
    assert capsys.readouterr().err == "".join(lines)
    assert status_of(monkeypatch, lambda words: write_text(tmp_path / "notes/table.md", "text")) == 2
    why = f"{tmp_path}/notes/table.md cannot be written: {tmp_path}/notes: a file is there, and a folder is needed"
    assert capsys.readouterr().err == f"error: {why}\n"


def test_an_unexpected_error_keeps_its_traceback(monkeypatch):
    def main(words):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        status_of(monkeypatch, main)


def test_options_are_key_value_and_a_misspelt_one_is_named():
    options = {"run": None, "file": None}
    assert parse(["run=a=b", "A sentence.", "+method.rank=3"], options) == (
        {"run": "a=b", "file": None},
        ["A sentence.", "+method.rank=3"],
    )
    with pytest.raises(UserError, match="unknown option 'fle'; there are: file, run"):
        parse(["fle=x"], options)
    with pytest.raises(UserError, match=r"run=\.\.\. is missing"):
        parse([], options, required=("run",))
    with pytest.raises(UserError, match="file= is empty: give a value, or leave it out"):
        parse(["run=a", "file="], options)
    with pytest.raises(UserError, match=r"a path is empty: leave it out"):
        parse([""], {"into": None}, rest_are="paths")
    with pytest.raises(UserError, match=r"run= is empty: give a value$"):
        parse(["run="], options, required=("run",))


@pytest.mark.parametrize("script", ["results", "make_tables", "make_figures"])
@pytest.mark.parametrize("word", ["blah=1", "--blah", "--blah=1"])
def test_a_mistyped_option_is_not_taken_for_a_folder(script, word, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", [f"{script}.py", str(tmp_path), word])
    assert importlib.import_module(f"scripts.{script}").main() == 2
    known = "format" if script == "results" else "into, take_over"
    assert capsys.readouterr().err == f"error: unknown option 'blah'; there are: {known}\n"


def test_a_folder_may_have_a_name_like_an_option(tmp_path):
    (tmp_path / "a=b").mkdir()
    assert parse([f"{tmp_path}/a=b"], {"into": None}, rest_are="paths")[1] == [f"{tmp_path}/a=b"]
    with pytest.raises(UserError, match="unknown option 'other'; there are: into"):
        parse(["other"], {"into": None}, rest_are="none")
    with pytest.raises(UserError, match=f"write run={tmp_path}/a=b"):
        parse([f"{tmp_path}/a=b"], {"run": None}, required=("run",), rest_are="none")
    with pytest.raises(UserError, match="options have no dashes: write take_over=true"):
        parse(["--take-over=true"], {"take_over": None})


def test_an_ascii_terminal_shows_other_characters_as_escapes():
    done = run('print("a †")', PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, "a \\u2020\n", "")


def test_a_closed_pipe_is_not_an_error():
    done = run('[print("x" * 100) for _ in range(10_000)]', shell="head -1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "x" * 100 + "\n", "")


def test_log_levels_are_shown_and_secrets_are_hidden_even_in_tracebacks(monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_S3cr3t")
    log.info("a notice")
    log.warning("hf_S3cr3t is %s", "odd")
    try:
        raise ValueError("hf_S3cr3t")
    except ValueError:
        log.exception("it failed")
    notice, warning, *rest = capsys.readouterr().err.splitlines()
    assert (notice, warning, rest[0]) == ("a notice", "warning: <HF_TOKEN> is odd", "error: it failed")
    assert rest[-1] == "ValueError: <HF_TOKEN>"


def test_only_the_first_process_logs(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    log.error("said once")
    assert capsys.readouterr().err == ""
