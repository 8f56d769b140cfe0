"""The server as an ASGI application: who may ask, what is let in, and what goes back."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flashranker.errors import InputError
from flashranker.inputs import check_request
from flashranker.reranker import Hit
from flashranker.server.admission import Admission, Full
from flashranker.server.info import describe, read_tokens, too_long
from flashranker.server.metrics import Metrics
from flashranker.server.models import Ranker
from flashranker.server.shapes import Wanted, read_wanted, write_answer, write_error

RERANK_PATHS = ("/rerank", "/v1/rerank", "/v2/rerank")
PAGE = {"/": ("page.html", "text/html"), "/page.css": ("page.css", "text/css")}
PAGE |= {"/page.js": ("page.js", "text/javascript")}
# The page runs what came with it and nothing else, and no other site can frame it.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
# Far more than any model reads of them; tokenizing megabytes takes seconds that no time-out ends.
QUERY_CHARACTERS = 100_000
PASSAGE_CHARACTERS = 1_000_000
log = logging.getLogger("flashranker.server")


@dataclass(frozen=True)
class Limits:
    """What one request, and all together, may take."""

    running: int  # requests ranked at once
    waiting: int  # further requests that are let in
    passages: int  # of one request
    body_bytes: int
    seconds: float  # from a request's first byte to its answer


class Refused(Exception):
    """A request that gets an error: its status, what to say, and TEI's word for the kind."""

    def __init__(
        self, status: int, message: str, kind: str = "Validation", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.headers = status, kind, headers


def make_app(models: Mapping[str, Ranker], limits: Limits, keys: Sequence[str] = ()) -> Starlette:
    """The application that serves these models, the first by default.

    With `keys`, all but the page and /health ask for `Authorization: Bearer KEY`.
    """
    server = Server(models, limits, keys)
    routes = [Route(path, server.rerank, methods=["POST"]) for path in RERANK_PATHS]
    routes += [
        Route("/health", server.health),
        Route("/info", server.info),
        Route("/metrics", server.count),
        *(Route(path, partial(page, *file)) for path, file in PAGE.items()),
    ]
    app = Starlette(routes=routes, lifespan=server.lifespan, exception_handlers={HTTPException: unrouted})
    app.router.redirect_slashes = False
    return app


async def unrouted(request: Request, error: Exception) -> Response:
    """The answer to a path or method that is not served, in the words of all other errors."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.scope['path'][:100]}: {error.detail}; POST to {', '.join(RERANK_PATHS)}"
    return JSONResponse(write_error(message, "Validation"), error.status_code, error.headers)


async def page(name: str, kind: str, request: Request) -> Response:
    """A part of the page, as it lies in this package."""
    return Response(Path(__file__).with_name(name).read_bytes(), media_type=kind, headers=PAGE_HEADERS)


class Server:
    """The endpoints, and what they share: models, limits, keys and counters."""

    def __init__(self, models: Mapping[str, Ranker], limits: Limits, keys: Sequence[str]) -> None:
        self.models, self.limits = dict(models), limits
        self.default = next(iter(self.models))
        self.keys = [hashlib.sha256(key.encode()).digest() for key in keys]
        self.admission = Admission(limits.running, limits.waiting)
        self.metrics = Metrics(self.admission)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """One thread for each request that runs, so that none that was let run waits for another."""
        with ThreadPoolExecutor(self.limits.running, thread_name_prefix="request") as executor:
            asyncio.get_running_loop().set_default_executor(executor)
            yield

    async def health(self, request: Request) -> Response:
        """Whether the server answers; open to all."""
        return JSONResponse({"status": "ok"})

    async def info(self, request: Request) -> Response:
        """What is served, with text-embeddings-inference's fields for the first model."""
        return await self._answer(request, self._info)

    async def count(self, request: Request) -> Response:
        """The counters, in Prometheus' format."""
        return await self._answer(request, self._metrics)

    async def rerank(self, request: Request) -> Response:
        """Rank the passages of one request."""
        began = time.perf_counter()
        told: dict[str, Any] = {"model": "", "passages": 0}
        response = await self._answer(request, partial(self._rerank, told, began))
        seconds = time.perf_counter() - began
        self.metrics.requests.labels(told["model"], response.status_code).inc()
        self.metrics.seconds.labels(told["model"]).observe(seconds)
        log.info(
            "%s %d, model %s, %d passages, %.1f ms",
            request.scope["path"], response.status_code, told["model"] or "-", told["passages"], 1000 * seconds,
        )  # fmt: skip
        return response

    async def _answer(self, request: Request, respond: Callable[[Request], Awaitable[Response]]) -> Response:
        """What `respond` says, or an error in all three services' shapes; nothing of a failure's inside is told."""
        try:
            self._authorize(request)
            return await respond(request)
        except Refused as refused:
            return JSONResponse(write_error(str(refused), refused.kind), refused.status, refused.headers)
        except InputError as error:
            return JSONResponse(write_error(str(error), "Validation"), 422)
        except ClientDisconnect:
            return Response(status_code=499)  # nginx's number; nobody reads it but the log
        except Exception:
            log.exception("a request failed")
            return JSONResponse(write_error("the server failed on this request; its log says how", "Backend"), 500)

    def _authorize(self, request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(given.strip().encode() if scheme.lower() == "bearer" else b"").digest()
        # Every key is compared, each in constant time: how long it takes says nothing of which was close.
        allowed = [hmac.compare_digest(digest, key) for key in self.keys]
        if self.keys and not any(allowed):
            remedy = "no valid API key: send the header Authorization: Bearer KEY"
            raise Refused(401, remedy, "Unauthorized", {"WWW-Authenticate": "Bearer"})

    async def _info(self, request: Request) -> Response:
        return JSONResponse(describe(self.models, self.limits.running, self.limits.passages))

    async def _metrics(self, request: Request) -> Response:
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def _rerank(self, told: dict[str, Any], began: float, request: Request) -> Response:
        again = {"Retry-After": "1"}
        try:
            with self.admission.entered():
                return await asyncio.wait_for(self._admitted(told, began, request), self.limits.seconds)
        except Full:
            message = f"{self.admission.most} requests are here already: try again later"
            raise Refused(429, message, "Overloaded", again) from None
        except asyncio.TimeoutError:  # before Python 3.11 another one than the built-in
            message = f"not done within {self.limits.seconds:g} s: send fewer passages, or try again later"
            raise Refused(503, message, "Overloaded", again) from None

    async def _admitted(self, told: dict[str, Any], began: float, request: Request) -> Response:
        wanted = self._check(await self._body(request), request.scope["path"])
        name = wanted.model or self.default
        told |= {"model": name, "passages": len(wanted.passages)}
        hits, tokens, started = await self._rank(wanted, self.models[name], request)
        ended = time.perf_counter()
        self.metrics.passages.labels(name).inc(len(wanted.passages))
        self.metrics.truncated.labels(name).inc(sum(hit.truncated for hit in hits))
        timing = f"queue;dur={1000 * (started - began):.1f}, rank;dur={1000 * (ended - started):.1f}"
        answer = write_answer(wanted, name, hits[: wanted.top_n], tokens)
        return JSONResponse(answer, headers={"Server-Timing": timing})

    async def _body(self, request: Request) -> Any:
        # Only this type makes a browser ask first whether another site's page may send it.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "expected the header Content-Type: application/json")
        most, parts, size = self.limits.body_bytes, [], 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise Refused(413, f"the body is larger than {most} bytes: send fewer or shorter passages")
            parts.append(part)
        try:
            return json.loads(b"".join(parts))
        except (ValueError, RecursionError) as error:
            raise Refused(
                400, f"the body is no JSON ({str(error)[:100]}): send an object with query and documents"
            ) from None

    def _check(self, body: Any, path: str) -> Wanted:
        wanted = read_wanted(body, path)
        if wanted.model is not None and wanted.model not in self.models:
            raise Refused(
                404, f"model {wanted.model!r:.100} is not served, expected one of {', '.join(self.models)}, or none"
            )
        if isinstance(wanted.query, str) and len(wanted.query) > QUERY_CHARACTERS:
            raise Refused(413, f"the query has {len(wanted.query)} characters, expected at most {QUERY_CHARACTERS}")
        if len(wanted.passages) > self.limits.passages:
            raise Refused(413, f"{len(wanted.passages)} passages, expected at most {self.limits.passages}: send fewer")
        for number, passage in enumerate(wanted.passages):
            text = passage.get("text") if isinstance(passage, Mapping) else passage
            if isinstance(text, str) and len(text) > PASSAGE_CHARACTERS:
                raise Refused(
                    413,
                    f"passage {number} has {len(text)} characters, expected at most {PASSAGE_CHARACTERS}: send a part",
                )
        return wanted

    async def _rank(self, wanted: Wanted, ranker: Ranker, request: Request) -> tuple[list[Hit], int, float]:
        """All hits, best first, how many tokens the model read, and when it began, in seconds of `perf_counter`.

        Stops, and gives its place away, when the client goes, be it while it waits for its turn.
        """
        work = asyncio.ensure_future(self._work(wanted, ranker))
        gone = asyncio.ensure_future(disconnected(request))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientDisconnect
            return work.result()
        finally:
            work.cancel()
            gone.cancel()

    async def _work(self, wanted: Wanted, ranker: Ranker) -> tuple[list[Hit], int, float]:
        texts = check_request(wanted.query, wanted.passages).texts
        stop = threading.Event()
        async with self.admission.slot():
            started = time.perf_counter()
            try:
                refused = "" if wanted.may_cut else await asyncio.to_thread(too_long, ranker, wanted.query, texts, stop)
                if refused:
                    raise Refused(413, refused)
                hits = await ranker.arerank(wanted.query, wanted.passages)
                tokens = await asyncio.to_thread(read_tokens, ranker, wanted.query, texts, stop)
                return hits, tokens, started
            finally:
                stop.set()  # cancelled: a thread that counts tokens would go on without anybody who waits for it


async def disconnected(request: Request) -> None:
    """Return once the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
