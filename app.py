"""The Task API: the tasks of many users, each known by a JWT of the auth system.

After the settings and the database, the sections follow a request: its token says who
asks, the path must be theirs, errors have one form, and one SQL statement does the work.

    round trip  a question to the database and its answer: 20 to 250 ms over an ocean
    claims      what a token says; its subject (`sub`) is the user's id (RFC 7519)
    key set     the auth system's public keys, by key id (RFC 7517)
    problem     the one form of an error (RFC 9457)
"""

import asyncio
import json
import logging
import os
import re
import selectors
import socket
import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache, partial, wraps
from http import HTTPStatus
from secrets import token_urlsafe
from time import monotonic, time
from typing import Annotated, Any, NoReturn
from uuid import UUID

import jwt
import sqlalchemy as sa
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware import Middleware
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.models import HTTPBearer
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase
from jwt.exceptions import InvalidSubjectError
from pydantic import HttpUrl
from sqlalchemy import exc
from sqlmodel import Session, SQLModel
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import STARTUP_FAILURE

from models import (
    NEWEST_FIRST,
    InvalidInput,
    Problem,
    TaskComplete,
    TaskCreate,
    TaskPage,
    TaskPublic,
    TaskUpdate,
    User,
    now,
    tasks,
)

log = logging.getLogger("uvicorn.error")  # uvicorn's own, for all that it has to say

# --- Settings ---------------------------------------------------------------------

if __name__ == "__main__" and not os.environ.get("JWT_JWKS_URL"):
    # `python app.py` is the demo, at the end of this file. It signs its own tokens, and
    # the servers that it starts, which import this file as `app`, inherit the secret.
    os.environ["JWT_SECRET"] = os.environ.get("JWT_SECRET") or token_urlsafe(32)

DATABASE_URL = os.environ.get("DATABASE_URL") or "sqlite:///tasks.db"
JWT_SECRET = os.fsencode(os.environ.get("JWT_SECRET", ""))
JWT_JWKS_URL = os.environ.get("JWT_JWKS_URL", "")
JWT_ISSUER = os.environ.get("JWT_ISSUER") or None
JWT_AUDIENCE = os.environ.get("JWT_AUDIENCE") or None
CORS_ORIGINS = os.environ.get("CORS_ORIGINS") or "http://localhost:3000"


def refuse(reason: str) -> NoReturn:
    """End the start with one line on stderr, and a code that uvicorn does not retry."""
    print(f"Can't start: {reason}", file=sys.stderr)
    sys.exit(STARTUP_FAILURE)


if bool(JWT_SECRET) == bool(JWT_JWKS_URL):
    refuse("set exactly one of JWT_SECRET and JWT_JWKS_URL.")
try:
    if JWT_JWKS_URL:
        JWT_JWKS_URL = str(HttpUrl(JWT_JWKS_URL))
    elif len(JWT_SECRET) < 32:
        refuse("JWT_SECRET is too short: set at least 32 random bytes.")
    else:
        jwt.encode({}, JWT_SECRET)
except jwt.InvalidKeyError:
    refuse("JWT_SECRET must be random bytes, not a key in PEM, SSH or JWK form.")
except ValueError:
    refuse("JWT_JWKS_URL must be an http:// or https:// URL.")

# --- Database ---------------------------------------------------------------------

# A new connection has 5 s an address, a silent network 6 s, SQLite's lock 20 s; what
# DATABASE_URL says itself wins.
# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
PARAMETERS = {
    "sqlite": {"timeout": "20"},
    "postgresql+psycopg2": {
        "connect_timeout": "5",
        "keepalives_idle": "3",
        "keepalives_interval": "3",
        "keepalives_count": "2",
        "tcp_user_timeout": "6000",
    },
}
POOL_SIZE = 10

try:
    url = sa.make_url(DATABASE_URL)
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg2")
    url = url.set(query={**PARAMETERS[url.drivername], **url.query})
    SQLITE = url.drivername == "sqlite"
    engine = sa.create_engine(
        url,
        isolation_level="AUTOCOMMIT",  # BEGIN, COMMIT and ROLLBACK are round trips, too
        skip_autocommit_rollback=True,  # even where it sends nothing, it costs 10 %
        pool_size=POOL_SIZE,
        max_overflow=20,  # in reserve: the endpoints need POOL_SIZE (see `threads`)
        pool_pre_ping=not SQLITE,
    )
except (exc.ArgumentError, KeyError, TypeError, ValueError):
    refuse("DATABASE_URL must be sqlite:///FILE or postgresql://USER:SECRET@HOST/NAME.")
# The engine refuses the other forms of a database in memory: they have no pool.
if SQLITE and ":memory:" in str(url.database):
    refuse("DATABASE_URL must name a file, as in sqlite:///tasks.db.")

dialect: Any = engine.dialect
ask_server = dialect.do_ping  # what `pool_pre_ping` calls; `ping` takes its place below
# For `ping`: one call into the system, where epoll, the default on Linux, takes four, and
# at each of them another thread may go first. Windows has no poll.
Poll = getattr(selectors, "PollSelector", selectors.DefaultSelector)


def ping(connection: Any) -> bool:
    """Keep the promise of `pool_pre_ping` without its round trip.

    A server that closes a connection says so, and that waits in the socket: only where
    something waits is the server asked.
    """
    with Poll() as selector:
        selector.register(connection, selectors.EVENT_READ)
        return not selector.select(timeout=0) or ask_server(connection)


def set_pragmas(connection: Any, _: object) -> None:
    """Make SQLite keep foreign keys, and readers go on beside a writer."""
    connection.execute("PRAGMA foreign_keys = ON")
    # SQLite's timeout is not for this one: while others are busy with a new file, it
    # stays as it is, and the next connection tries again.
    with suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA journal_mode = WAL")


if SQLITE:
    sa.event.listen(engine, "connect", set_pragmas)
else:
    dialect.do_ping = ping


def create_tables() -> None:
    """Make the tables that are missing, one worker at a time: 7265 names their lock."""
    lock = "BEGIN IMMEDIATE" if SQLITE else "BEGIN; SELECT pg_advisory_xact_lock(7265)"
    with engine.connect() as connection:
        connection.exec_driver_sql(lock)
        SQLModel.metadata.create_all(connection)
        connection.exec_driver_sql("COMMIT")


def first_line(error: exc.StatementError) -> str:
    """Return what the driver said first; SQL and parameters come later, if at all."""
    return str(error.orig).partition("\n")[0]


# `async`, although it waits for nothing: FastAPI sends a `def` through a thread pool,
# which costs more than this does.
async def get_session() -> Session:
    """Return a session. It connects when it is used, until its `with` ends."""
    return Session(engine)


SessionDep = Annotated[Session, Depends(get_session)]

# --- Who is asking ----------------------------------------------------------------

ALGORITHMS = ["HS256"] if JWT_SECRET else ["RS256", "ES256", "EdDSA"]
MAX_TOKEN = 16 * 1024  # characters
UUID_FORM = re.compile(r"(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
REASONS: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "has expired",
    jwt.ImmatureSignatureError: "is not valid yet",
    jwt.InvalidAudienceError: "is for another audience",
    jwt.InvalidIssuerError: "is from another issuer",
    InvalidSubjectError: "has a sub that is not a UUID",
    jwt.MissingRequiredClaimError: "lacks a required claim",
}

# What PyJWT raises where an address answers nothing, no JSON, or JSON of another shape.
FAILURES = (jwt.PyJWTError, OSError, ValueError, TypeError, LookupError, RuntimeError)


class KeySet:
    """The auth system's public keys.

    They are looked up for a key id that is unknown, at most every 10 s, and when they
    are 5 minutes old. A known key never waits for that.
    """

    look_up: asyncio.Task[None]
    looked_up_at = float("-inf")
    reachable: bool

    def __init__(self, url: str) -> None:
        self.client = jwt.PyJWKClient(url, cache_jwk_set=False, timeout=5)
        self.keys: dict[str | None, jwt.PyJWK] = {}

    async def find(self, token: str) -> jwt.PyJWK:
        """Return the key that a token names; raises what makes it a 401, or a 503."""
        unverified = jwt.decode_complete(token, options={"verify_signature": False})
        key_id = unverified["header"].get("kid")
        if key_id is None:
            raise jwt.InvalidTokenError
        known = key_id in self.keys
        if monotonic() - self.looked_up_at > (300 if known else 10):
            self.looked_up_at = monotonic()
            self.look_up = asyncio.create_task(self.fetch())
        if not known:
            await self.look_up
        if key_id in self.keys:
            return self.keys[key_id]
        raise jwt.InvalidTokenError if self.reachable else HTTPException(503)

    async def fetch(self) -> None:
        """Fetch the set, in 5 s at most; where that fails, the last one serves on."""
        self.reachable = False
        try:
            fetched = asyncio.to_thread(self.client.get_signing_keys)
            keys = await asyncio.wait_for(fetched, timeout=5)
            self.keys = {key.key_id: key for key in keys}
            self.reachable = True
        except FAILURES as error:
            log.warning("JWT_JWKS_URL gave no key set: %s", type(error).__name__)


key_set = KeySet(JWT_JWKS_URL) if JWT_JWKS_URL else None


# A page asks for several things at once. PyJWT reads a token's times as whole seconds,
# so that what it verified holds for the rest of one: worth a tenth of a request.
@lru_cache(1000)
def verify(token: str, key: Any, second: int) -> UUID:
    """Return the subject of a token; raises what makes it a 401. `second` is now."""
    claims = jwt.decode(
        token,
        key,
        ALGORITHMS,
        {"require": ["exp", "sub"], "verify_aud": JWT_AUDIENCE is not None},
        audience=JWT_AUDIENCE,
        issuer=JWT_ISSUER,
        leeway=30,
    )
    if not UUID_FORM.fullmatch(claims["sub"]):
        raise InvalidSubjectError
    return UUID(claims["sub"])


async def authenticate(token: str) -> UUID:
    """Return who has the token; refuses with 401, or 503 without a key set."""
    try:
        if len(token) > MAX_TOKEN:  # to read one of megabytes takes seconds
            raise jwt.InvalidTokenError
        key = await key_set.find(token) if key_set else JWT_SECRET
        return verify(token, key, int(time()))
    except jwt.PyJWTError as error:
        reason = REASONS.get(type(error), "is not a valid one of the auth system")
        challenge = f'error="invalid_token", error_description="The token {reason}."'
        headers = {"WWW-Authenticate": f"Bearer {challenge}"}
        raise HTTPException(401, f"The token {reason}.", headers) from error


class BearerToken(SecurityBase):
    """The one way in: the path's user, by a JWT in `Authorization` (RFC 6750).

    One dependency does what `fastapi.security.HTTPBearer` and two functions would: each
    that FastAPI calls costs 5 % of a request.
    """

    model = HTTPBearer(bearerFormat="JWT")
    scheme_name = "HTTPBearer"

    async def __call__(
        self,
        request: Request,
        user_id: Annotated[str, Path(json_schema_extra={"format": "uuid"})],
    ) -> UUID:
        """Return the user; refuses with 401, with 403 another's path, with 400 no UUID."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise HTTPException(401)
        caller = await authenticate(token)
        if user_id.lower() == str(caller):
            return caller
        if UUID_FORM.fullmatch(user_id):
            raise HTTPException(403)
        error = {"loc": ("path", "user_id"), "msg": "Input should be a valid UUID"}
        raise RequestValidationError([error])


UserDep = Annotated[UUID, Depends(BearerToken())]

# --- Errors -----------------------------------------------------------------------

METHODS = ["DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"]
MAX_BODY = 64 * 1024  # bytes
DETAILS = {
    400: "The request is not valid.",
    401: "A token of the auth system is needed: Authorization: Bearer <JWT>.",
    403: "This path belongs to another user.",
    404: "There is no such task or path.",
    405: "This path does not have this method.",
    413: "The body is larger than 64 KiB.",
    500: "Something is broken here; it has been logged.",
    503: "Something that this service needs can't be reached; try again.",
}
HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "5"}}


def problem(
    status: int,
    detail: str = "",
    headers: Mapping[str, str] | None = None,
    errors: Sequence[Mapping[str, object]] = (),
) -> JSONResponse:
    """Return an error in the one form; where nothing is said, DETAILS say it."""
    title = HTTPStatus(status).phrase
    # What the framework says is the title, or, of the input, nothing that helps.
    if status in (400, 413) or detail in ("", title):
        detail = DETAILS.get(status, title)
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    if status == 400:
        body["errors"] = errors or [{"loc": ["body"], "msg": "It can't be read"}]
    headers = {**HEADERS.get(status, {}), **(headers or {})}
    return JSONResponse(body, status, headers, "application/problem+json")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the description of the errors that an operation can answer.

    FastAPI takes them for `application/json`, which `correct` puts right.
    """
    examples = {status: json.loads(bytes(problem(status).body)) for status in statuses}
    return {
        status: {
            "model": InvalidInput if status == 400 else Problem,
            "description": DETAILS[status],
            "content": {"application/json": {"example": example}},
        }
        for status, example in examples.items()
    }


async def on_refusal(request: Request, error: HTTPException) -> Response:
    """Answer what the framework or this file refused."""
    headers = dict(error.headers or {})
    if error.status_code == 405:  # the framework names the methods of one route only
        scopes = {method: {**request.scope, "method": method} for method in METHODS}
        routes = request.app.routes
        found = {
            m for m in METHODS for r in routes if r.matches(scopes[m])[0] == Match.FULL
        }
        headers["Allow"] = ", ".join(sorted(found))
    return problem(error.status_code, error.detail, headers)


async def on_invalid_input(_: Request, error: RequestValidationError) -> Response:
    """Answer 400 with what is wrong and where, but without the input."""
    # A message's second half, after a comma, can quote the input.
    wrong = [{"loc": e["loc"], "msg": e["msg"].split(",")[0]} for e in error.errors()]
    return problem(400, errors=wrong)


async def on_database_error(_: Request, error: exc.DBAPIError) -> Response:
    """Answer 503 where the database is lost; anything else is a defect."""
    lost = isinstance(error, exc.OperationalError | exc.InterfaceError)
    # SQLite calls a statement that is wrong an operational error, too.
    if not lost or getattr(error.orig, "sqlite_errorname", "") == "SQLITE_ERROR":
        raise error
    log.warning("The database is lost: %s", first_line(error))
    return problem(503)


def guard(app: ASGIApp) -> ASGIApp:
    """Wrap an application: an announced body ends at MAX_BODY, and a defect is a 500.

    Starlette answers both in plain text, and the 500 outside of `CORS`, where no page can
    read it.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        try:
            # A float, since an int refuses more than 4,300 digits, zeros or not.
            if float(Headers(scope=scope).get("content-length", 0)) > MAX_BODY:
                await problem(413)(scope, receive, send)
            else:
                await app(scope, receive, send)
        except Exception:
            log.exception("%s %r failed", scope["method"], scope["path"])
            await problem(500)(scope, receive, send)

    return guarded


class CORS(CORSMiddleware):
    """Starlette's, with a refused preflight in the one form."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Return the answer to a preflight; one that is refused is a 400."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        del response.headers["content-length"], response.headers["content-type"]
        errors = [{"loc": ["header"], "msg": bytes(response.body).decode()}]
        return problem(400, headers=response.headers, errors=errors)


# --- Tasks ------------------------------------------------------------------------

# Built once, the statements are compiled once.
OWNED = tasks.c.user_id == sa.bindparam("owner")
THE_TASK = sa.and_(OWNED, tasks.c.id == sa.bindparam("task"))
GIVEN = sa.bindparam("completed", type_=sa.Boolean)
# NULL, where nobody gave a state, filters nothing. PostgreSQL then plans without it.
MATCHING = sa.and_(OWNED, sa.or_(GIVEN.is_(None), tasks.c.is_completed == GIVEN))
counted = (
    sa.select(sa.func.count().label("of_all_pages"))
    .select_from(tasks)
    .where(MATCHING)
    .subquery("counted")
)
page = (
    sa.select(tasks)
    .where(MATCHING)
    .order_by(*NEWEST_FIRST)
    .limit(sa.bindparam("limit"))
    .offset(sa.bindparam("offset"))
    .subquery("page")
)
# The count is one row, also beside an empty page; the join to it keeps the page's order.
LIST = sa.select(counted, page).select_from(counted.outerjoin(page, sa.true()))
GET = sa.select(tasks).where(THE_TASK)
CREATE_USER = sa.insert(User)
CREATE = sa.insert(tasks).returning(tasks)
DELETE = sa.delete(tasks).where(THE_TASK).returning(tasks)


def change(completed: sa.ColumnElement[bool]) -> sa.UpdateBase:
    """Return the statement that changes a task's state to `completed`.

    Like an INSERT, it also sets every column that is named by a parameter when it is
    executed: this is SQLAlchemy's way, and why a new field needs nothing here, but can't
    be named `owner`, `task`, `completed` or `now`, as the parameters are.
    """
    since = sa.func.coalesce(tasks.c.completed_at, sa.bindparam("now"))
    return (
        sa.update(tasks)
        .where(THE_TASK)
        .values(is_completed=completed)
        .values(completed_at=sa.case((completed, since)))
        .values(updated_at=sa.bindparam("now"))
        .returning(tasks)
    )


# Where nobody gave a state, one keeps the task's own and the other turns it round.
UPDATE = change(sa.func.coalesce(GIVEN, tasks.c.is_completed))
COMPLETE = change(sa.func.coalesce(GIVEN, ~tasks.c.is_completed))


def execute(
    session: Session, statement: Any, /, **values: object
) -> Sequence[sa.Row[Any]]:
    """Execute a statement and return its rows: in AUTOCOMMIT, one round trip."""
    try:
        with session:
            rows: Sequence[sa.Row[Any]] = session.exec(statement, params=values).all()
    except exc.OperationalError as error:
        # A connection can be closed just after the ping; a read may then be repeated.
        if not (error.connection_invalidated and statement.is_select):
            raise
        with session:
            rows = session.exec(statement, params=values).all()
    return rows


def one(session: Session, statement: Any, /, **values: object) -> TaskPublic:
    """Execute a statement and return its task; refuses with 404 where there is none."""
    for row in execute(session, statement, **values):
        return TaskPublic.model_validate(row)
    raise HTTPException(404)


# As many as the pool keeps connections: none waits for one, and none opens an overflow
# connection, which the pool would close after each use (30 threads: a third slower).
threads = ThreadPoolExecutor(POOL_SIZE)
PATIENCE = 25  # seconds, for a free thread and the database together


def hang_up(session: Session) -> None:
    """End a thread's wait on a connection that lives, but never answers."""
    if session.in_transaction() and not SQLITE:  # whose wait ends by itself
        driver: Any = session.connection().connection.dbapi_connection
        session.bind = None  # nothing is repeated: nobody waits for it
        with socket.socket(fileno=os.dup(driver.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)


class OneThreadRoute(APIRoute):
    """A route whose `def` endpoint makes one trip through a thread pool, or is a 503.

    FastAPI makes two, the second to check what it returned, on slower threads: that is
    a fifth of a request.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        @wraps(endpoint)
        async def call(**values: Any) -> object:
            loop = asyncio.get_running_loop()
            try:
                async with asyncio.timeout(PATIENCE):
                    work = partial(endpoint, **values)
                    return await loop.run_in_executor(threads, work)
            except TimeoutError as error:
                log.warning("The database has not answered for %s s", PATIENCE)
                # Not at once: where a lock is what it waits for, each connection that
                # is hung up leaves one behind that waits on in the server.
                loop.call_later(2 * PATIENCE, hang_up, values["session"])
                raise HTTPException(503) from error

        super().__init__(path, call, **options)


router = APIRouter(
    prefix="/api/{user_id}/tasks",
    tags=["tasks"],
    route_class=OneThreadRoute,
    max_body_size=MAX_BODY,
    responses=problems(400, 401, 403, 413, 500, 503),
    generate_unique_id_function=lambda route: route.name,
)


@router.get("")
def list_tasks(
    user: UserDep,
    session: SessionDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
    is_completed: bool | None = None,
) -> TaskPage:
    """List the user's tasks, newest first; `total` counts those of all pages."""
    rows = execute(
        session, LIST, owner=user, completed=is_completed, limit=limit, offset=offset
    )
    data = [row for row in rows if row.id]  # beside an empty page the total is alone
    meta = {"total": rows[0].of_all_pages, "limit": limit, "offset": offset}
    return TaskPage.model_validate({"data": data, "meta": meta})


@router.post("", status_code=201)
def create_task(
    user: UserDep, session: SessionDep, body: TaskCreate, response: Response
) -> TaskPublic:
    """Make a task; `Location` says where it is."""
    created = now()
    values = {"user_id": user, "created_at": created, "updated_at": created}
    values |= body.model_dump()
    try:
        task = one(session, CREATE, **values)
    except exc.IntegrityError:  # it is the user's first; of several, one makes the user
        with suppress(exc.IntegrityError), session:
            session.exec(CREATE_USER, params={"id": user})
        task = one(session, CREATE, **values)
    response.headers["Location"] = f"/api/{user}/tasks/{task.id}"
    return task


@router.get("/{task_id}", responses=problems(404))
def get_task(user: UserDep, session: SessionDep, task_id: UUID) -> TaskPublic:
    """Return a task."""
    return one(session, GET, owner=user, task=task_id)


@router.put("/{task_id}", responses=problems(404))
def update_task(
    user: UserDep, session: SessionDep, task_id: UUID, body: TaskUpdate
) -> TaskPublic:
    """Change a task's title and, where it is given, whether the task is completed."""
    values = body.model_dump()  # leaves out what is MISSING
    values |= {"completed": values.pop("is_completed", None), "now": now()}
    return one(session, UPDATE, owner=user, task=task_id, **values)


@router.delete("/{task_id}", status_code=204, responses=problems(404))
def delete_task(user: UserDep, session: SessionDep, task_id: UUID) -> None:
    """Delete a task."""
    one(session, DELETE, owner=user, task=task_id)


@router.patch("/{task_id}/complete", responses=problems(404))
def complete_task(
    user: UserDep, session: SessionDep, task_id: UUID, body: TaskComplete | None = None
) -> TaskPublic:
    """Complete a task or take that back; a body says which, so that it can be repeated."""
    values = {"completed": body and body.is_completed, "now": now()}
    return one(session, COMPLETE, owner=user, task=task_id, **values)


# --- Application ------------------------------------------------------------------

app = FastAPI(
    title="Task API",
    version="1.0.0",
    redirect_slashes=False,
    exception_handlers={
        HTTPException: on_refusal,
        RequestValidationError: on_invalid_input,
        exc.DBAPIError: on_database_error,
    },
    middleware=[
        Middleware(
            CORS,
            allow_origins=[o.strip().rstrip("/") for o in CORS_ORIGINS.split(",")],
            allow_methods=METHODS,
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Allow", "Location", "Retry-After", "WWW-Authenticate"],
        ),
        Middleware(guard),
    ],
)
app.include_router(router)


@app.get("/health", include_in_schema=False)
async def health() -> dict[str, str]:
    """Say that the process lives; the database may sleep on."""
    return {"status": "ok"}


def correct(document: dict[str, Any]) -> None:
    """Take FastAPI's 422, a 400 here, out of the document, and name errors' type."""
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            for status, response in operation["responses"].items():
                if status >= "400":
                    types = response["content"]
                    types["application/problem+json"] = types.pop("application/json")
    for unused in ("HTTPValidationError", "ValidationError"):
        del document["components"]["schemas"][unused]


correct(app.openapi())  # which makes the document once, and then keeps it

# --- Demo -------------------------------------------------------------------------

DEMO_USERS = {
    "Alice": "a11ce000-0000-4000-8000-000000000001",
    "Bob": "b0b00000-0000-4000-8000-000000000002",
}


def demo() -> None:
    """Print a `curl` line for each demo user, and serve with uvicorn's own options."""
    if not JWT_SECRET:
        refuse("the demo signs its own tokens: unset JWT_JWKS_URL.")
    arguments = ["app:app", *sys.argv[1:]]
    options = uvicorn.main.make_context("app.py", [*arguments], resilient_parsing=True)
    base = "http://{host}:{port}".format_map(options.params)
    for name, user in DEMO_USERS.items():
        claims = {"sub": user, "exp": now() + timedelta(days=1)}
        claims |= {"iss": JWT_ISSUER} if JWT_ISSUER else {}
        claims |= {"aud": JWT_AUDIENCE} if JWT_AUDIENCE else {}
        token = jwt.encode(claims, JWT_SECRET)
        print(f"The tasks of {name}:")
        print(f'curl {base}/api/{user}/tasks -H "Authorization: Bearer {token}"')
    print(f"The documentation: {base}/docs", flush=True)
    uvicorn.main(arguments)


if __name__ == "__main__":
    demo()
else:  # imported by a server
    try:
        create_tables()
    except exc.StatementError as error:
        refuse(f"DATABASE_URL can't be used: {first_line(error)}")
    except (TypeError, ValueError):
        refuse("DATABASE_URL has something that the database's driver can't use.")
