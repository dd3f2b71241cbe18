"""The results page: what it says, and that a browser shows it."""

import json
import re
import shlex
import shutil
import time
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from support.command_line import ROOT, compose
from support.records import record

from analysis.page import SYMBOLS, composed, page_data, write_page
from analysis.records import RECORDS, frame, read_all
from analysis.render import Table
from analysis.statistics import difference, holm, summarize
from scripts.make_page import keyed

HOSTILE = "<img src=x onerror=\"document.title='run'\">"


def page_of(*records, tables=()):
    found = {
        (r["experiment"], r["config_hash"]): (Path(f"records/{r['experiment']}/{i}.json"), r)
        for i, r in enumerate(records)
    }
    return page_data(frame(records), found, list(tables), "minilm")


def command_words(own) -> list[str]:
    """Those of the command beside the run on the page, which trains that very run."""
    [run] = page_of(own)["runs"]
    words = shlex.split(run["command"])
    assert compose(*words[2:]).hash == own["config_hash"], run["command"]
    return words


def study(experiment="study"):
    """Two methods on CoLA, full fine-tuning at two rates, three seeds each."""
    cells = {("full", "1e-5"): (0.5, 0.3), ("full", "1e-4"): (0.6, 0.4), ("lora", "1e-3"): (0.55, 0.3)}
    return [
        record(
            *(f"method={method}", "task=cola", f"trainer.learning_rate={rate}", f"seed={seed}", "data.holdout=0.1"),
            scores=(0.1, score + seed / 50),
            held_out=(0.1, held),
            experiment=experiment,
        )
        for (method, rate), (score, held) in cells.items()
        for seed in range(3)
    ]


def test_the_page_has_the_tables_statistics():
    data = page_of(*study())
    by_label = {s["label"]: s for s in data["settings"]}
    assert [label for label, s in by_label.items() if s["chosen"]] == [
        "Full FT, learning_rate 0.0001",
        "LoRA",
    ]
    assert {s["family"] for s in data["settings"]} == {"Full FT", "LoRA"}
    scores = {
        name: {seed: 100 * (base + seed / 50) for seed in range(3)} for name, base in (("full", 0.6), ("lora", 0.55))
    }
    s = summarize(list(scores["full"].values()))
    shown = by_label["Full FT, learning_rate 0.0001"]["scores"]["held-out"]
    assert (shown["mean"], shown["low"], shown["high"], shown["n"]) == pytest.approx((s.mean, s.low, s.high, 3))
    d = difference(scores["full"], scores["lora"])
    [pair] = data["pairs"]
    assert (pair["a"], pair["mean"], pair["of"]) == ("Full FT, learning_rate 0.0001", pytest.approx(d.mean), 1)
    assert pair["corrected"] == holm([pair["p"]])[0]


def test_the_same_settings_in_two_experiments_are_two_runs():
    data = page_of(*study("one"), *study("two"))
    assert len({run["id"] for run in data["runs"]}) == 18
    assert {name for s in data["settings"] for name in s["runs"]} == {run["id"] for run in data["runs"]}


def test_two_metrics_of_a_task_are_never_compared():
    runs = [
        record("task=mrpc", f"method={method}", experiment="x", metric=m)
        for method, m in (("lora", "f1"), ("dora", "accuracy"))
    ]
    data = page_of(*runs)
    assert data["tasks"] == {"MRPC (accuracy)": "MRPC (accuracy)", "MRPC (f1)": "MRPC (f1)"}
    assert data["pairs"] == []
    assert all("task=mrpc" in run["command"] for run in data["runs"])


def test_a_run_without_speed_or_of_a_failed_training_is_shown():
    failed = record("method=lora", "task=cola", "seed=5", status="failed", reason="the loss is nan", experiment="study")
    fast = record("method=dora", "task=cola", experiment="study")
    fast["speed"] = dict.fromkeys(fast["speed"], float("nan"))
    data = page_of(failed, fast)
    assert json.dumps(data, allow_nan=False)
    assert [(s["failed"], s["scores"]["best"] is None) for s in data["settings"]] == [(1, True), (0, False)]


def test_the_command_of_a_committed_record_trains_that_run():
    """One record of each experiment: the command's settings have the record's hash."""
    records = keyed(read_all(RECORDS))
    first = {experiment: key for key in reversed(records) for experiment in [key[0]]}
    chosen = {key: records[key] for key in first.values()}
    data = page_data(frame(r for _, r in chosen.values()), chosen, [], "minilm")
    for run in data["runs"]:
        words = shlex.split(run["command"])
        assert words[:2] == ["python", "train.py"]
        assert compose(*words[2:]).hash == run["id"].split("/")[1], run["command"]


def test_the_command_of_a_task_and_a_backbone_of_ones_own_trains_that_run():
    own = record(
        *("backbone=custom", "backbone.source=org/model", "task=custom", "task.name=spam", "task.columns=[a text,b]"),
        *("task.labels=['0','it\\'s, yes']", "data=local", "data.path=X", "trainer.epochs=3", "note='a, b'"),
        data="local",
        experiment="default",
    )
    assert {"task.name=spam", "backbone.source=org/model", "trainer.epochs=3"} <= set(command_words(own))


def test_the_command_gives_a_default_that_the_runs_experiment_does_not_have():
    """The experiment sets what has other defaults: epochs, batch size, precision."""
    own = record(
        *("backbone=minilm", "data=local", "data.path=X", "method=lora", "task=mrpc", "data.holdout=0.1"),
        experiment="minilm_3_epochs",
        data="local",
    )
    words = command_words(own)
    assert {"experiment=minilm_3_epochs", "trainer.batch_size=32", "trainer.epochs=10"} <= set(words)


def test_settings_are_compared_with_the_defaults():
    assert composed(("method=lora", "task=cola", "backbone=minilm", "data=local"))["method.rank"] == 8
    assert composed(("method=gone", "task=cola")) == {}


def test_runs_on_generated_data_decide_no_claim_and_the_page_tells_them_apart():
    rows = [record(f"method={m}", f"data={d}", data=d) for m, d in product(("lora", "full"), ("generated", "hub"))]
    data = page_of(*rows)
    assert {s["model"] for s in data["settings"]} == {"RoBERTa-base, data=generated", "RoBERTa-base, data=hub"}
    assert sorted(pair["model"] for pair in data["pairs"]) == ["RoBERTa-base, data=generated", "RoBERTa-base, data=hub"]
    assert not any(s["held_out"] for s in data["settings"])
    of_hub = page_of(*rows[1::2])
    assert data["claims"] == of_hub["claims"]


def test_predictions_make_a_confusion_matrix(tmp_path):
    run = record("task=cola", experiment="study")
    lines = [{"label": label, "prediction": answer} for label, answer in ((0, 0), (0, 1), (1, 1), (1, 1))]
    (tmp_path / "predictions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = {("study", run["config_hash"]): (tmp_path / "result.json", run)}
    [shown] = page_data(frame([run]), found, [], "minilm")["runs"]
    assert shown["confusion"] == {"labels": [0, 1], "counts": [[1, 1], [0, 2]]}


@pytest.fixture(scope="module")
def browser():
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("needs Chromium and its chromedriver: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1000"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        made = webdriver.Chrome(options=options, service=Service(driver))
    except WebDriverException as error:
        pytest.skip(f"Chromium does not start here: {error.msg}")
    yield made
    made.quit()


def wait(browser, script, *arguments):
    """The script's value, once it is true."""
    for _ in range(600):
        if value := browser.execute_script(f"return {script}", *arguments):
            return value
        time.sleep(0.1)
    raise AssertionError(f"never true: {script}")


def words(browser):
    return browser.execute_script("return document.body.innerText")


def test_a_browser_opens_every_view_without_an_error_or_a_request_elsewhere(browser, tmp_path):
    hostile = study(experiment="study")
    table = Table("t", HOSTILE, pd.DataFrame([[HOSTILE, "1.0"]], columns=["method", HOSTILE]))
    hostile[0]["provenance"]["hardware"]["cpu"] = HOSTILE
    for run in hostile:
        run["config"]["note"] = run["task"] = HOSTILE
    page = write_page(page_of(*hostile, *study("other"), tables=[table]), tmp_path / "page")
    assert sorted(path.name for path in page.parent.iterdir()) == [
        "data.js",
        "index.html",
        "page.css",
        "page.js",
        "plotly.min.js",
    ]
    browser.get_log("performance")
    for view in ("overview", "tradeoffs", "rates", "curves", "ranks", "memory", "compare", "claims", "tables", "run"):
        browser.get("about:blank")
        browser.get(f"{page.as_uri()}#view={view}&experiment=study")
        assert len(wait(browser, "document.getElementById('main').innerText")) > 20, view
        if view in ("tradeoffs", "rates", "curves", "memory", "compare"):
            assert wait(browser, "document.querySelectorAll('.plot .main-svg').length"), view
        assert browser.title.endswith("PEFT on GLUE"), view  # no setting was run
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {e["params"]["request"]["url"] for e in sent if e["method"] == "Network.requestWillBeSent"}
    assert {url for url in urls if not url.startswith((page.parent.as_uri(), "data:", "about:"))} == set()


def test_a_browser_sorts_chooses_and_opens_a_run(browser, tmp_path):
    page = write_page(page_of(*study(), *study("other")), tmp_path / "page")
    browser.get("about:blank")
    browser.get(f"{page.as_uri()}#view=overview&experiment=study")
    column = "[...document.querySelectorAll('#main tbody tr')].map((row) => row.cells[0].innerText).join()"
    assert wait(browser, column) == "Full FT,LoRA"
    head = "[...document.querySelectorAll('#main th button')].find((b) => b.innerText.startsWith('CoLA'))"
    browser.execute_script(f"{head}.click(); {head}.click()")
    assert wait(browser, column) == "LoRA,Full FT"
    browser.execute_script(
        "const s = document.querySelector('select[name=rates]'); s.value = 'all'; s.dispatchEvent(new Event('change'))"
    )
    wait(browser, f"{column}.includes('learning_rate 1e-05')")
    browser.execute_script("document.querySelector('#main td.number button').click()")
    wait(browser, "location.hash.includes('view=run')")
    shown = words(browser)
    assert "python train.py" in shown
    assert "trainer.learning_rate" in shown
    assert "fp32" in shown
    browser.execute_script("history.back()")
    assert wait(browser, f"{column}.includes('LoRA')")


def test_the_page_fits_a_phone(browser, tmp_path):
    page = write_page(page_of(*study()), tmp_path / "page")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        for view in ("overview", "tradeoffs", "compare", "run"):
            browser.get("about:blank")
            browser.get(f"{page.as_uri()}#view={view}")
            wait(browser, "document.getElementById('main').innerText")
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 390, view
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_make_page_shows_the_committed_records(tmp_path, monkeypatch, capsys):
    from scripts import make_page

    monkeypatch.setattr(make_page, "all_tables", lambda runs: [])  # they take half a minute
    monkeypatch.setattr("sys.argv", ["make_page.py", f"into={tmp_path / 'page'}"])
    assert make_page.main() == 0
    assert capsys.readouterr().out == f"{tmp_path / 'page' / 'index.html'}\n"
    shown = (tmp_path / "page/data.js").read_text()
    assert shown.startswith("const DATA = {")
    assert "<" not in shown
    assert str(ROOT) not in shown
    monkeypatch.setattr("sys.argv", ["make_page.py", "runs/nothing_here"])
    assert make_page.main() == 2


def test_the_legend_knows_each_symbol():
    script = (ROOT / "analysis/page_files/page.js").read_text()
    shapes = script[script.index("const SHAPES") : script.index("};", script.index("const SHAPES"))]
    assert [symbol for symbol in SYMBOLS.values() if not re.search(rf'["\s]{symbol}"?:', shapes)] == []
