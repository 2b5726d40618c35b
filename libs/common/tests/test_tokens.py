"""People's tokens: which hold, and what they say."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jwt.algorithms import OKPAlgorithm

from artcafe_common import tokens
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.tokens import KeyRing, Person, TokenVerifier

from .support import FrozenClock
from .token_support import (
    AUDIENCE,
    EC_KEY,
    ED_KEY,
    ISSUER,
    KEYS,
    OTHER_KEY,
    RSA_KEY,
    Auth,
    base64url,
    claims_of,
    issuer_keys,
    json_bytes,
    jwk,
    make_token,
    refused,
    sign,
)


@pytest.mark.parametrize(
    ("key", "algorithm", "key_id"),
    [(RSA_KEY, "RS256", "rsa"), (EC_KEY, "ES256", "ec"), (ED_KEY, "EdDSA", "ed")],
)
async def test_token_of_each_algorithm_holds(
    verifier: TokenVerifier, clock: FrozenClock, key: Any, algorithm: str, key_id: str
) -> None:
    """A token signed by one of the issuer's keys says who it speaks for."""
    claims = claims_of(clock, email="p@x.test", tenant_id="t1", role="admin")
    assert await verifier.verify(make_token(claims, key, algorithm, key_id)) == Person(
        "person-1", "p@x.test", clock.now() + 3600, "t1", "admin"
    )


async def test_unsigned_token_is_refused(verifier: TokenVerifier, clock: FrozenClock) -> None:
    """`alg: none` is no signature, however it is spelt."""
    for algorithm in ("none", "None", "NONE", ""):
        header = base64url(json_bytes({"alg": algorithm, "kid": "ed", "typ": "JWT"}))
        for signature in (b"", b"AAAA"):
            token = b".".join((header, base64url(json_bytes(claims_of(clock))), signature)).decode()
            await refused(verifier.verify(token))


async def test_public_key_is_no_shared_secret(verifier: TokenVerifier, clock: FrozenClock) -> None:
    """A token "signed" by HMAC with the public key, in any form that key has, is refused."""
    public = RSA_KEY.public_key()
    forms = [
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        json_bytes(KEYS[0]),
        str(KEYS[0]["n"]).encode(),
    ]
    for secret in forms:
        for header in ({"alg": "HS256", "kid": "rsa"}, {"alg": "RS256", "kid": "rsa"}):
            signed = base64url(json_bytes(header)) + b"." + base64url(json_bytes(claims_of(clock)))
            signature = hmac.new(secret, signed, hashlib.sha256).digest()
            await refused(verifier.verify((signed + b"." + base64url(signature)).decode()))


async def test_algorithm_must_be_that_of_the_key(clock: FrozenClock) -> None:
    """An algorithm is refused that is not allowed, or allowed but not the key's."""
    verifier = TokenVerifier(KeyRing(Auth(issuer_keys(algorithms=["RS256", "HS256"])).fetch, clock), clock)
    await verifier.verify(make_token(claims_of(clock), RSA_KEY, "RS256", "rsa"))
    await refused(verifier.verify(make_token(claims_of(clock), RSA_KEY, "RS512", "rsa")))
    await refused(verifier.verify(make_token(claims_of(clock), ED_KEY, "EdDSA", "ed")))
    await refused(verifier.verify(make_token(claims_of(clock), RSA_KEY, "RS256", "ed")))
    await refused(verifier.verify(make_token(claims_of(clock), b"x" * 32, "HS256", "rsa")))


@pytest.mark.parametrize("key_id", ["", "other", "ED"])
async def test_key_must_be_known(verifier: TokenVerifier, clock: FrozenClock, key_id: str) -> None:
    """A token with a key id that nobody knows is refused; no key is tried in turn."""
    await refused(verifier.verify(make_token(claims_of(clock), key_id=key_id)))


async def test_key_must_be_named(verifier: TokenVerifier, auth: Auth, clock: FrozenClock) -> None:
    """A token without a key id is refused without looking for one."""
    await refused(verifier.verify(make_token(claims_of(clock), key_id=None)))
    assert auth.asked == 0


@pytest.mark.parametrize("key_id", [7, ["ed"], {"kid": "ed"}, True])
async def test_key_id_of_another_type_is_refused(
    verifier: TokenVerifier, clock: FrozenClock, key_id: object
) -> None:
    """A key id is text."""
    header = {"alg": "EdDSA", "kid": key_id}
    await refused(verifier.verify(sign(header, claims_of(clock), ED_KEY, "EdDSA")))


async def test_signature_of_another_key_is_refused(verifier: TokenVerifier, clock: FrozenClock) -> None:
    """Naming the right key does not help who has not got it."""
    await refused(verifier.verify(make_token(claims_of(clock), OTHER_KEY)))


async def test_changed_token_is_refused(verifier: TokenVerifier, clock: FrozenClock) -> None:
    """Claims cannot be exchanged under a signature."""
    header, _, signature = make_token(claims_of(clock)).split(".")
    other = base64url(json_bytes(claims_of(clock, sub="person-2"))).decode()
    await refused(verifier.verify(f"{header}.{other}.{signature}"))


async def test_keys_in_the_token_are_not_believed(verifier: TokenVerifier, clock: FrozenClock) -> None:
    """A token cannot bring its own key, nor say where to get one."""
    own = jwk(OKPAlgorithm.to_jwk(OTHER_KEY.public_key()), "mine")
    for header in ({"jwk": own}, {"jku": "https://evil.test/jwks"}, {"x5u": "https://evil.test/x"}):
        await refused(verifier.verify(make_token(claims_of(clock), OTHER_KEY, "EdDSA", "mine", **header)))
        await refused(verifier.verify(make_token(claims_of(clock), OTHER_KEY, "EdDSA", "ed", **header)))


@pytest.mark.parametrize("issuer", [None, "", "https://evil.test", ISSUER + "/", ISSUER.upper(), 7, [ISSUER]])
async def test_other_issuer_is_refused(verifier: TokenVerifier, clock: FrozenClock, issuer: object) -> None:
    """Only the issuers that auth names are trusted, compared character by character."""
    await refused(verifier.verify(make_token(claims_of(clock, iss=issuer))))


async def test_key_of_one_issuer_does_not_sign_for_another(clock: FrozenClock) -> None:
    """Each issuer has its own keys, also where two use the same key id."""
    other = issuer_keys(
        issuer="https://other.test", keys=[jwk(OKPAlgorithm.to_jwk(OTHER_KEY.public_key()), "ed")]
    )
    verifier = TokenVerifier(KeyRing(Auth(issuer_keys(), other).fetch, clock), clock)
    await refused(verifier.verify(make_token(claims_of(clock, iss="https://other.test"))))
    await verifier.verify(make_token(claims_of(clock, iss="https://other.test"), OTHER_KEY))


@pytest.mark.parametrize(
    "audience", [None, "other", "", [], ["other"], [7, None, [AUDIENCE]], 7, {AUDIENCE: 1}]
)
async def test_other_audience_is_refused(
    verifier: TokenVerifier, clock: FrozenClock, audience: object
) -> None:
    """A token that was made for somebody else does not open anything here."""
    await refused(verifier.verify(make_token(claims_of(clock, aud=audience))))


@pytest.mark.parametrize(
    "claims", [{"aud": [AUDIENCE]}, {"aud": ["other", AUDIENCE]}, {"aud": None, "client_id": AUDIENCE}]
)
async def test_audience_may_be_one_of_several_or_the_client(
    verifier: TokenVerifier, clock: FrozenClock, claims: dict[str, Any]
) -> None:
    """A list of audiences with ours in it holds, and so does Cognito's `client_id` of access tokens."""
    assert (await verifier.verify(make_token(claims_of(clock, **claims)))).user_id == "person-1"


async def test_client_does_not_stand_in_for_another_audience(
    verifier: TokenVerifier, clock: FrozenClock
) -> None:
    """Where there is an audience, it decides."""
    await refused(verifier.verify(make_token(claims_of(clock, aud="other", client_id=AUDIENCE))))


@pytest.mark.parametrize(
    ("use", "holds"), [("id", True), ("access", True), ("refresh", False), (None, False)]
)
async def test_use_of_a_token_is_checked_where_the_issuer_states_it(
    clock: FrozenClock, use: str | None, holds: bool
) -> None:
    """Identity and access tokens work, others do not."""
    verifier = TokenVerifier(KeyRing(Auth(issuer_keys(token_uses=["id", "access"])).fetch, clock), clock)
    verifying = verifier.verify(make_token(claims_of(clock, token_use=use)))
    if holds:
        await verifying
    else:
        await refused(verifying)


@pytest.mark.parametrize(
    ("late", "holds"), [(-1, True), (0, True), (29, True), (29.9, True), (30, False), (31, False)]
)
async def test_expiry_has_thirty_seconds_of_leeway(
    verifier: TokenVerifier, clock: FrozenClock, late: float, holds: bool
) -> None:
    """A clock that is 29 s off works, one that is 31 s off does not."""
    verifying = verifier.verify(make_token(claims_of(clock, exp=clock.now() - late)))
    if holds:
        await verifying
    else:
        assert "expired" in (await refused(verifying)).detail


@pytest.mark.parametrize(
    ("early", "holds"), [(-1, True), (0, True), (29, True), (30, True), (31, False), (3600, False)]
)
async def test_beginning_has_thirty_seconds_of_leeway(
    verifier: TokenVerifier, clock: FrozenClock, early: float, holds: bool
) -> None:
    """A token that begins 29 s from now works, one that begins in 31 s does not."""
    verifying = verifier.verify(make_token(claims_of(clock, nbf=clock.now() + early)))
    if holds:
        await verifying
    else:
        await refused(verifying)


async def test_time_of_issue_is_not_judged(verifier: TokenVerifier, clock: FrozenClock) -> None:
    """A token whose issuer's clock is ahead holds: `iat` says nothing on validity."""
    await verifier.verify(make_token(claims_of(clock, iat=clock.now() + 3600)))


@pytest.mark.parametrize("claim", ["exp", "sub", "iss"])
async def test_claims_that_must_be_there(verifier: TokenVerifier, clock: FrozenClock, claim: str) -> None:
    """A token that never expires, or speaks for nobody, is refused."""
    await refused(verifier.verify(make_token(claims_of(clock, **{claim: None}))))


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "9999999999",
        [9999999999],
        {},
        True,
        1e400,
        float("nan"),
        -1e400,
        10**400,
        2**53,
        {"a": [1]},
    ],
)
@pytest.mark.parametrize("claim", ["exp", "nbf"])
async def test_time_of_another_kind_is_refused(
    verifier: TokenVerifier, clock: FrozenClock, claim: str, value: object
) -> None:
    """A time is a finite number; text, lists, infinity and NaN are none."""
    await refused(verifier.verify(make_token(claims_of(clock, **{claim: value}))))


@pytest.mark.parametrize(
    "value", ["", "x" * 256, 7, ["person-1"], {"sub": 1}, True, "a\nb", "a\x00", "\ud800", "a\u202eb"]
)
async def test_person_of_another_kind_is_refused(
    verifier: TokenVerifier, clock: FrozenClock, value: object
) -> None:
    """A person's id is text of 1 to 255 characters that can be printed."""
    await refused(verifier.verify(make_token(claims_of(clock, sub=value))))


@pytest.mark.parametrize("value", ["x" * 255, "auth0|1", "a b", "Zoë", "user@example.com", "../.."])
async def test_person_may_have_any_printable_name(
    verifier: TokenVerifier, clock: FrozenClock, value: str
) -> None:
    """Providers name people as they like."""
    assert (await verifier.verify(make_token(claims_of(clock, sub=value)))).user_id == value


@pytest.mark.parametrize("value", [7, ["t1"], {"a": 1}, True, "", None])
async def test_claims_of_another_kind_state_nothing(
    verifier: TokenVerifier, clock: FrozenClock, value: object
) -> None:
    """A tenant, a role or an e-mail that is no text is as if it were not there."""
    claims = {"tenant_id": value, "custom:tenant_id": value, "role": value, "email": value}
    person = await verifier.verify(make_token(claims_of(clock, **claims)))
    assert (person.claimed_tenant_id, person.claimed_role, person.email) == (None, None, "")


async def test_cognitos_own_claims_are_read(verifier: TokenVerifier, clock: FrozenClock) -> None:
    """Custom attributes of Cognito have a prefix."""
    claims = {"custom:tenant_id": "t2", "custom:role": "viewer"}
    person = await verifier.verify(make_token(claims_of(clock, **claims)))
    assert (person.claimed_tenant_id, person.claimed_role) == ("t2", "viewer")


async def test_tenant_claims_are_believed_only_of_trusted_issuers(clock: FrozenClock) -> None:
    """An issuer where people choose their own attributes states no tenant."""
    verifier = TokenVerifier(KeyRing(Auth(issuer_keys(tenant_claims=False)).fetch, clock), clock)
    person = await verifier.verify(make_token(claims_of(clock, tenant_id="t1", role="owner")))
    assert (person.claimed_tenant_id, person.claimed_role) == (None, None)


OTHER_ISSUER = "https://login.acme.test"


def _two_issuers(clock: FrozenClock, **changes: Any) -> TokenVerifier:
    """Return a verifier that trusts the platform's issuer, and one of a customer with a prefix of its own."""
    keys = [jwk(OKPAlgorithm.to_jwk(OTHER_KEY.public_key()), "ed")]
    other = issuer_keys(issuer=OTHER_ISSUER, keys=keys, tenant_claims=False, user_prefix="acme:", **changes)
    return TokenVerifier(KeyRing(Auth(issuer_keys(foreign_prefixes=["acme:"]), other).fetch, clock), clock)


async def test_same_subject_of_two_issuers_is_two_people(clock: FrozenClock) -> None:
    """A person is a subject and its issuer: who has somebody's subject elsewhere is not that somebody."""
    verifier = _two_issuers(clock)
    first = await verifier.verify(make_token(claims_of(clock)))
    second = await verifier.verify(make_token(claims_of(clock, iss=OTHER_ISSUER), OTHER_KEY))
    assert (first.user_id, second.user_id) == ("person-1", "acme:person-1")


async def test_subject_cannot_bring_another_issuers_prefix(clock: FrozenClock) -> None:
    """The issuer without a prefix cannot name the people of one that has it; other colons are its own."""
    verifier = _two_issuers(clock)
    await refused(verifier.verify(make_token(claims_of(clock, sub="acme:person-1"))))
    for subject in ("acme", "acme2:person-1", "ACME:person-1", "system:acme:person-1"):
        assert (await verifier.verify(make_token(claims_of(clock, sub=subject)))).user_id == subject
    doubled = make_token(claims_of(clock, iss=OTHER_ISSUER, sub="acme:person-1"), OTHER_KEY)
    assert (await verifier.verify(doubled)).user_id == "acme:acme:person-1"


async def test_prefix_counts_towards_the_length_of_an_id(clock: FrozenClock) -> None:
    """No prefix makes an id longer than one may be."""
    verifier = _two_issuers(clock)
    await refused(verifier.verify(make_token(claims_of(clock, iss=OTHER_ISSUER, sub="x" * 251), OTHER_KEY)))
    await verifier.verify(make_token(claims_of(clock, iss=OTHER_ISSUER, sub="x" * 250), OTHER_KEY))


@pytest.mark.parametrize(
    ("claims", "believed"),
    [
        ({"tenant_id": "t1", "role": "admin"}, ("t1", "admin")),
        ({"custom:tenant_id": "t2"}, ("t2", None)),
        ({"tenant_id": "t3", "role": "owner"}, (None, None)),
        ({"tenant_id": "T1", "role": "owner"}, (None, None)),
        ({"tenant_id": "t3", "custom:tenant_id": "t1"}, (None, None)),
        ({"role": "owner"}, (None, None)),
    ],
)
async def test_customers_issuer_speaks_of_its_own_tenants_alone(
    clock: FrozenClock, claims: dict[str, str], believed: tuple[str | None, str | None]
) -> None:
    """Claims that name a tenant the issuer was not given count for nothing, their role included."""
    verifier = _two_issuers(clock, tenants=["t1", "t2"])
    person = await verifier.verify(make_token(claims_of(clock, iss=OTHER_ISSUER, **claims), OTHER_KEY))
    assert (person.claimed_tenant_id, person.claimed_role) == believed


NO_TOKENS = [
    *(
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "x" * 100,
        "x" * 20_000,
        "Zoë",
        "\ud800",
        "e30.e30.e30",
        "\x00.\x00.\x00",
    ),
    "a" * 8_000 + "." + "b" * 8_000 + ".c",
]


@pytest.mark.parametrize("token", NO_TOKENS)
async def test_what_is_no_token_is_refused(verifier: TokenVerifier, auth: Auth, token: str) -> None:
    """Garbage is refused, and auth is not asked about it."""
    await refused(verifier.verify(token))
    assert auth.asked == 0


async def test_token_of_great_length_is_refused_unread(
    verifier: TokenVerifier, clock: FrozenClock, auth: Auth
) -> None:
    """A token over the limit is not looked into, though it be signed."""
    await refused(verifier.verify(make_token(claims_of(clock, padding="x" * tokens.TOKEN_MAX_LENGTH))))
    assert auth.asked == 0


@pytest.mark.parametrize("part", ["header", "claims"])
@pytest.mark.parametrize("nested", [b"[" * 5_000, b'{"a":' * 1_500, b"[" * 5_000 + b"]" * 5_000])
async def test_deeply_nested_token_is_refused(verifier: TokenVerifier, part: str, nested: bytes) -> None:
    """Nesting that would exhaust the decoder is a bad token, not a fault of ours."""
    parts = {"header": json_bytes({"alg": "EdDSA", "kid": "ed"}), "claims": b"{}"} | {part: nested}
    await refused(verifier.verify(sign(parts["header"], parts["claims"], ED_KEY, "EdDSA")))


@pytest.mark.parametrize("value", [b"[]", b"7", b'"x"', b"null", b"", b"{", b"\xff", b'{"iss":"\xff"}'])
@pytest.mark.parametrize("part", ["header", "claims"])
async def test_token_whose_parts_are_no_objects_is_refused(
    verifier: TokenVerifier, part: str, value: bytes
) -> None:
    """Header and claims are JSON objects in UTF-8."""
    parts = {"header": json_bytes({"alg": "EdDSA", "kid": "ed"}), "claims": b"{}"} | {part: value}
    await refused(verifier.verify(sign(parts["header"], parts["claims"], ED_KEY, "EdDSA")))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk"]), JSON),
    st.dictionaries(st.sampled_from(["sub", "iss", "aud", "exp", "nbf", "role", "jti", "iat"]), JSON),
)
async def test_signed_nonsense_never_breaks_anything(
    verifier: TokenVerifier, clock: FrozenClock, header: dict[str, Any], claims: dict[str, Any]
) -> None:
    """Whatever types stand in a token, it holds or is refused; no other exception comes out."""
    for signed in (
        sign({"alg": "EdDSA", "kid": "ed", **header}, {**claims_of(clock), **claims}, ED_KEY, "EdDSA"),
        sign({"alg": "EdDSA", "kid": "ed"}, {**claims_of(clock), **claims}, ED_KEY, "EdDSA"),
    ):
        try:
            await verifier.verify(signed)
        except ServiceError as error:
            assert error.code == ErrorCode.UNAUTHENTICATED


async def test_refusals_do_not_say_which_check_failed(verifier: TokenVerifier, clock: FrozenClock) -> None:
    """Whoever tries tokens learns nothing from the answer."""
    details = {
        (await refused(verifier.verify(token))).detail
        for token in (
            make_token(claims_of(clock), OTHER_KEY),
            make_token(claims_of(clock), key_id="other"),
            make_token(claims_of(clock, iss="https://evil.test")),
            make_token(claims_of(clock, aud="other")),
            make_token(claims_of(clock, nbf=clock.now() + 3600)),
            "garbage",
        )
    }
    assert details == {"the token is not valid"}
