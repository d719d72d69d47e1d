"""The Task API: a to-do backend. An auth system signs in the users and issues JWTs.

A request passes through three sections of this file:

    Application      The middleware limits the body and answers unexpected exceptions.
    Authentication   `get_user_id` verifies the token and compares it with the path.
    Endpoints        `in_thread` calls the endpoint in a thread, which calls `execute`,
                     which sends one statement. A user's first task takes more.

Five forms are here only for speed. A program that does not need it takes the plain form:

    engine in autocommit      `session.commit()`            +2 round trips
    `check_connection`        `pool_pre_ping=True`          +1 round trip
    `async def get_session`   `def get_session`             +10 to 20 % of CPU time
    statements as constants   statements in the endpoints   +3 to 17 %
    rows of the table         objects, `select(Task)`       +11 to 16 % of a read

A round trip is a message to the database and its answer. A claim is what a token says; the
subject (`sub`) is the user id (RFC 7519). The key set has the public keys of the auth
system, by key id (RFC 7517). A problem is the body of an error (RFC 9457).
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
from starlette.middleware.errors import ServerErrorMiddleware
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

DATABASE_URL = os.environ.get("DATABASE_URL") or "sqlite:///tasks.db"
JWT_JWKS_URL = os.environ.get("JWT_JWKS_URL") or ""
JWT_ISSUER = os.environ.get("JWT_ISSUER") or None
JWT_AUDIENCE = os.environ.get("JWT_AUDIENCE") or None
CORS_ORIGINS = os.environ.get("CORS_ORIGINS") or "http://localhost:3000"

if __name__ == "__main__" and not JWT_JWKS_URL:
    # `python app.py`, the demo, needs no settings. uvicorn imports this file again, as
    # `app`, and finds the secret of this run in the environment.
    os.environ["JWT_SECRET"] = os.environ.get("JWT_SECRET") or token_urlsafe(32)

JWT_SECRET = os.fsencode(os.environ.get("JWT_SECRET") or "")  # bytes


def refuse_to_start(reason: str) -> NoReturn:
    """End the process with one line on stderr and a code that uvicorn does not retry."""
    print(f"Can't start: {reason}", file=sys.stderr)
    sys.exit(uvicorn.config.STARTUP_FAILURE)


if bool(JWT_SECRET) == bool(JWT_JWKS_URL):
    refuse_to_start("set exactly one of JWT_SECRET and JWT_JWKS_URL.")
if JWT_SECRET and len(JWT_SECRET) < 32:  # RFC 7518, section 3.2
    refuse_to_start("JWT_SECRET is too short: set at least 32 random bytes.")
try:
    jwt.encode({}, JWT_SECRET or bytes(32))  # PyJWT refuses a public key as a secret.
    if JWT_JWKS_URL:
        JWT_JWKS_URL = str(HttpUrl(JWT_JWKS_URL))
except (jwt.InvalidKeyError, ValueError):
    refuse_to_start("JWT_SECRET must be no PEM or JWK, JWT_JWKS_URL an http(s) URL.")

# --- Errors -----------------------------------------------------------------------

DETAILS = {
    400: "The input is not valid.",
    401: "The bearer token is missing.",
    403: "The path belongs to another user.",
    404: "The task does not exist.",
    413: "The body is larger than 64 KiB.",
    500: "The request failed because of a defect, which has been logged.",
    503: "The database can't be used at the moment.",
}
MAX_BODY = 64 * 1024  # bytes
RETRY = {"Retry-After": "5"}  # seconds
PROBLEM_JSON = "application/problem+json"


def problem(
    status: int, detail: str, headers: Mapping[str, str] | None = None, **members: Any
) -> JSONResponse:
    """Return an error as a response. `members` are the `errors` of a 400."""
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(body | members, status, headers, media_type=PROBLEM_JSON)


def documented(status: int) -> dict[str, Any]:
    """Describe an error in the OpenAPI document, with an example that is really sent."""
    message = "Input should be a valid UUID, invalid length: found 1"
    errors = {"errors": [{"loc": ["path", "user_id"], "msg": message}]}
    members: dict[str, Any] = errors if status == 400 else {}
    example = json.loads(bytes(problem(status, DETAILS[status], **members).body))
    schema = {"$ref": "#/components/schemas/Problem"}
    content = {PROBLEM_JSON: {"schema": schema, "example": example}}
    return {"description": DETAILS[status], "content": content}


ERRORS: dict[Any, Any] = {s: documented(s) for s in (400, 401, 403, 413, 500, 503)}
TASK_ERRORS = ERRORS | {404: documented(404)}

# --- Database ---------------------------------------------------------------------

POOL_SIZE = 10
# Connecting takes at most 5 seconds an address; a silent network is noticed after 9.
# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
LIBPQ_DEFAULTS = {
    "connect_timeout": "5",
    "keepalives_idle": "3",
    "keepalives_interval": "3",
    "keepalives_count": "2",
    "tcp_user_timeout": "9000",  # milliseconds
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
        # The database commits each statement itself. Two that belong together: see
        # `create_task`. Set for a session instead, it would cost the round trip of a SET.
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,  # There is nothing to roll back.
        pool_size=POOL_SIZE,
        # For endpoints that you add without `in_thread`: FastAPI calls up to 40 at once.
        max_overflow=20,
        pool_timeout=10,  # seconds to wait for a free connection
        hide_parameters=True,  # Titles are not for the log.
    )
except (sa.exc.ArgumentError, TypeError, ValueError):
    refuse_to_start("set DATABASE_URL to sqlite:///FILE or postgresql://USER@HOST/DB.")

# Instead of autocommit, for a transaction: the usual isolation level of the database.
TRANSACTION = {"isolation_level": "SERIALIZABLE" if SQLITE else "READ COMMITTED"}

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

        Such a server has sent a message and the end of the stream. The first `poll` reads
        the message, without waiting; the second one reads the end and raises an error.
        """
        if not entry.info:  # a new connection; the pool clears `info` when it connects
            entry.info["is_used"] = True
            return
        try:
            connection.poll()
            connection.poll()
        except psycopg2.Error as error:
            raise sa.exc.DisconnectionError from error

    @sa.event.listens_for(engine, "handle_error")
    def give_up_read_only(event: Any) -> None:
        """Count a server that became read-only, in a failover, as a lost one."""
        if isinstance(event.original_exception, psycopg2.errors.ReadOnlySqlTransaction):
            event.is_disconnect = True


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
    """Return a session. It holds a connection only in a transaction; see `execute`.

    A `yield` would close it at the time limit of `in_thread`, while its thread uses it.
    """
    return Session(engine)


SessionDep = Annotated[Session, Depends(get_session)]

# --- Application ------------------------------------------------------------------


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Create the missing tables at start; close the connections at the end."""
    log.info("The tasks are stored in %s", url.set(query={}).render_as_string())
    if JWT_JWKS_URL and not JWT_AUDIENCE:
        log.warning("JWT_AUDIENCE is not set: tokens for other applications are valid.")
    try:
        create_tables()
    except (sa.exc.SQLAlchemyError, TypeError, ValueError) as error:
        # The process ends. Starlette logs the traceback; one line is enough.
        sys.tracebacklimit = 0
        raise RuntimeError(f"Can't use DATABASE_URL: {first_line(error)}") from None
    yield
    engine.dispose()
    # The last connection to a SQLite file removes its -wal file. If several workers close
    # theirs at the same moment, none is the last one, and they close again.
    for _ in range(100):
        if SQLITE and os.path.exists(f"{url.database}-wal"):
            engine.connect().close()
            engine.dispose()


app = FastAPI(
    title="Task API",
    version="1.0.0",
    lifespan=lifespan,
    redirect_slashes=False,
    generate_unique_id_function=lambda route: route.name,
    # Defines the schema for `documented`. As it covers every error, FastAPI adds no 422.
    responses={"default": {"model": Problem, "description": "An error"}},
)


# `max_body_size` of FastAPI answers in plain text. https://starlette.dev/middleware/
def limit_body(inner: ASGIApp) -> ASGIApp:
    """Answer 413 to a body over MAX_BODY bytes, announced or in chunks."""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        # float(), because int() refuses 5,000 digits.
        if float(dict(scope.get("headers", [])).get(b"content-length", 0)) > MAX_BODY:
            return await problem(413, DETAILS[413])(scope, receive, send)
        size = 0

        async def receive_part() -> Message:
            nonlocal size
            part = await receive()
            size += len(part.get("body", b""))
            # FastAPI reads the body, so one of its handlers answers this exception.
            if size > MAX_BODY:
                raise HTTPException(413, DETAILS[413])
            return part

        await inner(scope, receive_part, send)

    return limited


# The last one is the outermost. A page can read what passes through the CORS middleware.
app.add_middleware(limit_body)
# Answers an exception that has no handler, and raises it again for the log.
app.add_middleware(ServerErrorMiddleware, handler=lambda *_: problem(500, DETAILS[500]))
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
    """Answer an HTTPException as a problem. FastAPI's own 400 is about the body."""
    errors = {"errors": [{"loc": ["body"], "msg": error.detail}]}
    members: dict[str, Any] = errors if error.status_code == 400 else {}
    return problem(error.status_code, error.detail, error.headers, **members)


@app.exception_handler(RequestValidationError)
async def on_invalid_input(_: Request, error: RequestValidationError) -> Response:
    """Answer 400 with what is wrong and where. FastAPI would also repeat the input."""
    errors = [{"loc": each["loc"], "msg": each["msg"]} for each in error.errors()]
    return problem(400, DETAILS[400], errors=errors)


def is_unavailable(error: sa.exc.SQLAlchemyError) -> bool:
    """Return whether the database can't be used. Any other error is a defect."""
    if isinstance(error, sa.exc.OperationalError):  # such as a lock or a full disk
        # SQLite raises it for a wrong statement, too.
        return getattr(error.orig, "sqlite_errorname", "") != "SQLITE_ERROR"
    # Or no connection became free, the connection was lost, the server is read-only.
    return not isinstance(error, sa.exc.DBAPIError) or error.connection_invalidated


@app.exception_handler(sa.exc.TimeoutError)
@app.exception_handler(sa.exc.DBAPIError)
async def on_database_error(_: Request, error: sa.exc.SQLAlchemyError) -> Response:
    """Answer 503 if the database can't be used, else 500."""
    if not is_unavailable(error):
        # The log shows this error instead, because the other one can quote a title.
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

    With the cache of `jwt.PyJWKClient`, a failed look-up would refuse every token. Here,
    a request uses a cached key. If the last look-up is older than MAX_AGE, it starts one,
    and waits for it only if no request came for MAX_IDLE. A request with an unknown key
    waits: for a new look-up, or for the last one if that is younger than INTERVAL.
    """

    MAX_AGE = 300  # seconds
    MAX_IDLE = 600  # seconds
    INTERVAL = 10  # seconds
    TIMEOUT = 5  # seconds, for a read of the client and for a whole look-up

    def __init__(self, url: str) -> None:
        self.client = jwt.PyJWKClient(url, cache_jwk_set=False, timeout=self.TIMEOUT)
        self.keys: dict[str, jwt.PyJWK] = {}
        self.looked_up_at = self.asked_at = float("-inf")
        self.look_up: asyncio.Task[None]  # the last one

    async def find(self, key_id: str) -> jwt.PyJWK:
        """Return a key. Raises InvalidKeyError, or 503 if the look-up for it failed."""
        now = monotonic()
        is_cached = key_id in self.keys
        must_wait = not is_cached or now - self.asked_at > self.MAX_IDLE
        if now - self.looked_up_at > (self.MAX_AGE if is_cached else self.INTERVAL):
            self.looked_up_at = now
            self.look_up = asyncio.create_task(self.fetch())
            self.look_up.add_done_callback(self.log_failure)
        if must_wait:
            # `await self.look_up` would cancel it if the request is cancelled.
            await asyncio.wait({self.look_up})
        self.asked_at = now
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
    """Return the subject of a token. Raises PyJWTError, or see `KeySet.find`."""
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


async def get_user_id(user_id: UUID, credentials: BearerDep) -> UUID:
    """Return the user id of a valid token, which is also the one of the path.

    401: no valid token. 403: the path of another user. 503: see `KeySet.find`.
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


UserIdDep = Annotated[UUID, Depends(get_user_id)]

# --- Endpoints --------------------------------------------------------------------

TIME_LIMIT = 20  # seconds; a look-up of keys before it takes up to 5
# As many as the pool keeps connections, so that no thread waits for a connection.
threads = ThreadPoolExecutor(POOL_SIZE)


def in_thread(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Call a `def` endpoint in one of `threads`, with a time limit.

    503: the limit has passed. Without `Retry-After`, because the statement goes on.
    FastAPI itself calls a `def` endpoint in a thread, but without a limit.
    """

    @wraps(endpoint)  # FastAPI sees the parameters of the endpoint.
    async def call(**arguments: Any) -> Any:
        # With a copy of its context variables, such as the trace id of the request.
        work = partial(copy_context().run, endpoint, **arguments)
        future = asyncio.get_running_loop().run_in_executor(threads, work)
        # Raises nothing, unlike `wait_for`: a TimeoutError can be the endpoint's own.
        await asyncio.wait({future}, timeout=TIME_LIMIT)
        if future.done():
            return future.result()  # or raise what the endpoint raised
        future.cancel()  # which has an effect only if it was still waiting for a thread
        late = f"No answer within {TIME_LIMIT} seconds. A change may still be made."
        log.warning(late)
        raise HTTPException(503, late)

    return call


def execute(session: Session, statement: Any, **values: Any) -> list[sa.Row[Any]]:
    """Execute one statement and return its rows.

    The `with` commits, or after an exception rolls back, and gives the connection back.
    In autocommit this sends nothing: the database has committed the statement.
    """
    # The session of a test, in place of `get_session`, can be in a transaction.
    transaction = session.get_transaction() or session.begin()
    with transaction:
        return list(session.exec(statement, params=values))


def task_or_404(session: Session, statement: Any, **values: Any) -> TaskPublic:
    """Execute a statement and return its task. 404: there is none."""
    rows = execute(session, statement, **values)
    if not rows:
        raise HTTPException(404, DETAILS[404])
    return TaskPublic.model_validate(rows[0])


# Each statement is a constant above its endpoint, in SQLAlchemy Core, with its SQL above.
# https://docs.sqlalchemy.org/en/21/tutorial/data.html
# `tasks.c.title` is a column. Operators make SQL of it: `&` AND, `|` OR, `~` NOT. A value
# that `execute` passes is the one of a parameter: `bindparam("task")` is :task. A value
# with the name of a column sets the column. An INSERT gets its columns in this way, or
# their defaults from models.py. An UPDATE must not: hence :user, :task and :new_title.
OWNED = tasks.c.user_id == sa.bindparam("user")
THE_TASK = OWNED & (tasks.c.id == sa.bindparam("task"))
STATE = sa.bindparam("state", type_=sa.Boolean)
NOW = sa.bindparam("now", type_=UTCDateTime)

# user_id = :user AND (:state IS NULL OR is_completed = :state)
LISTED = OWNED & (STATE.is_(None) | (tasks.c.is_completed == STATE))
# SELECT count(*) AS total FROM tasks WHERE LISTED
COUNT_TASKS = sa.select(sa.func.count().label("total")).where(LISTED)
# SELECT *, (COUNT_TASKS) AS total FROM tasks WHERE LISTED
# ORDER BY created_at DESC, id DESC LIMIT :limit OFFSET :offset
LIST_TASKS = (
    sa.select(tasks, COUNT_TASKS.scalar_subquery().label("total"))
    .where(LISTED)
    .order_by(*NEWEST_FIRST)
    .limit(sa.bindparam("limit"))
    .offset(sa.bindparam("offset"))
)


@app.get("/api/{user_id}/tasks", responses=ERRORS)
@in_thread
def list_tasks(
    user_id: UserIdDep,
    session: SessionDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
    is_completed: bool | None = None,
) -> TaskPage:
    """Return a page of the user's tasks, newest first."""
    where = {"user": user_id, "state": is_completed}
    rows = execute(session, LIST_TASKS, limit=limit, offset=offset, **where)
    total = rows[0].total if rows else 0
    if offset and not rows:  # A page past the last one: no row has the total.
        total = execute(session, COUNT_TASKS, **where)[0].total
    meta = {"total": total, "limit": limit, "offset": offset}
    return TaskPage.model_validate({"data": rows, "meta": meta})


# INSERT INTO tasks (…) VALUES (…) RETURNING *
CREATE_TASK = sa.insert(tasks).returning(tasks)
# INSERT INTO users (…) VALUES (…) ON CONFLICT DO NOTHING
CREATE_USER = (sqlite if SQLITE else postgresql).insert(User).on_conflict_do_nothing()


@app.post("/api/{user_id}/tasks", status_code=201, responses=ERRORS)
@in_thread
def create_task(
    user_id: UserIdDep,
    session: SessionDep,
    body: TaskCreate,
    request: Request,
    response: Response,
) -> TaskPublic:
    """Create a task. `Location` is its URL."""
    now = datetime.now(UTC)
    values = {"user_id": user_id, "created_at": now, "updated_at": now}
    values |= body.model_dump()
    try:
        rows = execute(session, CREATE_TASK, **values)
    except sa.exc.IntegrityError:
        # The user has no row yet. The two statements belong together, so they are in one
        # transaction: both rows or none. An error with another cause occurs again.
        with session.begin():
            session.connection(execution_options=TRANSACTION)
            session.exec(CREATE_USER, params={"id": user_id})
            rows = list(session.exec(CREATE_TASK, params=values))
    response.headers["Location"] = f"{request.url.path}/{rows[0].id}"
    return TaskPublic.model_validate(rows[0])


GET_TASK = sa.select(tasks).where(THE_TASK)


@app.get("/api/{user_id}/tasks/{task_id}", responses=TASK_ERRORS)
@in_thread
def get_task(user_id: UserIdDep, session: SessionDep, task_id: UUID) -> TaskPublic:
    """Return a task."""
    return task_or_404(session, GET_TASK, user=user_id, task=task_id)


# UPDATE tasks SET title = :new_title, updated_at = :now, is_completed = KEPT,
#     completed_at = CASE WHEN KEPT THEN coalesce(completed_at, :now) END
# WHERE user_id = :user AND id = :task RETURNING *
# with coalesce(:state, is_completed) as KEPT. A CASE without ELSE is NULL.
KEPT = sa.func.coalesce(STATE, tasks.c.is_completed)
COMPLETED_SINCE = sa.func.coalesce(tasks.c.completed_at, NOW)
UPDATE_TASK = (
    sa.update(tasks)
    .where(THE_TASK)
    .values(title=sa.bindparam("new_title"), updated_at=NOW)
    .values(is_completed=KEPT, completed_at=sa.case((KEPT, COMPLETED_SINCE)))
    .returning(tasks)
)


@app.put("/api/{user_id}/tasks/{task_id}", responses=TASK_ERRORS)
@in_thread
def update_task(
    user_id: UserIdDep, session: SessionDep, task_id: UUID, body: TaskUpdate
) -> TaskPublic:
    """Update the title of a task and, if it is given, its state."""
    state = body.model_dump().get("is_completed")  # None if it is MISSING
    values = {"user": user_id, "task": task_id, "state": state}
    values |= {"new_title": body.title, "now": datetime.now(UTC)}
    return task_or_404(session, UPDATE_TASK, **values)


DELETE_TASK = sa.delete(tasks).where(THE_TASK).returning(tasks.c.id)


@app.delete("/api/{user_id}/tasks/{task_id}", status_code=204, responses=TASK_ERRORS)
@in_thread
def delete_task(user_id: UserIdDep, session: SessionDep, task_id: UUID) -> None:
    """Delete a task."""
    if not execute(session, DELETE_TASK, user=user_id, task=task_id):
        raise HTTPException(404, DETAILS[404])


# UPDATE tasks SET updated_at = :now, is_completed = TOGGLED,
#     completed_at = CASE WHEN TOGGLED THEN coalesce(completed_at, :now) END
# WHERE user_id = :user AND id = :task RETURNING *
# with coalesce(:state, NOT is_completed) as TOGGLED
TOGGLED = sa.func.coalesce(STATE, ~tasks.c.is_completed)
COMPLETE_TASK = (
    sa.update(tasks)
    .where(THE_TASK)
    .values(updated_at=NOW)
    .values(is_completed=TOGGLED, completed_at=sa.case((TOGGLED, COMPLETED_SINCE)))
    .returning(tasks)
)


@app.patch("/api/{user_id}/tasks/{task_id}/complete", responses=TASK_ERRORS)
@in_thread
def complete_task(
    user_id: UserIdDep,
    session: SessionDep,
    task_id: UUID,
    body: TaskComplete | None = None,
) -> TaskPublic:
    """Toggle the state of a task. With a body, set it, so that a retry is safe."""
    state = body.is_completed if body else None
    values = {"user": user_id, "task": task_id, "state": state}
    return task_or_404(session, COMPLETE_TASK, now=datetime.now(UTC), **values)


@app.get("/health", include_in_schema=False)
async def health() -> dict[str, str]:
    """Answer that the process runs. Does not query the database."""
    return {"status": "ok"}


@app.get("/", include_in_schema=False)
async def root(request: Request) -> RedirectResponse:
    """Redirect a browser to the interactive documentation."""
    return RedirectResponse(f"{request.scope['root_path']}/docs")


# --- Demo -------------------------------------------------------------------------


def demo() -> None:
    """Print `curl` commands, with the port that uvicorn's parser finds; start uvicorn."""
    options = ["app:app", "--ws", "none"] + sys.argv[1:]
    context = uvicorn.main.make_context("app.py", [*options], resilient_parsing=True)
    if context.params["env_file"] or key_set:
        refuse_to_start("the demo can't use --env-file or JWT_JWKS_URL.")
    base = "http://{host}:{port}".format_map(context.params)
    for name, user_id in (
        ("Alice", "a11ce000-0000-4000-8000-000000000001"),
        ("Bob", "b0b00000-0000-4000-8000-000000000002"),
    ):
        claims = {"sub": user_id, "exp": datetime.now(UTC) + timedelta(days=1)}
        claims |= {"iss": JWT_ISSUER or "", "aud": JWT_AUDIENCE or ""}
        token = jwt.encode(claims, JWT_SECRET)
        print(f"The tasks of {name}:")
        print(f'curl {base}/api/{user_id}/tasks -H "Authorization: Bearer {token}"')
    print(f"The documentation: {base}/docs", flush=True)
    uvicorn.main(options)


if __name__ == "__main__":
    demo()
