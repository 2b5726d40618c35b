"""The HTTP kit: typed operations on Starlette, served by Hypercorn."""

from artcafe_common.http.app import HttpApp, create_app
from artcafe_common.http.operation import Call, Operation, PageQuery
from artcafe_common.http.server import serve_http

__all__ = ["Call", "HttpApp", "Operation", "PageQuery", "create_app", "serve_http"]
