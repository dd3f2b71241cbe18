"""Tables and figures of any folder of runs: one line a setting, and nothing reaches the repository's tables unasked."""

import json
import sys
from itertools import product
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from support.records import record

import scripts.make_figures
import scripts.make_tables
import scripts.results
from analysis import own_study
from analysis.drawing import write_figures
from analysis.records import RECORDS, collect, frame, read_runs
from analysis.subspace import write_similarity
from core.errors import UserError
from scripts.results import budget, settings_that_differ, summaries


def leave(folder, *overrides: str, **more) -> None:
    """A run's folder with its record."""
    run = record(*overrides, **more)
    place = folder / f"{run['experiment']}/{run['config_hash']}"
    place.mkdir(parents=True)
    (place / "result.json").write_text(json.dumps(run))


def sweep(folder) -> None:
    """Two seeds of each pair of two settings that no table names."""
    for seed, decay, dropout in product((0, 1), ("0.0", "0.1"), ("0.0", "0.5")):
        words = (f"seed={seed}", f"trainer.weight_decay={decay}", f"method.dropout={dropout}")
        leave(folder, *words, scores=(0.1, float(decay) + float(dropout)), experiment="mine")


def test_a_sweep_over_two_settings_is_a_line_for_each_of_their_pairs(tmp_path):
    sweep(tmp_path)
    statistics, costs = own_study.tables(read_runs([tmp_path]))
    pairs = [f"LoRA, dropout {d}, weight_decay {w}" for d, w in product(("0", "0.5"), ("0", "0.1"))]
    assert sorted(statistics.cells["runs"]) == sorted(costs.cells["method"]) == pairs
    assert set(statistics.cells["seeds"]) == {"2"}
    medians = dict(zip(statistics.cells["runs"], statistics.cells["median"], strict=True))
    assert medians[pairs[0]] == "10.0"  # the best of 0.1 and 0
    assert medians[pairs[3]] == "60.0"


def test_no_difference_is_taken_between_runs_on_other_examples():
    for key in ("train_size", "eval_size"):
        runs = frame([record("method=lora"), record("method=dora", f"data.{key}=20")])
        assert set(own_study.tables(runs)[0].cells["less LoRA"]) == {""}
        runs = frame([record(f"method={name}", f"data.{key}=20") for name in ("lora", "dora")])
        assert any(own_study.tables(runs)[0].cells["less LoRA"])


def test_runs_without_a_common_seed_are_a_line_for_each_setting():
    same = frame([record("seed=0"), record("seed=1")])
    apart = frame([record("seed=0"), record("seed=1", "trainer.weight_decay=0.3")])
    assert len(own_study.tables(same)[-1].cells) == 1
    assert len(own_study.tables(apart)[-1].cells) == 2


def test_what_methods_do_not_share_is_in_labels_and_in_results_columns(tmp_path):
    """Two methods on other budgets do not look alike; their learning rates differ by nature."""
    leave(tmp_path, "method=lora", "trainer.epochs=3", experiment="mine")
    leave(tmp_path, "method=dora", "trainer.epochs=1", "data.train_size=200", experiment="mine")
    runs = read_runs([tmp_path])
    statistics, _ = own_study.tables(runs)
    assert sorted(statistics.cells["runs"]) == ["DoRA, train_size 200, epochs 1", "LoRA, train_size null, epochs 3"]
    assert settings_that_differ(runs) == ["trainer.learning_rate", "data.train_size", "trainer.epochs"]
    leave(tmp_path, "method=dora", "trainer.epochs=3", experiment="mine")
    runs = read_runs([tmp_path])
    rows = [(row["method"], row["train_size"], row["seeds"]) for row in summaries(runs)]
    assert rows == [("lora", None, 1), ("dora", 200, 1), ("dora", None, 1)]


def test_budget_and_statistics_tell_what_was_scored_and_where_runs_began(tmp_path):
    leave(tmp_path, "method=lora", "task=cola", "data.eval_size=32", "init_from=saved", experiment="mine")
    runs = read_runs([tmp_path])
    told = budget(runs)
    assert told.startswith("init_from saved, ")
    assert "eval_size 32" in told
    assert "start" not in told
    statistics, _ = own_study.tables(runs)
    assert list(statistics.cells["task"]) == ["CoLA, 32 examples"]


def test_every_setting_that_differs_is_named_even_if_two_go_together(tmp_path):
    """Only the head's rate is omitted, where it is the trunk's everywhere."""
    leave(tmp_path, "method=full", "trainer.learning_rate=1e-5", "trainer.batch_size=8", experiment="mine")
    leave(tmp_path, "method=full", "trainer.learning_rate=1e-4", "trainer.batch_size=16", experiment="mine")
    runs = read_runs([tmp_path])
    labels = {label.replace("learning_rate", "rate") for label in own_study.tables(runs)[0].cells["runs"]}
    assert labels == {"Full FT, batch_size 8, rate 1e-05", "Full FT, batch_size 16, rate 0.0001"}


def test_runs_on_two_sources_of_data_share_no_comparison_no_line_and_no_figure(tmp_path):
    for data, method, score in (("generated", "lora", 0.9), ("local", "lora", 0.2), ("local", "dora", 0.3)):
        leave(
            tmp_path,
            f"method={method}",
            f"data={data}",
            *["data.path=X"] * (data == "local"),
            scores=(0.1, score),
            data=data,
        )
    runs = read_runs([tmp_path])
    statistics, costs = own_study.tables(runs)
    for table, column in ((statistics, "runs"), (costs, "method")):
        assert sorted(zip(table.cells["backbone"], table.cells[column], strict=True)) == [
            ("RoBERTa-base, data=generated", "LoRA"),
            ("RoBERTa-base, data=local", "DoRA"),
            ("RoBERTa-base, data=local", "LoRA"),
        ]
    [less] = [cell for cell in statistics.cells["less LoRA"] if cell]
    assert less == "+10.0"
    assert {name for name in own_study.figures(runs) if name.startswith("curves")} == {
        "curves_roberta-base_cola_generated",
        "curves_roberta-base_cola_local",
    }


def test_a_setting_that_goes_with_the_source_of_data_keeps_its_name(tmp_path):
    """A backbone's name implies only its weights."""
    settings = [record("method=lora", "data=generated", "data.train_size=200"), record("method=lora", "data=hub")]
    keys = settings_that_differ(frame(settings))
    assert {"data.name", "data.train_size"} <= set(keys)
    settings = [record("method=lora", "backbone=minilm"), record("method=lora")]
    assert settings_that_differ(frame(settings)) == ["trainer.learning_rate", "backbone.name"]


def test_the_same_runs_in_two_experiments_are_in_both_tables_whatever_the_order(tmp_path):
    for experiment in ("one", "two"):
        for seed in (0, 1):
            leave(tmp_path, f"seed={seed}", experiment=experiment)
    for folders in ((tmp_path / "one", tmp_path / "two"), (tmp_path / "two", tmp_path / "one"), (tmp_path,)):
        runs = read_runs(folders)
        assert [table.name for table in own_study.tables(runs)] == ["one_statistics", "two_statistics", "costs"]
        assert list(runs["experiment"].value_counts()) == [2, 2]
        assert len(own_study.as_one(runs)) == 2  # a figure shows each once


def test_a_complete_run_counts_and_not_a_failed_record_of_it(tmp_path):
    leave(tmp_path / "a", experiment="mine")
    leave(tmp_path / "b", experiment="mine", status="failed", reason="nan")
    for folders in ((tmp_path / "a", tmp_path / "b"), (tmp_path / "b", tmp_path / "a")):
        assert list(read_runs(folders)["status"]) == ["complete"]


def test_failed_runs_are_reported(tmp_path, monkeypatch, capsys):
    leave(tmp_path, "seed=0", experiment="mine")
    leave(tmp_path, "seed=1", experiment="mine", status="failed", reason="the loss is nan")
    leave(tmp_path, "method=dora", experiment="mine", status="failed", reason="the loss is nan")
    assert run_script(scripts.results, monkeypatch, str(tmp_path)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[-2].strip() for line in lines if line.startswith(("| LoRA", "| DoRA"))] == [
        "50.0, 1 failed",
        "1 failed",
    ]


def test_figures_say_how_many_settings_have_no_complete_run(tmp_path):
    for rate, status in (("1e-4", "complete"), ("1e-3", "complete"), ("1e30", "failed"), ("1e20", "failed")):
        leave(tmp_path, f"trainer.learning_rate={rate}", experiment="mine", status=status)
    leave(tmp_path, "task=rte", "trainer.learning_rate=1e9", experiment="mine", status="failed")
    figures = own_study.figures(read_runs([tmp_path]))
    found = [figure.get_suptitle() or figure.axes[0].get_title() for figure in figures.values()]
    titles = [" ".join(title.split()) for title in found]  # a long one has two lines
    assert len(titles) == 3
    assert all("CoLA, RoBERTa-base (2 settings without a complete run): " in title for title in titles)


def test_a_setting_looks_alike_in_every_panel_of_the_curves(tmp_path):
    for method, decay, last in (("lora", 0, 0.2), ("lora", 0.1, 0.4), ("dora", 0, 0.4), ("dora", 0.1, 0.2)):
        words = (f"method={method}", f"trainer.weight_decay={decay}")
        leave(tmp_path, *words, scores=(0.1, last), experiment="mine")
    figure = own_study.figures(read_runs([tmp_path]))["curves_roberta-base_cola"]
    lines = [{line.get_label(): line for line in ax.get_lines()} for ax in figure.axes]
    assert [list(panel) for panel in lines] == [
        ["weight_decay 0.1", "weight_decay 0"],
        ["weight_decay 0", "weight_decay 0.1"],
    ]
    for label in lines[0]:
        assert lines[0][label].get_marker() == lines[1][label].get_marker()
        assert lines[0][label].get_color() == lines[1][label].get_color()


def test_metrics_are_never_mixed(tmp_path, monkeypatch, capsys):
    leave(tmp_path, "task=mrpc", experiment="mine")
    leave(tmp_path, "task=mrpc", "seed=1", experiment="mine", metric="f1", scores=(0.9,))
    found = own_study.figures(read_runs([tmp_path]))
    assert {"curves_roberta-base_mrpc_accuracy", "curves_roberta-base_mrpc_f1"} <= set(found)
    assert run_script(scripts.results, monkeypatch, str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "| MRPC (accuracy) | MRPC (F1) |" in out
    assert "| 50.0 | 90.0 |" in out


def test_speeds_of_two_machines_are_never_one_number(tmp_path):
    for seed, cpu in ((0, "X"), (1, "X"), (2, "Y")):
        hardware = {"device": "cpu", "cpu": cpu, "threads": 1, "precision": "fp32"}
        leave(tmp_path, f"seed={seed}", experiment="mine", provenance={"hardware": hardware})
    runs = read_runs([tmp_path])
    [row] = summaries(runs)
    assert (row["machines"], row["samples_per_second"], row["peak_bytes"]) == (
        "X, 1 thread, fp32; Y, 1 thread, fp32",
        None,
        None,
    )
    assert [line[1] for line in own_study.tables(runs)[-1].cells.to_numpy()] == [
        "X, 1 thread, fp32",
        "Y, 1 thread, fp32",
    ]
    [figure] = [f for name, f in own_study.figures(runs).items() if name.startswith("trade_offs")]
    assert "speed and memory on X, 1 thread, fp32" in figure.get_suptitle()


def test_every_grid_has_figures_and_rates_have_theirs(tmp_path):
    sweep(tmp_path)
    names = set(own_study.figures(read_runs([tmp_path])))
    assert names == {"curves_roberta-base_cola", "trade_offs_roberta-base_cola"}
    for rate in ("1e-4", "1e-3"):
        leave(tmp_path, "method=head", f"trainer.learning_rate={rate}", "task=mrpc", scores=(0.1, 0.2))
    runs = read_runs([tmp_path])
    files = {path.stem for path in write_figures(lambda: own_study.figures(runs), tmp_path / "figures")}
    assert files == names | {f"{kind}_roberta-base_mrpc" for kind in ("curves", "trade_offs", "learning_rates")}


def test_each_setting_of_a_method_has_a_marker_of_its_own(tmp_path):
    """The first has the method's own marker, which no other setting has."""
    sweep(tmp_path)
    leave(tmp_path, "method=dora", experiment="mine")
    figure = own_study.figures(read_runs([tmp_path]))["trade_offs_roberta-base_cola"]
    points = [(line.get_color(), line.get_marker()) for line in figure.axes[0].lines]
    assert len(points) == len(set(points)) == 5


def test_labels_name_what_differs_on_the_figures_own_task(tmp_path):
    leave(tmp_path, "task=cola", experiment="mine")
    for patience in ("null", "3"):
        leave(tmp_path, "task=rte", f"trainer.patience={patience}", experiment="mine")
    found = own_study.figures(read_runs([tmp_path]))
    labels = {
        task: sorted(text.get_text() for text in found[f"trade_offs_roberta-base_{task}"].legends[0].get_texts())
        for task in ("cola", "rte")
    }
    assert labels == {"cola": ["LoRA"], "rte": ["LoRA, patience 3", "LoRA, patience null"]}


def test_a_run_without_a_speed_leaves_blanks_and_valid_json(tmp_path, monkeypatch, capsys):
    """Of three steps or fewer, all of them warm-up."""
    none = {"samples_per_second": None, "tokens_per_second": None, "step_ms_median": None}
    leave(tmp_path, experiment="mine", speed=none)
    runs = read_runs([tmp_path])
    assert list(own_study.tables(runs)[-1].cells["samples/s"]) == [""]
    assert [text.get_text() for text in own_study.figures(runs)["trade_offs_roberta-base_cola"].axes[1].texts] == [
        "not measured"
    ]
    assert run_script(scripts.results, monkeypatch, str(tmp_path), "format=json") == 0

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    [row] = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert row["samples_per_second"] is None


def test_subspaces_are_compared_only_within_their_own_experiment(tmp_path):
    for seed in (0, 1):
        leave(tmp_path / "mine", f"seed={seed}", experiment="mine")
        leave(tmp_path / "generated", f"seed={seed}", experiment="subspace", data="generated")
    for folder in ("mine", "generated"):
        with pytest.raises(UserError, match="no two finished LoRA runs of experiment=subspace on real data"):
            write_similarity(tmp_path / folder, tmp_path / "similarity")
    assert not (tmp_path / "similarity").exists()


def test_tables_stay_as_they_are_if_no_run_is_taken_over(tmp_path, monkeypatch, capsys):
    leave(tmp_path / "runs", data="generated")
    before = {path: path.stat().st_mtime_ns for path in RECORDS.parent.rglob("*")}
    assert run_script(scripts.make_tables, monkeypatch, str(tmp_path / "runs"), "take_over=true") == 2
    assert "no run was taken over" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in RECORDS.parent.rglob("*")} == before


def run_script(script, monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["script.py", *words])
    return script.main()


def test_the_scripts_write_beside_the_runs_or_into_a_folder_and_nowhere_else(tmp_path, monkeypatch):
    sweep(tmp_path / "runs")
    before = {path: path.stat().st_mtime_ns for path in RECORDS.parent.rglob("*")}
    assert run_script(scripts.make_tables, monkeypatch, str(tmp_path / "runs")) == 0
    assert run_script(scripts.make_figures, monkeypatch, str(tmp_path / "runs"), f"into={tmp_path / 'drawn'}") == 0
    assert (tmp_path / "runs/tables/mine_statistics.md").exists()
    assert (tmp_path / "drawn/curves_roberta-base_cola.png").exists()
    assert {path: path.stat().st_mtime_ns for path in RECORDS.parent.rglob("*")} == before
    assert run_script(scripts.make_tables, monkeypatch, str(tmp_path / "runs"), "itno=x") == 2


def test_records_are_taken_over_all_or_none(tmp_path):
    """Tries with other settings would break a published table, whose cell holds one setting."""
    for seed, words in ((0, ()), (1, ("trainer.max_steps=4",))):
        leave(tmp_path / "runs", f"seed={seed}", *words, experiment="parikh_wu_table1")
    with pytest.raises(UserError, match="records of several settings, which no cell can hold"):
        collect(tmp_path / "runs", tmp_path / "records", check=scripts.make_tables.check)
    assert not (tmp_path / "records").exists()


def test_no_path_of_the_machine_is_taken_over(tmp_path):
    words = ("data=local", f"data.path={tmp_path}", f"output_dir={tmp_path}", f"backbone.tokenizer={tmp_path}/own")
    leave(tmp_path / "runs", *words, experiment="mine")
    [file] = collect(tmp_path / "runs", tmp_path / "records")
    assert str(tmp_path) not in file.read_text()


def test_what_is_not_taken_over_is_counted_with_the_reason(tmp_path, capsys):
    for seed in (0, 1):
        leave(tmp_path / "runs", f"seed={seed}", data="generated")
    leave(tmp_path / "runs", experiment="default")
    (tmp_path / "none").mkdir()
    assert collect(tmp_path / "runs", tmp_path / "records") == collect(tmp_path / "none", tmp_path / "records") == []
    said = capsys.readouterr().err
    assert "2 runs on generated data: left out" in said
    assert "1 run of no experiment (conf/experiment/NAME.yaml): left out" in said
    assert "holds no run" in said


def test_each_rows_path_is_that_of_its_own_record():
    """The frame and the files are sorted, in different orders."""
    runs = read_runs([RECORDS / "minilm"])
    assert len(runs) > 50
    for run in runs.itertuples():
        assert json.loads(Path(run.path).read_text(encoding="utf-8"))["config_hash"] == run.hash


def test_long_labels_stay_within_their_figure():
    words = ("rank", "target_modules (query|value)(_proj)?$", "learning_rate 0.001", "weight_decay 0.1", "max_steps 14")
    label = ", ".join(words)
    assert own_study.fold(label, 3.0, 6).replace("\n", " ") == label
    figure = Figure(figsize=(3.0, 1.0))
    drawn = figure.legend([figure.add_subplot().plot([0])[0]], [own_study.fold(label, 3.0, 6)], fontsize=6)
    assert drawn.get_window_extent().width <= 3.0 * figure.dpi


def test_a_run_has_collapsed_if_the_evaluation_that_is_shown_has(tmp_path, monkeypatch, capsys):
    """Held-out data choose the second epoch, which gives one answer; the best one on the validation set does not."""
    leave(tmp_path, scores=(0.4, 0.0), held_out=(0.1, 0.2), experiment="mine")
    runs = read_runs([tmp_path])
    assert list(own_study.tables(runs)[0].cells["collapsed"]) == ["1"]
    monkeypatch.setattr(sys, "argv", ["results.py", str(tmp_path)])
    assert scripts.results.main() == 0
    assert "| 0.0 ‡1 |" in capsys.readouterr().out
