"""Serves finished LoRA runs of one backbone over HTTP: `python scripts/serve.py runs/default/A [NAME=runs/default/B ...]`.

    curl -d '{"adapter": "A", "texts": ["A sentence."]}' http://127.0.0.1:8000/classify
    curl http://127.0.0.1:8000/adapters

A run goes by its folder's name, or by the NAME given with it. Requests that come at the same time, of any adapters, share a
forward pass of at most `batch=32` texts. `budget=4000` MB of adapters stay on the device. `backbone.source=DIR` and
`backbone.tokenizer=DIR` name the backbone's folders if they moved. The address is `host=127.0.0.1` and `port=8000`; there
is no encryption and no login: put a proxy in front before another machine may reach it.
serving/endpoint.py describes the API.
"""

import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.console import say
from core.errors import UserError
from scripts.cli import command, parse, whole

PORTS = 2**16
OPTIONS = {
    "host": "127.0.0.1",
    "port": "8000",
    "batch": "32",
    "budget": "4000",
    "backbone.source": None,
    "backbone.tokenizer": None,
}


def folders(words: list[str]) -> dict[str, Path]:
    """The runs by name.

    Raises:
        UserError: there is none, or two have the same name.
    """
    named: dict[str, Path] = {}
    for word in words:
        name, _, folder = word.rpartition("=") if "=" in word else (Path(word).name, "", word)
        if name in named:
            raise UserError(f"two runs are called {name}: name one with OTHER={folder}")
        named[name] = Path(folder)
    if not named:
        raise UserError("name the folders of finished runs, as in scripts/serve.py runs/default/RUN")
    return named


@contextmanager
def listening(host: str, port: int) -> Iterator[None]:
    """Turns the error of an address on which the server cannot listen into a UserError with the way out."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            other = port + 1 if port + 1 < PORTS else port - 1
            raise UserError(f"port {port} is in use: take another one, as in port={other}") from error
        if error.errno == errno.EACCES:
            raise UserError(f"port {port} needs root's rights: take one above 1023, as in port=8000") from error
        raise UserError(f"host={host} is not an address of this machine: host=127.0.0.1 is one") from error


def require_free(host: str, port: int) -> None:
    """Raises a UserError if the server could not listen on this address."""
    with listening(host, port):
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # free right after a server ended
                probe.bind(address)


@command
def main(words: list[str]) -> None:
    options, rest = parse(words, OPTIONS)
    batch, budget, port = (whole(key, options[key] or "") for key in ("batch", "budget", "port"))
    if port >= PORTS:
        raise UserError(f"port is {port}; it must be below {PORTS}")
    named = folders(rest)
    host = options["host"] or ""
    require_free(host, port)
    from aiohttp import web  # seconds to import, with all that follows: a mistake should not wait for it

    from experiments.record import git_state, hardware, versions
    from experiments.restore import finished, pretrained
    from models.backbone import samples
    from serving.adapters import from_folder
    from serving.endpoint import Endpoint
    from serving.mixed import Server

    moved = {"source": options["backbone.source"], "tokenizer": options["backbone.tokenizer"]}
    runs = {name: finished(folder, **moved) for name, folder in named.items()}
    first = next(iter(named))
    backbone = pretrained(named[first], *runs[first])
    tasks = {name: run.task.row for name, (run, _) in runs.items()}
    lengths = {name: run.task.max_length for name, (run, _) in runs.items()}
    server = Server(backbone.model, budget * 10**6, samples(backbone.tokenizer, tasks[first], backbone.max_length))
    for name, folder in named.items():
        server.store.add(name, from_folder(folder, backbone.provenance))
    provenance = {"git": git_state(), "versions": versions(), "backbone": {"sha256": backbone.provenance["sha256"]}}
    provenance["hardware"] = hardware() | {"device": server.store.device.type, "precision": "fp32"}
    about = {"backbone": backbone.name, "batch": batch, "provenance": provenance}
    endpoint = Endpoint(server, backbone.tokenizer, tasks, lengths, batch, about)
    address = f"http://{host}:{port}/classify"
    started = f"{len(named)} adapter{'s' * (len(named) > 1)} of {backbone.name}: {address} (Ctrl-C ends it)"
    with listening(host, port):  # another server may have taken the port since
        web.run_app(endpoint.app(), host=host, port=port, print=lambda _: say(started))


if __name__ == "__main__":
    sys.exit(main())
