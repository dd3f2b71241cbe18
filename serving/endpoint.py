"""An HTTP endpoint over many adapters of one backbone: requests that come at the same time share a forward pass.

    POST /classify  {"adapter": "NAME", "texts": ["A sentence.", ["One.", "Another."]]}
                    -> {"answers": [{"label": "...", "probabilities": {...}} or {"score": 2.5}, ...]}
                       and, if texts are longer than `task.max_length`, "cut": [0, 2], their places: their ends are not read
    GET  /adapters  -> {"NAME": {"task": "...", "labels": [...], "columns": [...]}, ...}
    GET  /about     -> {"backbone": "...", "provenance": {...}}: what answers, for a record of a measurement

A worker takes what waits in the queue, up to `batch` texts of any adapters, and answers them in one pass (S-LoRA's point).
A request that cannot be answered gets a status of 400 or above and one sentence, `{"error": "..."}`.
"""

import asyncio
import json
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from core.console import log
from core.errors import UserError, unknown
from models.batches import Encoded, as_encoded, is_longer
from serving.mixed import Server
from tasks.glue import Task
from tasks.loading import Split
from tasks.rows import is_text

KEYS = ("adapter", "texts")  # of a request
MOST_TEXTS = 256  # in one request
MOST_WAITING = 4096  # texts in the queue; further requests are rejected (503)


@dataclass
class Request:
    """One text for one adapter, where its answer goes, and whether the text was cut for it."""

    adapter: str
    text: tuple[str, ...]
    answer: asyncio.Future[Tensor]
    is_cut: bool = False


class Endpoint:
    """The queue, the worker that empties it, and the handlers of HTTP requests.

    Attributes:
        tasks: each adapter's task, by the adapter's name.
        lengths: the most tokens of a text for each adapter: its run's `task.max_length`.
        about: what GET /about answers.
        passes, answered: forward passes, and texts answered in them.
    """

    def __init__(
        self,
        server: Server,
        tokenizer: PreTrainedTokenizerBase,
        tasks: dict[str, Task],
        lengths: dict[str, int],
        batch: int,
        about: dict[str, Any] | None = None,
    ):
        self.server, self.tokenizer, self.tasks = server, tokenizer, tasks
        self.lengths, self.batch, self.about = lengths, batch, about or {}
        self.queue: asyncio.Queue[Request] = asyncio.Queue(MOST_WAITING)
        self.thread = ThreadPoolExecutor(1)  # the model answers one batch at a time; the loop stays free
        self.passes = self.answered = 0

    def app(self) -> web.Application:
        undecoded = {"auto_decompress": False}  # a few bytes can unpack to gigabytes
        app = web.Application(middlewares=[in_one_sentence], handler_args=undecoded)
        app.add_routes([web.post("/classify", self.classify), web.get("/adapters", self.adapters)])
        app.add_routes([web.get("/about", self.tell_about)])
        app.cleanup_ctx.append(self._run_worker)
        return app

    async def _run_worker(self, _: web.Application) -> Any:
        worker = asyncio.create_task(self.work())
        yield
        worker.cancel()
        self.thread.shutdown(cancel_futures=True)

    async def work(self) -> None:
        """Serves the queue until cancelled."""
        while True:
            batch = [await self.queue.get()]
            while len(batch) < self.batch and not self.queue.empty():
                batch.append(self.queue.get_nowait())
            await self.serve(batch)

    async def serve(self, batch: list[Request]) -> None:
        """One pass; adapters that exceed the device's budget together are served in two halves."""
        loop = asyncio.get_running_loop()
        try:
            logits = await loop.run_in_executor(self.thread, self.logits, batch)
        except Exception as error:
            if len(batch) > 1:  # it may be one request's fault, or that of all of them together
                await self.serve(batch[: len(batch) // 2])
                await self.serve(batch[len(batch) // 2 :])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        for request, row in zip(batch, logits, strict=True):
            if not request.answer.done():  # the client may have disconnected
                request.answer.set_result(row)

    def logits(self, batch: list[Request]) -> list[Tensor]:
        most = [self.lengths[request.adapter] for request in batch]
        encoded = encode([request.text for request in batch], self.tokenizer, most)
        for request, length, limit in zip(batch, encoded.lengths, most, strict=True):
            request.is_cut = length == limit and is_longer(request.text, self.tokenizer, limit)
        logits = self.server.logits(encoded, list(range(len(batch))), [request.adapter for request in batch])
        self.passes, self.answered = self.passes + 1, self.answered + len(batch)
        return logits

    async def classify(self, http: web.Request) -> web.Response:
        if packed := http.headers.get("Content-Encoding"):
            raise web.HTTPUnsupportedMediaType(text=f"the body is packed with {packed}: send it as it is")
        name, texts = self.read(await http.read())
        if self.queue.qsize() + len(texts) > MOST_WAITING:
            raise web.HTTPServiceUnavailable(text="too many texts are waiting: try again later")
        loop = asyncio.get_running_loop()
        requests = [Request(name, text, loop.create_future()) for text in texts]
        for request in requests:
            self.queue.put_nowait(request)
        rows = await asyncio.gather(*(request.answer for request in requests))
        answers = [answer(self.tasks[name], row) for row in rows]
        cut = [place for place, request in enumerate(requests) if request.is_cut]
        return web.json_response({"answers": answers} | ({"cut": cut} if cut else {}))

    def read(self, body: bytes) -> tuple[str, list[tuple[str, ...]]]:
        """The adapter and the texts of a request.

        Raises:
            UserError: the body is not a request.
            HTTPNotFound: there is no such adapter.
        """
        try:
            asked = json.loads(body)
            if isinstance(asked, dict) and (odd := [key for key in asked if key not in KEYS]):
                raise UserError(unknown("key", odd[0], KEYS))
            name, texts = asked["adapter"], asked["texts"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError('send JSON like {"adapter": "NAME", "texts": ["A sentence."]}') from error
        if not isinstance(name, str) or name not in self.tasks:
            raise web.HTTPNotFound(text=f"there is no adapter {name!r}; there are: {', '.join(self.tasks)}")
        if not isinstance(texts, list) or not 0 < len(texts) <= MOST_TEXTS:
            raise UserError(f"texts must be a list of 1 to {MOST_TEXTS}")
        columns = self.tasks[name].columns
        read = [(text,) if isinstance(text, str) else tuple(text) if isinstance(text, list) else () for text in texts]
        for place, text in enumerate(read):
            if len(text) != len(columns) or not all(map(is_text, text)):
                form = "a string" if len(columns) == 1 else f"a list of {len(columns)} strings"
                raise UserError(f"text {place} must be {form} ({' and '.join(columns)}), for adapter {name}")
        return name, read

    async def adapters(self, _: web.Request) -> web.Response:
        about = {
            name: {"task": task.name, "labels": list(task.labels), "columns": list(task.columns)}
            for name, task in self.tasks.items()
        }
        return web.json_response(about)

    async def tell_about(self, _: web.Request) -> web.Response:
        return web.json_response(self.about)


@web.middleware
async def in_one_sentence(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as JSON: a user's mistake as 400, HTTP's own with their status, anything else as 500 without its details."""
    try:
        return await handler(request)
    except UserError as error:
        return web.json_response({"error": str(error)}, status=400)
    except web.HTTPException as error:
        known = request.match_info.http_exception is None
        text = (
            error.text or error.reason if known else f"there is no {request.method} {request.path}; {ways(request.app)}"
        )
        return web.json_response({"error": text}, status=error.status)
    except ConnectionError:  # the client has gone: nobody reads an answer
        return web.Response(status=499)
    except Exception:
        log.error(traceback.format_exc())
        return web.json_response({"error": "the server could not answer this request"}, status=500)


def ways(app: web.Application) -> str:
    """What can be asked, as `there are: POST /classify, GET /adapters, GET /about`."""
    routes = [route for route in app.router.routes() if route.method != "HEAD"]
    return "there are: " + ", ".join(f"{route.method} {route.resource.canonical}" for route in routes if route.resource)


def encode(texts: list[tuple[str, ...]], tokenizer: PreTrainedTokenizerBase, most: list[int]) -> Encoded:
    """Texts of different tasks as token ids, each cut to its own `most`: sentences and pairs may be mixed."""
    rows = [
        tokenizer(*text, truncation=True, max_length=limit, return_attention_mask=False)
        for text, limit in zip(texts, most, strict=True)
    ]
    inputs = {name: [row[name] for row in rows] for name in rows[0]}
    return as_encoded(Split("texts", texts, [0] * len(texts), list(range(len(texts)))), inputs, tokenizer)


def answer(task: Task, logits: Tensor) -> dict[str, Any]:
    """A score, or a label with all probabilities."""
    if task.is_regression:
        return {"score": logits.item()}
    probabilities = dict(zip(task.labels, logits.float().softmax(0).tolist(), strict=True))
    return {"label": max(probabilities, key=probabilities.__getitem__), "probabilities": probabilities}
