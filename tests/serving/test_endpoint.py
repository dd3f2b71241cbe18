"""The HTTP endpoint: right answers from shared passes, one request's fault is its own, bad requests are refused."""

import asyncio
import errno
import io
import json
import re
import socket
from pathlib import Path

import pytest
import torch
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from support.files import TEXTS
from support.tiny import tiny_model

from analysis.endpoint import table
from benchmarks.serving import OUTPUTS as DRAWN
from benchmarks.serving import RANKS, draw_adapter
from core.errors import UserError
from models import batches
from models.random_init import train_tokenizer
from scripts.serve import folders, listening, require_free
from scripts.serve_load import base, differ, keep, load, verdict
from serving.endpoint import MOST_TEXTS, Endpoint, encode, in_one_sentence
from serving.mixed import Server
from tasks.glue import GLUE, Task
from tasks.loading import Split

PAIRS = Task("pairs", "pairs", ("a", "b"), ("x", "y", "z"), ("accuracy",))
TASKS = {"cola": GLUE["cola"], "pairs": PAIRS, "stsb": GLUE["stsb"]}
LENGTHS = {"cola": 32, "pairs": 32, "stsb": 20}


@pytest.fixture
def endpoint():
    model = tiny_model()
    tokenizer = train_tokenizer(TEXTS, vocabulary=300, pad_id=1)
    server = Server(model, 10**9, encode(TEXTS, tokenizer, [32, 32]))
    layers = [name for name in server.store.layers if "query" in name]
    for number, outputs in enumerate(DRAWN):  # draw_adapter's outputs go by its number
        adapter = draw_adapter(server.store, layers, number * len(RANKS), seed=0)
        name = next(name for name, task in TASKS.items() if task.outputs == outputs)
        server.store.add(name, adapter)
    return Endpoint(server, tokenizer, TASKS, LENGTHS, batch=8)


def test_a_client_that_goes_away_is_not_an_error(capsys):
    async def gone(request):
        raise ConnectionResetError("Connection lost")

    assert asyncio.run(in_one_sentence(make_mocked_request("POST", "/classify"), gone)).status == 499
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("packing", ["gzip", "br"])
def test_packed_bodies_are_refused_in_one_sentence(endpoint, packing, capsys):
    async def run():
        headers = {"Content-Encoding": packing}
        async with TestClient(TestServer(endpoint.app())) as client:
            response = await client.post("/classify", data=b"abc", headers=headers)
            return response.status, await response.json()

    refused = (415, {"error": f"the body is packed with {packing}: send it as it is"})
    assert asyncio.run(run()) == refused
    assert capsys.readouterr().err == ""


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
    encoded = encode([text], endpoint.tokenizer, [32])
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
        ({"adapter": "cola", "texts": ["a"], "foo": 1}, 400, "unknown key 'foo'; there are: adapter, texts"),
        ({"adaptor": "cola", "texts": ["a"]}, 400, "did you mean adapter?"),
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


@pytest.mark.parametrize(
    ("path", "body", "status"), [("/classifi", {}, 404), ("/classify", None, 405), ("/", None, 404)]
)
def test_an_unknown_path_or_verb_names_what_can_be_asked(path, body, status, endpoint):
    verb = "GET" if body is None else "POST"
    error = f"there is no {verb} {path}; there are: POST /classify, GET /adapters, GET /about"
    assert call(endpoint, body, path=path) == [(status, {"error": error})]


def test_an_answer_says_which_texts_were_cut(endpoint):
    def words(tokens: int) -> str:  # `a` is one token; two more begin and end the text
        return " ".join(["a"] * (tokens - 2))

    fits, long = words(32), words(33)
    assert [len(endpoint.tokenizer(text)["input_ids"]) for text in (fits, long)] == [32, 33]
    some, none, pairs = call(
        endpoint,
        {"adapter": "cola", "texts": [long, "a", fits, long]},
        {"adapter": "cola", "texts": ["a", fits]},
        {"adapter": "pairs", "texts": [["a", "a"], [fits, "a"]]},
    )
    assert (some[1]["cut"], pairs[1]["cut"]) == ([0, 3], [1])
    assert not differ(some[1]["answers"][2], some[1]["answers"][0])  # the end was not read
    assert none[1].keys() == {"answers"}


def test_each_adapters_texts_are_cut_at_the_length_of_its_own_run(endpoint):
    body = {"texts": [["a " * 6, "a " * 20], ["a", "a"]]}
    pairs, stsb = call(endpoint, body | {"adapter": "pairs"}, body | {"adapter": "stsb"})
    assert "cut" not in pairs[1]
    assert stsb[1]["cut"] == [0]
    split = Split("texts", [tuple(text) for text in body["texts"]], [0, 0], [0, 1])
    data = batches.encode(split, endpoint.tokenizer, LENGTHS["stsb"])  # as predict.py does
    expected = [logits.item() for logits in endpoint.server.logits(data, [0, 1], ["stsb", "stsb"])]
    assert [answer["score"] for answer in stsb[1]["answers"]] == pytest.approx(expected, abs=1e-5)


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
    assert "RuntimeError: secret details" in capsys.readouterr().err  # in the server's log


def test_adapters_beyond_the_budget_together_are_served_in_parts(endpoint):
    endpoint.server.store.budget = max(block.nbytes for block in endpoint.server.store.host.values())
    answers = call(endpoint, *requests(9))
    assert {status for status, _ in answers} == {200}


@pytest.mark.parametrize("is_wrong", [False, True])
def test_a_load_is_measured_both_ways_and_wrong_answers_are_counted(is_wrong, endpoint, monkeypatch):
    logits = endpoint.logits
    if is_wrong:
        monkeypatch.setattr(endpoint, "logits", lambda batch: [row + torch.rand_like(row) for row in logits(batch)])

    async def run():
        async with TestServer(endpoint.app()) as server:
            return await load(str(server.make_url("")).rstrip("/"), 12, 6, 3)

    said = verdict(asyncio.run(asyncio.wait_for(run(), 60)))
    assert re.match(r"3 adapters: \d+ requests/s one at a time, \d+ with 6 at once, x ", said)
    assert said.endswith("; 0 of 36 answers differ") != is_wrong


def test_a_load_of_one_round_has_no_interval(endpoint):
    async def run():
        async with TestServer(endpoint.app()) as server:
            return await load(base(f"{server.host}:{server.port}/classify/"), 4, 2, 1)

    said = verdict(asyncio.run(asyncio.wait_for(run(), 60)))
    assert re.search(r", x \d+\.\d \(no interval, n = 1\); 0 of 4", said)


def test_a_loads_record_says_what_answered_and_becomes_a_line_of_the_table(endpoint, tmp_path):
    machine = {"device": "cpu", "cpu": "X", "threads": 2, "precision": "fp32"}
    endpoint.about = {"backbone": "minilm", "provenance": {"hardware": machine}}

    async def run():
        async with TestServer(endpoint.app()) as server:
            return await load(base(f"{server.host}:{server.port}"), 4, 2, 3)

    record = asyncio.run(asyncio.wait_for(run(), 60))
    keep(record, tmp_path)
    [file] = (tmp_path / "records/endpoint").iterdir()
    assert json.loads(file.read_text()) == record
    [line] = table(file.parent).cells.to_numpy().tolist()
    assert (line[:4], line[-2:]) == (["MiniLM", "X, 2 threads, fp32", "3", "2"], ["3", "0 of 12"])


def test_an_address_needs_no_scheme():
    assert {base(word) for word in ("a:1", "a:1/", "http://a:1", "http://a:1/classify")} == {"http://a:1"}
    assert base("https://a/b") == "https://a/b"


def test_a_load_on_no_server_or_another_is_refused_in_one_sentence():
    async def elsewhere(request):
        return web.Response(text="hello")

    async def run(address):
        app = web.Application()
        app.add_routes([web.get("/adapters", elsewhere)])
        async with TestServer(app) as server:
            await load(address or str(server.make_url("")).rstrip("/"), 4, 2, 1)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        there = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=f"^nothing answers at {there}: start scripts/serve.py, which prints its "):
            asyncio.run(run(there))
    for address in ("", "http://", "ftp://a"):
        with pytest.raises(UserError, match=r"is not the address that scripts/serve\.py prints: give that one$"):
            asyncio.run(run(address))


def test_an_address_that_cannot_be_listened_at_is_refused_with_the_way_out():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"^port {port} is in use: take another one, as in port=\d+$"):
            require_free("127.0.0.1", port)
    require_free("127.0.0.1", port)
    for host in ("192.0.2.1", "no.such.host.invalid"):
        with pytest.raises(UserError, match=f"^host={host} is not an address of this machine: host=127.0.0.1 is one$"):
            require_free(host, port)
    with pytest.raises(UserError, match="port 80 needs root's rights"), listening("127.0.0.1", 80):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_the_adapters_are_listed(endpoint):
    [(status, said)] = call(endpoint, None, path="/adapters")
    assert status == 200
    assert said["cola"] == {"task": "cola", "labels": ["unacceptable", "acceptable"], "columns": ["sentence"]}


def test_runs_have_names_and_no_two_share_one():
    assert folders(["runs/a/", "mine=runs/b"]) == {"a": Path("runs/a"), "mine": Path("runs/b")}
    with pytest.raises(UserError, match="name the folders of finished runs"):
        folders([])
    with pytest.raises(UserError, match="two runs are called a"):
        folders(["runs/a", "other/a"])
