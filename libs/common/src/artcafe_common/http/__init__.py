"""The HTTP kit: typed operations on Starlette, served by Hypercorn."""

from artcafe_common.http.app import HttpApp, create_app
from artcafe_common.http.cursor import CursorBox
from artcafe_common.http.operation import Call, FileReply, Operation, PageQuery
from artcafe_common.http.rates import CallLimits, TenantRates
from artcafe_common.http.server import serve_http

__all__ = [
    "Call",
    "CallLimits",
    "CursorBox",
    "FileReply",
    "HttpApp",
    "Operation",
    "PageQuery",
    "TenantRates",
    "create_app",
    "serve_http",
]
