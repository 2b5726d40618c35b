"""Hold callers of the emulator to the rights that AWS would give them.

ministack lets everybody do everything. Here an access key ``rights.ROLE`` (``rights.auth``, or several roles:
``rights.auth.tables``) may do what the policies ROLE.json of a folder say and nothing else, as a service with
that role could on AWS; other keys are not looked at. So whatever runs on the embedded stack proves that the
policies of ``deploy/aws/iam`` are enough.
"""

import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from artcafe_devstack.emulator.refusing import refuse

logger = logging.getLogger("artcafe.emulator")

KEY_PREFIX = "rights."
_CREDENTIAL = re.compile(rb"Credential=([^,/]+)/")
_ARN = "arn:aws:dynamodb:us-east-1:000000000000:"

# Each write of a transaction asks for its own right.
_TRANSACTED = {
    "Put": "PutItem",
    "Update": "UpdateItem",
    "Delete": "DeleteItem",
    "ConditionCheck": "ConditionCheckItem",
    "Get": "GetItem",
}
# What is asked of a bucket, by the word in the query.
_BUCKET = {
    "lifecycle": "LifecycleConfiguration",
    "encryption": "EncryptionConfiguration",
    "publicAccessBlock": "BucketPublicAccessBlock",
    "tagging": "BucketTagging",
    "policy": "BucketPolicy",
    "versioning": "BucketVersioning",
    "location": "BucketLocation",
}

Application = Callable[..., Awaitable[None]]
Right = tuple[str, str]


class Rights:
    """The policies of a folder, by role."""

    def __init__(self, folder: Path) -> None:
        self._statements: dict[str, list[dict[str, Any]]] = {
            file.stem: json.loads(file.read_text())["Statement"] for file in sorted(folder.glob("*.json"))
        }

    def missing(self, key: str, wanted: Iterable[Right]) -> Right | None:
        """Return the first of these rights, as (action, resource), that a key does not have."""
        roles = key.removeprefix(KEY_PREFIX).split(".")
        statements = [each for role in roles for each in self._statements.get(role, [])]
        for action, resource in wanted:
            if not any(_allows(each, action, resource) for each in statements):
                return action, resource
        return None


def dynamodb_rights(operation: str, body: Mapping[str, Any]) -> Iterator[Right]:
    """Yield what a request to DynamoDB asks for."""
    if operation in ("TransactWriteItems", "TransactGetItems"):
        for item in body["TransactItems"]:
            for kind, arguments in item.items():
                yield f"dynamodb:{_TRANSACTED[kind]}", _table(arguments["TableName"])
    elif operation in ("BatchWriteItem", "BatchGetItem"):
        for name in body["RequestItems"]:
            yield f"dynamodb:{operation}", _table(name)
    elif "ResourceArn" in body:
        yield f"dynamodb:{operation}", body["ResourceArn"]
    elif "TableName" in body:
        index = f"/index/{body['IndexName']}" if "IndexName" in body else ""
        yield f"dynamodb:{operation}", _table(body["TableName"]) + index
        if body.get("Tags"):
            yield "dynamodb:TagResource", _table(body["TableName"])
    else:
        yield f"dynamodb:{operation}", "*"


def s3_rights(method: str, path: str, query: Mapping[str, Any]) -> Iterator[Right]:
    """Yield what a request to S3 asks for; buckets are named by the path."""
    bucket, _, key = unquote(path).lstrip("/").partition("/")
    resource = f"arn:aws:s3:::{bucket}" + (f"/{key}" if key else "")
    if key:
        if "uploadId" in query and method == "DELETE":
            action = "AbortMultipartUpload"
        else:
            action = {"PUT": "PutObject", "POST": "PutObject", "DELETE": "DeleteObject"}.get(
                method, "GetObject"
            )
        yield f"s3:{action}", resource
        return
    about = next((name for word, name in _BUCKET.items() if word in query), None)
    if about is not None:
        yield f"s3:{ {'PUT': 'Put', 'DELETE': 'Delete'}.get(method, 'Get') }{about}", resource
    else:
        yield f"s3:{ {'PUT': 'CreateBucket', 'DELETE': 'DeleteBucket'}.get(method, 'ListBucket') }", resource


def with_rights(app: Application, rights: Rights) -> Application:
    """Put the rights before the emulator's application."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers", ())) if scope["type"] == "http" else {}
        credential = _CREDENTIAL.search(headers.get(b"authorization", b""))
        key = credential[1].decode() if credential else ""
        if not key.startswith(KEY_PREFIX):
            await app(scope, receive, send)
            return
        target = headers.get(b"x-amz-target", b"").decode()
        if target.startswith("DynamoDB_"):
            body, receive = await _whole(receive)
            wanted = list(dynamodb_rights(target.rpartition(".")[2], json.loads(body)))
        else:
            query = parse_qs(scope.get("query_string", b"").decode(), keep_blank_values=True)
            wanted = list(s3_rights(scope["method"], scope["path"], query))
        missing = rights.missing(key, wanted)
        if missing is None:
            await app(scope, receive, send)
            return
        text = f"{key} is not authorized to perform: {missing[0]} on resource: {missing[1]}"
        logger.warning("%s", text)
        code = "AccessDeniedException" if target else "AccessDenied"
        await refuse(send, json_form=bool(target), status=400 if target else 403, code=code, text=text)

    return wrapped


async def _whole(receive: Any) -> tuple[bytes, Any]:
    """Read a body, and return it with a `receive` that gives it again."""
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"".join(parts)
    waiting: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Any:
        return waiting.pop() if waiting else await receive()

    return body, again


def _table(name: str) -> str:
    return name if name.startswith("arn:") else f"{_ARN}table/{name}"


def _allows(statement: Mapping[str, Any], action: str, resource: str) -> bool:
    return action in statement["Action"] and any(fnmatchcase(resource, r) for r in statement["Resource"])
