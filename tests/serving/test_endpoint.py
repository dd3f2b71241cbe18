"""The HTTP endpoint: right answers from shared passes, one request's fault is its own, bad requests are refused."""

import asyncio
import io
import json
import re
from pathlib import Path

import pytest
import torch
from aiohttp.test_utils import TestClient, TestServer
from support.files import TEXTS
from support.tiny import tiny_model

from benchmarks.serving import OUTPUTS as DRAWN
from benchmarks.serving import RANKS, draw_adapter
from core.errors import UserError
from models.random_init import train_tokenizer
from scripts.serve import folders
from scripts.serve_load import load
from serving.endpoint import MOST_TEXTS, Endpoint, encode
from serving.mixed import Server
from tasks.glue import GLUE, Task

PAIRS = Task("pairs", "pairs", ("a", "b"), ("x", "y", "z"), ("accuracy",))
TASKS = {"cola": GLUE["cola"], "pairs": PAIRS, "stsb": GLUE["stsb"]}


@pytest.fixture
def endpoint():
    model = tiny_model()
    tokenizer = train_tokenizer(TEXTS, vocabulary=300, pad_id=1)
    server = Server(model, budget=10**9)
    layers = [name for name in server.store.layers if "query" in name]
    for number, outputs in enumerate(DRAWN):  # draw_adapter's outputs go by its number
        adapter = draw_adapter(server.store, layers, number * len(RANKS), seed=0)
        name = next(name for name, task in TASKS.items() if task.outputs == outputs)
        server.store.add(name, adapter)
    return Endpoint(server, tokenizer, TASKS, max_length=32, batch=8)


def call(endpoint, *bodies, path="/classify") -> list[tuple[int, dict]]:
    """Status and JSON of requests that are sent at the same time."""

    async def send(client, body):
        data = io.BytesIO((body if isinstance(body, str) else json.dumps(body)).encode())
        async with client.post(path, data=data) if body is not None else client.get(path) as response:
            return response.status, json.loads(await response.text())

    async def run():
        async with TestClient(TestServer(endpoint.app())) as client:
            return await asyncio.gather(*(send(client, body) for body in bodies))

    return asyncio.run(run())


def expected(endpoint, name: str, text: tuple[str, ...]) -> torch.Tensor:
    encoded = encode([text], endpoint.tokenizer, 32)
    return endpoint.server.logits(encoded, [0], [name])[0]


def requests(count: int) -> list[dict]:
    names = ["cola", "pairs", "stsb"]
    return [
        {"adapter": (name := names[i % 3]), "texts": [f"the cat {i}" if name == "cola" else [f"a dog {i}", "ran"]]}
        for i in range(count)
    ]


def test_requests_at_the_same_time_share_passes_and_each_gets_its_adapters_answer(endpoint):
    bodies = requests(45)
    answers = call(endpoint, *bodies)
    assert {status for status, _ in answers} == {200}
    assert endpoint.answered == 45
    assert endpoint.passes < 30
    for body, (_, said) in zip(bodies, answers, strict=True):
        [answer], [text] = said["answers"], body["texts"]
        logits = expected(endpoint, body["adapter"], (text,) if isinstance(text, str) else tuple(text))
        if body["adapter"] == "stsb":
            assert answer["score"] == pytest.approx(logits.item(), abs=1e-5)
        else:
            assert list(answer["probabilities"].values()) == pytest.approx(logits.softmax(0).tolist(), abs=1e-5)
            assert answer["label"] == TASKS[body["adapter"]].labels[int(logits.argmax())]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("nonsense", 400, "send JSON like"),
        ("[" * 100_000, 400, "send JSON like"),
        ([1], 400, "send JSON like"),
        ({"adapter": "cola"}, 400, "send JSON like"),
        ({"adapter": "nix", "texts": ["a"]}, 404, "there is no adapter 'nix'; there are: cola, pairs, stsb"),
        ({"adapter": ["cola"], "texts": ["a"]}, 404, "there is no adapter"),
        ({"adapter": "cola", "texts": []}, 400, "texts must be a list of 1 to"),
        ({"adapter": "cola", "texts": "a"}, 400, "texts must be a list of 1 to"),
        ({"adapter": "cola", "texts": ["a"] * (MOST_TEXTS + 1)}, 400, "texts must be a list of 1 to"),
        ({"adapter": "cola", "texts": ["a", ["b", "c"]]}, 400, "text 1 must be a string (sentence), for adapter cola"),
        ({"adapter": "pairs", "texts": ["a"]}, 400, "text 0 must be a list of 2 strings (a and b), for adapter pairs"),
        ({"adapter": "cola", "texts": [7]}, 400, "text 0 must be a string"),
        ({"adapter": "cola", "texts": ["\ud800"]}, 400, "text 0 must be a string"),
        ("x" * 2_000_000, 413, "exceeded"),
    ],
)
def test_a_bad_request_is_refused_in_one_sentence_and_others_are_answered(body, status, message, endpoint):
    [good, bad] = call(endpoint, requests(1)[0], body)
    assert good[0] == 200
    assert bad[0] == status
    assert message in bad[1]["error"]


def test_one_requests_fault_is_its_own(endpoint, monkeypatch, capsys):
    right = endpoint.server.logits

    def logits(data, indices, names):
        if any("poison" in text[0] for text in data.split.texts):
            raise RuntimeError("secret details")
        return right(data, indices, names)

    monkeypatch.setattr(endpoint.server, "logits", logits)
    *good, bad = call(endpoint, *requests(12), {"adapter": "cola", "texts": ["poison"]})
    assert {status for status, _ in good} == {200}
    assert bad == (500, {"error": "the server could not answer this request"})
    assert "RuntimeError: secret details" in capsys.readouterr().err  # for whoever runs the server


def test_adapters_beyond_the_budget_together_are_served_in_parts(endpoint):
    endpoint.server.store.budget = max(block.nbytes for block in endpoint.server.store.host.values())
    answers = call(endpoint, *requests(9))
    assert {status for status, _ in answers} == {200}


@pytest.mark.parametrize("is_wrong", [False, True])
def test_a_load_is_measured_both_ways_and_wrong_answers_are_counted(is_wrong, endpoint, monkeypatch, capsys):
    logits = endpoint.logits
    if is_wrong:
        monkeypatch.setattr(endpoint, "logits", lambda batch: [row + torch.rand_like(row) for row in logits(batch)])

    async def run():
        async with TestServer(endpoint.app()) as server:
            await load(str(server.make_url("")).rstrip("/"), 12, 6, 3)

    asyncio.run(asyncio.wait_for(run(), 60))
    said = capsys.readouterr().out
    assert re.match(r"3 adapters: \d+ requests/s one at a time, \d+ with 6 at once, x ", said)
    assert said.endswith("; 0 of 36 answers differ\n") != is_wrong


def test_the_adapters_are_listed(endpoint):
    [(status, said)] = call(endpoint, None, path="/adapters")
    assert status == 200
    assert said["cola"] == {"task": "cola", "labels": ["unacceptable", "acceptable"], "columns": ["sentence"]}


def test_runs_are_named_and_none_twice():
    assert folders(["runs/a/", "mine=runs/b"]) == {"a": Path("runs/a"), "mine": Path("runs/b")}
    with pytest.raises(UserError, match="name the folders of finished runs"):
        folders([])
    with pytest.raises(UserError, match="two runs are called a"):
        folders(["runs/a", "other/a"])
