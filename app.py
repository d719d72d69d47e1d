"""The Task API: a to-do backend. An auth system signs in the users and issues JWTs.

Read it from top to bottom: each name is defined before it is used. A request passes
through the sections in this order:

    Application      The middleware limits the body and answers unexpected exceptions.
    Authentication   `get_user` verifies the token and compares its subject with the path.
    Endpoints        `in_thread` calls the endpoint in a thread. The endpoint calls
                     `execute`, which sends one statement. A first task takes more.

These forms are here for speed. A program that does not need it takes the plain form:

    autocommit                  BEGIN and COMMIT               saves 2 round trips
    `poll`                      `pool_pre_ping=True`           saves 1 round trip
    `async def get_session`     `def` with `yield`             saves 17 to 35 % of CPU time
    `in_thread`                 FastAPI's own threads          4 to 18 %, and has a time limit
    statements as constants     statements in the endpoints    3 to 17 %
    rows of the table `tasks`   `select(Task)`                 11 to 16 % of a read

A claim is what a token says; the subject (`sub`) is the user id (RFC 7519). The key set
has the public keys of the auth system, by key id (RFC 7517). A problem is the body of an
error (RFC 9457). A round trip is a message to the database and its answer.
"""

import asyncio
import json
import logging
import os
import re
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from functools import partial, wraps
from http import HTTPStatus
from secrets import token_urlsafe
from time import monotonic
from typing import Annotated, Any, NoReturn
from uuid import UUID

import jwt
import psycopg2
import sqlalchemy as sa
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import HttpUrl
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, SQLModel, UTCDateTime
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models import (
    NEWEST_FIRST,
    Problem,
    TaskComplete,
    TaskCreate,
    TaskPage,
    TaskPublic,
    TaskUpdate,
    User,
    tasks,
)

log = logging.getLogger("uvicorn.error")  # The log of uvicorn itself, not only errors.

# --- Settings ---------------------------------------------------------------------

if __name__ == "__main__":
    # The demo (the last section) needs no settings: this is the secret of this run.
    os.environ["JWT_SECRET"] = os.environ.get("JWT_SECRET") or token_urlsafe(32)

DATABASE_URL = os.environ.get("DATABASE_URL") or "sqlite:///tasks.db"
JWT_SECRET = os.fsencode(os.environ.get("JWT_SECRET") or "")  # bytes
JWT_JWKS_URL = os.environ.get("JWT_JWKS_URL") or ""
JWT_ISSUER = os.environ.get("JWT_ISSUER") or None
JWT_AUDIENCE = os.environ.get("JWT_AUDIENCE") or None
CORS_ORIGINS = os.environ.get("CORS_ORIGINS") or "http://localhost:3000"


def refuse_to_start(reason: str) -> NoReturn:
    """End the process with one line on stderr and a code that uvicorn does not retry."""
    print(f"Can't start: {reason}", file=sys.stderr)
    sys.exit(uvicorn.config.STARTUP_FAILURE)


if bool(JWT_SECRET) == bool(JWT_JWKS_URL):
    refuse_to_start("set exactly one of JWT_SECRET and JWT_JWKS_URL.")
if JWT_SECRET and len(JWT_SECRET) < 32:  # RFC 7518, section 3.2
    refuse_to_start("JWT_SECRET is too short: set at least 32 random bytes.")
try:
    jwt.encode({}, JWT_SECRET or bytes(32))
    JWT_JWKS_URL = JWT_JWKS_URL and str(HttpUrl(JWT_JWKS_URL))
except (jwt.InvalidKeyError, ValueError):
    refuse_to_start("JWT_SECRET must be no PEM or JWK, JWT_JWKS_URL an http(s) URL.")

# --- Errors -----------------------------------------------------------------------

MAX_BODY = 64 * 1024  # bytes
DETAILS = {
    400: "The input is not valid.",
    401: "The bearer token is missing.",
    403: "The path belongs to another user.",
    404: "The task does not exist.",
    413: "The body is larger than 64 KiB.",
    500: "The request failed because of a defect, which has been logged.",
    503: "The database can't be used at the moment.",
}
RETRY = {"Retry-After": "5"}  # seconds
PROBLEM_JSON = "application/problem+json"


def problem(
    status: int, detail: str, headers: Mapping[str, str] | None = None, **members: Any
) -> JSONResponse:
    """Return an error (RFC 9457). `members` are the `errors` of a 400."""
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(body | members, status, headers, PROBLEM_JSON)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of an operation in the OpenAPI document, with examples."""
    # The example of a 400 is the answer to the `user_id` "1".
    message = "Input should be a valid UUID, invalid length: found 1"
    invalid = {"errors": [{"loc": ["path", "user_id"], "msg": message}]}
    responses: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        members = invalid if status == 400 else {}
        body = problem(status, DETAILS[status], None, **members).body
        schema = {"$ref": "#/components/schemas/Problem"}
        content = {PROBLEM_JSON: {"schema": schema, "example": json.loads(bytes(body))}}
        responses[status] = {"description": DETAILS[status], "content": content}
    return responses


# --- Database ---------------------------------------------------------------------

POOL_SIZE = 10
# Connecting takes at most 5 seconds an address; a silent network is noticed after 9.
# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
LIBPQ_DEFAULTS = {
    "connect_timeout": "5",
    "keepalives_idle": "3",
    "keepalives_interval": "3",
    "keepalives_count": "2",
    "tcp_user_timeout": "9000",
}

try:
    url = sa.make_url(DATABASE_URL)
    SQLITE = url.drivername == "sqlite"
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg2"):
        query = {**LIBPQ_DEFAULTS, **url.query}
        url = url.set(drivername="postgresql+psycopg2", query=query)
    elif not SQLITE or ":memory:" in str(url.database):
        raise ValueError
    engine = sa.create_engine(
        url,
        # Each statement is a transaction of its own; see `execute`.
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,  # There is nothing to roll back.
        pool_size=POOL_SIZE,
        # `in_thread` needs no more than POOL_SIZE. The overflow is for endpoints without
        # it that you add: FastAPI calls up to 40 of them at once.
        max_overflow=20,
        pool_timeout=10,  # seconds to wait for a free connection
        hide_parameters=True,  # Titles are not for the log.
    )
except (sa.exc.ArgumentError, TypeError, ValueError):
    refuse_to_start("set DATABASE_URL to sqlite:///FILE or postgresql://USER@HOST/DB.")

if SQLITE:

    @sa.event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _: object) -> None:
        """Enforce foreign keys, and let readers work beside a writer."""
        connection.execute("PRAGMA foreign_keys = ON")
        # The file keeps the mode. While another process uses it, this can fail.
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode = WAL")

else:

    @sa.event.listens_for(engine, "checkout")
    def check_connection(connection: Any, entry: Any, _: object) -> None:
        """Have the pool replace a connection that the server closed while it was idle.

        `poll` reads without waiting what such a server has sent: a message and the end.
        """
        if not entry.info:  # a new connection
            entry.info["is_used"] = True
            return
        try:
            connection.poll()  # reads the message
            connection.poll()  # reads the end of the stream
        except psycopg2.Error as error:
            raise sa.exc.DisconnectionError from error

    @sa.event.listens_for(engine, "handle_error")
    def give_up_read_only(context: Any) -> None:
        """Count a server that became read-only, in a failover, as a lost one."""
        read_only = psycopg2.errors.ReadOnlySqlTransaction
        if isinstance(context.original_exception, read_only):
            context.is_disconnect = True


# Without autocommit: PostgreSQL's default level, and the only one of SQLite.
TRANSACTION = {"isolation_level": "SERIALIZABLE" if SQLITE else "READ COMMITTED"}


def create_tables() -> None:
    """Create the missing tables. Workers that start at the same time take turns."""
    # The number is arbitrary; it identifies this lock in the database.
    lock = "BEGIN IMMEDIATE" if SQLITE else "SELECT pg_advisory_xact_lock(7265)"
    with engine.connect().execution_options(**TRANSACTION) as connection:
        connection.exec_driver_sql(lock)  # held until the commit
        SQLModel.metadata.create_all(connection)
        connection.commit()


def first_line(error: Exception) -> str:
    """Return the first line of the driver's message. Later lines can quote a task."""
    return str(getattr(error, "orig", error)).partition("\n")[0]


async def get_session() -> Session:
    """Return a session. Only `execute` and `create_task` use it, each in a transaction.

    A `yield` would close the session at the time limit, while a thread still uses it.
    """
    return Session(engine)


SessionDep = Annotated[Session, Depends(get_session)]

# --- Application ------------------------------------------------------------------


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Create the missing tables at start; close the connections at the end."""
    log.info("The tasks are stored in %s", url.set(query={}).render_as_string())
    if JWT_JWKS_URL and not JWT_AUDIENCE:
        log.warning("JWT_AUDIENCE is not set: tokens for other applications are valid.")
    try:
        create_tables()
    except (sa.exc.SQLAlchemyError, TypeError, ValueError) as error:
        # Starlette logs what is raised here with its traceback. One line is enough.
        sys.tracebacklimit = 0
        raise RuntimeError(f"Can't use DATABASE_URL: {first_line(error)}") from None
    yield
    engine.dispose()  # The last connection to a SQLite file removes its -wal file.


app = FastAPI(
    title="Task API",
    version="1.0.0",
    lifespan=lifespan,
    redirect_slashes=False,
    generate_unique_id_function=lambda route: route.name,
    # Defines the schema for `documented`. As it covers every error, FastAPI adds no 422.
    responses={"default": {"model": Problem, "description": "An error"}},
)


# 413: FastAPI's `max_body_size` would answer an announced body in plain text. 500:
# Starlette would answer outside the CORS middleware, so that a page can't read it.
def guard(app: ASGIApp) -> ASGIApp:
    """Answer 413 to a body over MAX_BODY bytes, and 500 to an unexpected exception."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY:  # FastAPI reads the body; a handler answers this.
                raise HTTPException(413, DETAILS[413])
            return message

        try:
            # float(), because int() raises an error for 5,000 digits.
            if float(Request(scope).headers.get("content-length", 0)) > MAX_BODY:
                return await problem(413, DETAILS[413])(scope, receive, send)
            await app(scope, counted, send)
        except Exception:
            await problem(500, DETAILS[500])(scope, receive, send)
            raise  # for the log

    return guarded


# The one that is added last is the outermost.
app.add_middleware(guard)
app.add_middleware(
    CORSMiddleware,
    allow_origins=[origin.strip().rstrip("/") for origin in CORS_ORIGINS.split(",")],
    allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
    allow_headers=["Authorization", "Content-Type"],
    expose_headers=["Allow", "Location", "Retry-After", "WWW-Authenticate"],
)


# Starlette's class: the router raises it, and FastAPI's is a subclass of it.
@app.exception_handler(StarletteHTTPException)
async def on_http_exception(_: Request, error: StarletteHTTPException) -> Response:
    """Answer an HTTPException as a problem."""
    if error.status_code == 400:  # FastAPI can't read the body.
        errors = [{"loc": ["body"], "msg": error.detail}]
        return problem(400, DETAILS[400], error.headers, errors=errors)
    return problem(error.status_code, error.detail, error.headers)


@app.exception_handler(RequestValidationError)
async def on_invalid_input(_: Request, error: RequestValidationError) -> Response:
    """Answer 400 with what is wrong and where. FastAPI would also repeat the input."""
    errors = [{"loc": each["loc"], "msg": each["msg"]} for each in error.errors()]
    return problem(400, DETAILS[400], errors=errors)


@app.exception_handler(sa.exc.TimeoutError)
@app.exception_handler(sa.exc.DBAPIError)
async def on_database_error(_: Request, error: sa.exc.SQLAlchemyError) -> Response:
    """Answer 503 if the database can't be used. Any other error is a defect."""
    is_lost = not isinstance(error, sa.exc.DBAPIError) or error.connection_invalidated
    if isinstance(error, sa.exc.OperationalError):
        # SQLite raises an OperationalError for a wrong statement, too.
        is_lost = getattr(error.orig, "sqlite_errorname", "") != "SQLITE_ERROR"
    if not is_lost:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise RuntimeError(reason).with_traceback(error.__traceback__) from None
    log.warning("The database can't be used: %s", first_line(error))
    return problem(503, DETAILS[503], RETRY)


# --- Authentication ---------------------------------------------------------------

ALGORITHMS = ["HS256"] if JWT_SECRET else ["RS256", "ES256", "EdDSA"]
# UUID() also accepts other forms: two subjects could be one user.
UUID_FORM = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class KeySet:
    """The public keys of the auth system, cached.

    The cache of `jwt.PyJWKClient` is not used: with it, every request waits for a
    look-up, and old keys do not serve if the look-up fails.
    """

    MAX_AGE = 300  # seconds; older keys are fetched again, but serve until then
    MAX_IDLE = 600  # seconds; after a longer pause, a request waits for new keys
    INTERVAL = 10  # seconds between two look-ups for unknown keys
    TIMEOUT = 5  # seconds for a look-up

    def __init__(self, url: str) -> None:
        self.client = jwt.PyJWKClient(url, cache_jwk_set=False, timeout=self.TIMEOUT)
        self.keys: dict[str, jwt.PyJWK] = {}
        self.asked_at = self.looked_up_at = float("-inf")

    async def find(self, key_id: str) -> jwt.PyJWK:
        """Return a key. Raises InvalidKeyError if the key set does not have it.

        503: the key is not cached, and the last look-up failed.
        """
        is_cached = key_id in self.keys
        is_idle = monotonic() - self.asked_at > self.MAX_IDLE
        age = monotonic() - self.looked_up_at
        if age > (self.MAX_AGE if is_cached else self.INTERVAL):
            self.looked_up_at = monotonic()
            self.look_up = asyncio.create_task(self.fetch())
            self.look_up.add_done_callback(self.log_failure)
        if is_idle or not is_cached:
            # Unlike `await`, this does not cancel the look-up if the request is cancelled.
            await asyncio.wait({self.look_up})
        self.asked_at = monotonic()
        if key_id in self.keys:
            return self.keys[key_id]
        if self.look_up.exception():
            raise HTTPException(503, "The key set can't be reached.", RETRY)
        raise jwt.InvalidKeyError

    async def fetch(self) -> None:
        """Replace the cached keys, unless the look-up fails."""
        async with asyncio.timeout(self.TIMEOUT):
            keys = await asyncio.to_thread(self.client.get_signing_keys)
        self.keys = {key.key_id: key for key in keys if key.key_id}

    def log_failure(self, look_up: asyncio.Task[None]) -> None:
        if not look_up.cancelled() and (error := look_up.exception()):
            log.warning("JWT_JWKS_URL can't be used: %s", type(error).__name__)


key_set = KeySet(JWT_JWKS_URL) if JWT_JWKS_URL else None


async def verify(token: str) -> UUID:
    """Return the subject of a token. Raises PyJWTError if the token is not valid."""
    if len(token) > 16 * 1024:  # The time to read a token grows with its length.
        raise jwt.InvalidTokenError
    key: bytes | jwt.PyJWK = JWT_SECRET
    if key_set:
        key = await key_set.find(jwt.get_unverified_header(token).get("kid", ""))
    claims = jwt.decode(
        token,
        key,
        algorithms=ALGORITHMS,
        audience=JWT_AUDIENCE,
        issuer=JWT_ISSUER,
        leeway=30,  # seconds
        options={"require": ["exp", "sub"], "verify_aud": JWT_AUDIENCE is not None},
    )
    if not UUID_FORM.fullmatch(claims["sub"]):
        raise jwt.exceptions.InvalidSubjectError
    return UUID(claims["sub"])


bearer = HTTPBearer(bearerFormat="JWT", auto_error=False)
BearerDep = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]


async def get_user(user_id: UUID, credentials: BearerDep) -> UUID:
    """Return the user id of a valid token, which is also the one of the path.

    400: `user_id` is not a UUID. 401: the token is missing or not valid. 403: the path
    belongs to another user. 503: see `KeySet.find`.
    """
    if credentials is None:
        raise HTTPException(401, DETAILS[401], {"WWW-Authenticate": "Bearer"})
    try:
        subject = await verify(credentials.credentials)
    except jwt.PyJWTError as error:
        detail = f"The token is not valid: {type(error).__name__}."
        headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'}  # RFC 6750
        raise HTTPException(401, detail, headers) from error
    if subject != user_id:
        raise HTTPException(403, DETAILS[403])
    return subject


UserDep = Annotated[UUID, Depends(get_user)]

# --- Endpoints --------------------------------------------------------------------

TIME_LIMIT = 20  # seconds; a look-up of keys before it takes up to 5
# As many as the pool keeps connections, so that no thread waits for a connection.
threads = ThreadPoolExecutor(POOL_SIZE)


def in_thread(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Call a `def` endpoint in one of `threads`, with a time limit.

    503: the limit has passed. Without `Retry-After`, because the statement goes on.
    FastAPI itself calls a `def` endpoint in a thread without a limit.
    """

    @wraps(endpoint)  # FastAPI sees the parameters of the endpoint.
    async def call(**arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        # The thread sees a copy of the request's context variables.
        work = partial(copy_context().run, endpoint, **arguments)
        result = loop.run_in_executor(threads, work)
        await asyncio.wait({result}, timeout=TIME_LIMIT)
        if result.done():
            return result.result()
        result.cancel()  # which has an effect only if it was still waiting for a thread
        late = f"No answer within {TIME_LIMIT} seconds. A change may still be made."
        log.warning(late)
        raise HTTPException(503, late)

    return call


def execute(session: Session, statement: Any, **values: Any) -> list[sa.Row[Any]]:
    """Execute one statement and return its rows.

    The session commits at the end of the `with` and gives its connection back. In
    autocommit nothing is sent for that: the database has committed the statement. Two
    statements that belong together are executed as in `create_task`.
    """
    # A session that overrides `get_session`, in a test, can be in a transaction.
    with session.get_transaction() or session.begin():
        return list(session.exec(statement, params=values))


def task_or_404(session: Session, statement: Any, **values: Any) -> TaskPublic:
    """Execute a statement and return its task. 404: there is none."""
    rows = execute(session, statement, **values)
    if not rows:
        raise HTTPException(404, DETAILS[404])
    return TaskPublic.model_validate(rows[0])


# Each statement is a constant above its endpoint. `execute` gives values to its
# parameters (`bindparam`), and for an INSERT to its columns, by their names.
is_owned = tasks.c.user_id == sa.bindparam("user")
is_the_task = is_owned & (tasks.c.id == sa.bindparam("task"))
state_param = sa.bindparam("state", type_=sa.Boolean)
now_param = sa.bindparam("now", type_=UTCDateTime)

ERRORS = documented(400, 401, 403, 413, 500, 503)
TASK_ERRORS = ERRORS | documented(404)
# user_id = :user AND (:state IS NULL OR is_completed = :state)
is_listed = is_owned & (state_param.is_(None) | (tasks.c.is_completed == state_param))
# SELECT count(*) AS total FROM tasks WHERE is_listed
COUNT_TASKS = sa.select(sa.func.count().label("total")).where(is_listed)
# SELECT tasks.*, (COUNT_TASKS) AS total FROM tasks WHERE is_listed
# ORDER BY created_at DESC, id DESC LIMIT :limit OFFSET :offset
LIST_TASKS = (
    sa.select(tasks, COUNT_TASKS.scalar_subquery().label("total"))
    .where(is_listed)
    .order_by(*NEWEST_FIRST)
    .limit(sa.bindparam("limit"))
    .offset(sa.bindparam("offset"))
)


@app.get("/api/{user_id}/tasks", responses=ERRORS)
@in_thread
def list_tasks(
    user: UserDep,
    session: SessionDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
    is_completed: bool | None = None,
) -> TaskPage:
    """Return a page of the user's tasks, newest first."""
    where = {"user": user, "state": is_completed}
    rows = execute(session, LIST_TASKS, limit=limit, offset=offset, **where)
    total = rows[0].total if rows else 0
    if offset and not rows:  # A page past the last one: no row has the total.
        total = execute(session, COUNT_TASKS, **where)[0].total
    meta = {"total": total, "limit": limit, "offset": offset}
    return TaskPage.model_validate({"data": rows, "meta": meta})


insert = sqlite.insert if SQLITE else postgresql.insert
CREATE_USER = insert(User).on_conflict_do_nothing()
CREATE_TASK = sa.insert(tasks).returning(tasks)


@app.post("/api/{user_id}/tasks", status_code=201, responses=ERRORS)
@in_thread
def create_task(
    user: UserDep,
    session: SessionDep,
    body: TaskCreate,
    request: Request,
    response: Response,
) -> TaskPublic:
    """Create a task. `Location` is its URL."""
    now = datetime.now(UTC)
    values = body.model_dump() | {"user_id": user, "created_at": now, "updated_at": now}
    try:
        rows = execute(session, CREATE_TASK, **values)
    except sa.exc.IntegrityError:
        # The user has no row yet: create both rows or none. An error with another cause
        # occurs again here.
        with session.begin():
            session.connection(execution_options=TRANSACTION)
            session.exec(CREATE_USER, params={"id": user})
            rows = list(session.exec(CREATE_TASK, params=values))
    response.headers["Location"] = f"{request.url.path}/{rows[0].id}"
    return TaskPublic.model_validate(rows[0])


# SELECT * FROM tasks WHERE user_id = :user AND id = :task
GET_TASK = sa.select(tasks).where(is_the_task)


@app.get("/api/{user_id}/tasks/{task_id}", responses=TASK_ERRORS)
@in_thread
def get_task(user: UserDep, session: SessionDep, task_id: UUID) -> TaskPublic:
    """Return a task."""
    return task_or_404(session, GET_TASK, user=user, task=task_id)


# UPDATE tasks SET title = :new_title, updated_at = :now, is_completed = kept,
#     completed_at = CASE WHEN kept THEN coalesce(completed_at, :now) END
# WHERE user_id = :user AND id = :task RETURNING *
kept = sa.func.coalesce(state_param, tasks.c.is_completed)
completed_since = sa.func.coalesce(tasks.c.completed_at, now_param)
UPDATE_TASK = (
    sa.update(tasks)
    .where(is_the_task)
    .values(title=sa.bindparam("new_title"), updated_at=now_param)
    .values(is_completed=kept, completed_at=sa.case((kept, completed_since)))
    .returning(tasks)
)


@app.put("/api/{user_id}/tasks/{task_id}", responses=TASK_ERRORS)
@in_thread
def update_task(
    user: UserDep, session: SessionDep, task_id: UUID, body: TaskUpdate
) -> TaskPublic:
    """Update the title of a task and, if it is given, its state."""
    state = body.model_dump().get("is_completed")  # None if it is MISSING
    values = {"user": user, "task": task_id, "state": state, "now": datetime.now(UTC)}
    return task_or_404(session, UPDATE_TASK, new_title=body.title, **values)


DELETE_TASK = sa.delete(tasks).where(is_the_task).returning(tasks.c.id)


@app.delete("/api/{user_id}/tasks/{task_id}", status_code=204, responses=TASK_ERRORS)
@in_thread
def delete_task(user: UserDep, session: SessionDep, task_id: UUID) -> None:
    """Delete a task."""
    if not execute(session, DELETE_TASK, user=user, task=task_id):
        raise HTTPException(404, DETAILS[404])


# UPDATE tasks SET updated_at = :now, is_completed = toggled,
#     completed_at = CASE WHEN toggled THEN coalesce(completed_at, :now) END
# WHERE user_id = :user AND id = :task RETURNING *
toggled = sa.func.coalesce(state_param, ~tasks.c.is_completed)
COMPLETE_TASK = (
    sa.update(tasks)
    .where(is_the_task)
    .values(updated_at=now_param)
    .values(is_completed=toggled, completed_at=sa.case((toggled, completed_since)))
    .returning(tasks)
)


@app.patch("/api/{user_id}/tasks/{task_id}/complete", responses=TASK_ERRORS)
@in_thread
def complete_task(
    user: UserDep, session: SessionDep, task_id: UUID, body: TaskComplete | None = None
) -> TaskPublic:
    """Toggle the state of a task. With a body, set it, so that a retry is safe."""
    state = body.is_completed if body else None
    values = {"user": user, "task": task_id, "state": state, "now": datetime.now(UTC)}
    return task_or_404(session, COMPLETE_TASK, **values)


@app.get("/health", include_in_schema=False)
async def health() -> dict[str, str]:
    """Answer that the process runs. Does not query the database."""
    return {"status": "ok"}


@app.get("/", include_in_schema=False)
async def root(request: Request) -> RedirectResponse:
    """Redirect a browser to the interactive documentation."""
    return RedirectResponse(f"{request.scope['root_path']}/docs")


# --- Demo -------------------------------------------------------------------------

DEMO_USERS = {
    "Alice": "a11ce000-0000-4000-8000-000000000001",
    "Bob": "b0b00000-0000-4000-8000-000000000002",
}


def demo() -> None:
    """Print a `curl` command for each demo user, then start uvicorn.

    uvicorn imports this file again, as `app`. Its options are parsed here, too, to know
    the host and the port.
    """
    arguments = ["app:app", "--ws", "none", *sys.argv[1:]]
    context = uvicorn.main.make_context("app.py", [*arguments], resilient_parsing=True)
    if context.params["env_file"]:
        refuse_to_start("--env-file is for `uvicorn app:app`; the demo can't use it.")
    base = "http://{host}:{port}".format_map(context.params)
    for name, user in DEMO_USERS.items():
        claims = {"sub": user, "exp": datetime.now(UTC) + timedelta(days=1)}
        claims |= {"iss": JWT_ISSUER or "", "aud": JWT_AUDIENCE or ""}
        token = jwt.encode(claims, JWT_SECRET)
        print(f"The tasks of {name}:")
        print(f'curl {base}/api/{user}/tasks -H "Authorization: Bearer {token}"')
    print(f"The documentation: {base}/docs", flush=True)
    uvicorn.main(arguments)


if __name__ == "__main__":
    demo()
