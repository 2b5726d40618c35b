"""Refuse a request in the form of the service that was asked."""

import json
from typing import Any


async def refuse(send: Any, *, json_form: bool, status: int, code: str, text: str) -> None:
    """Answer as DynamoDB does, or without `json_form` as S3."""
    if json_form:
        content = b"application/x-amz-json-1.0"
        body = json.dumps({"__type": f"com.amazon.coral.service#{code}", "message": text})
    else:
        content = b"application/xml"
        body = f"<Error><Code>{code}</Code><Message>{text}</Message></Error>"
    headers = [(b"content-type", content), (b"content-length", str(len(body.encode())).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})
