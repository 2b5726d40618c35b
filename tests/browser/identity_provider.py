"""A small OpenID Connect provider: authorization code with PKCE, whoever comes is signed in at once."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

CLIENT_ID = "dashboard"
USER_PREFIX = "idp:"
_KEY_ID = "of-the-test"


class IdentityProvider:
    """A provider on a free port, with one person."""

    def __init__(self) -> None:
        self.subject = f"oidc-{secrets.token_hex(4)}"
        self.token_seconds = 3600
        self.refreshes = 0
        self.hand_out_refresh_tokens = True
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._codes: dict[str, dict[str, str]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def url(self) -> str:
        """The issuer."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> IdentityProvider:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def document(self) -> dict[str, Any]:
        """Return the discovery document."""
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/jwks",
        }

    def jwks(self) -> dict[str, Any]:
        """Return the key set."""
        key = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key()))
        return {"keys": [key | {"kid": _KEY_ID, "alg": "ES256", "use": "sig"}]}

    def authorize(self, query: dict[str, str]) -> str:
        """Sign the person in and return where they go."""
        code = secrets.token_urlsafe(8)
        self._codes[code] = query
        return (
            query["redirect_uri"] + "?" + urlencode({"code": code, "state": query["state"], "iss": self.url})
        )

    def token(self, form: dict[str, str]) -> dict[str, Any] | None:
        """Exchange a code, whose verifier must fit, or a refresh token."""
        nonce = {}
        if form["grant_type"] == "authorization_code":
            asked = self._codes.pop(form["code"], None)
            digest = hashlib.sha256(form["code_verifier"].encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            if asked is None or challenge != asked["code_challenge"]:
                return None
            nonce = {"nonce": asked["nonce"]}
        else:
            self.refreshes += 1
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": CLIENT_ID,
            "sub": self.subject,
            "email": "ada@example.test",
            "iat": now,
        }
        claims |= {"exp": now + self.token_seconds, **nonce}
        answer = {"id_token": jwt.encode(claims, self._key, "ES256", headers={"kid": _KEY_ID})}
        if self.hand_out_refresh_tokens:
            answer["refresh_token"] = secrets.token_urlsafe(8)
        return answer

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                if parts.path == "/authorize":
                    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                    self.send_response(302)
                    self.send_header("Location", provider.authorize(query))
                    self.end_headers()
                elif parts.path == "/jwks":
                    self._answer(200, provider.jwks())
                else:
                    self._answer(200, provider.document())

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                answer = provider.token({name: values[0] for name, values in parse_qs(body).items()})
                self._answer(400 if answer is None else 200, answer or {"error": "invalid_grant"})

            def _answer(self, status: int, body: dict[str, Any]) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Access-Control-Allow-Origin", "*")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        return Handler
