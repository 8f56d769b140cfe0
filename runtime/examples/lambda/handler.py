"""An AWS Lambda function that reranks: API Gateway (HTTP API, payload 2.0), function URLs and direct invocation.

The body, or the event itself, is {"query": "...", "passages": ["...", {"text": "..."}], "top_n": 5}; "documents" may
stand for "passages". The answer is {"results": [{"index": 1, "score": 0.93}, ...]}, best first; "score" is the
calibrated probability. Bad input is a 400 with one line in "error", anything unforeseen a 500 that says no more.
"""

import base64
import json
import logging
import os
from typing import Any

from flashranker import InputError, Reranker

# Here, and not in the handler: it happens once, while Lambda starts the instance, and every call after it finds it.
RANKER = Reranker(os.environ.get("FLASHRANKER_MODEL", "/opt/model"))
KEYS = ("query", "passages", "documents", "top_n")


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Answer one event. Over HTTP the status is in "statusCode"; a direct invocation has one only when it failed."""
    over_http = isinstance(event, dict) and "requestContext" in event
    try:
        status, answer = 200, {"results": rank(body_of(event) if over_http else event)}
    except InputError as error:
        status, answer = 400, {"error": " ".join(str(error).split())}
    except Exception:
        logging.exception("a request failed")  # to the function's own log, not to its caller
        status, answer = 500, {"error": "the request failed: see the function's log"}
    if over_http:
        return {"statusCode": status, "headers": {"content-type": "application/json"}, "body": json.dumps(answer)}
    return answer if status == 200 else {"statusCode": status, **answer}


def body_of(event: dict[str, Any]) -> Any:
    """The JSON value in the body of an HTTP event; InputError where there is none."""
    body = event.get("body")
    if not isinstance(body, str) or not body:
        raise InputError('the request has no body, expected JSON with "query" and "passages": POST it')
    try:
        return json.loads(base64.b64decode(body, validate=True) if event.get("isBase64Encoded") else body)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is no JSON ({error}), expected an object: check how it is encoded") from None


def rank(request: Any) -> list[dict[str, Any]]:
    """Results, best first; InputError for a request that can't be ranked."""
    if not isinstance(request, dict):
        raise InputError(f'the request is of type {type(request).__name__}, expected an object with "query"')
    if unknown := sorted(set(map(str, request)) - set(KEYS)):
        raise InputError(f"the request has {unknown[0]!r}, expected {', '.join(KEYS)}: leave it out")
    named = [name for name in ("passages", "documents") if name in request]
    if len(named) != 1:
        raise InputError('the request has both or none of "passages" and "documents", expected one of them')
    hits = RANKER.rerank(request.get("query"), request[named[0]], top_n=request.get("top_n"))
    return [{"index": hit.index, "score": hit.score} for hit in hits]
