"""The Task API: a to-do backend. An auth system signs in the users and issues JWTs.

`python app.py` is a demo. The README shows other starts. A request passes through:

    Application      The middleware limits the body and answers unexpected exceptions.
    Authentication   `get_user_id` verifies the token and compares it with the path.
    Endpoints        `in_thread` calls the endpoint, which executes one statement. Two
                     cases need more: a user's first task, and a page past the last one.

Some forms are here for speed. The last column says what the plain form would add to a
request: round trips, or time under load with the database on the same machine.

    here                     plain form                     would add
    engine in autocommit     an engine without it           2 round trips
    `check_connection`       `pool_pre_ping=True`           1 round trip
    `async def get_session`  `def get_session`              13 to 35 %
    statements as constants  statements in the endpoints    12 to 65 %
    rows of `tasks`          `select(Task)`                 11 % of a read

The subject (`sub`) of a token is the user id (RFC 7519). The key set has the public keys
of the auth system, by key id (RFC 7517). A problem is the body of an error (RFC 9457).
"""

import asyncio
import gc
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
from functools import wraps
from http import HTTPStatus
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
from pydantic import MISSING
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, SQLModel, UTCDateTime
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models import Problem, TaskComplete, TaskCreate, TaskPage, TaskPublic, TaskUpdate

log = logging.getLogger("uvicorn.error")  # The log of uvicorn itself, not only errors.

# --- Settings ---------------------------------------------------------------------

DATABASE_URL = os.environ.get("DATABASE_URL") or "sqlite:///tasks.db"
JWT_JWKS_URL = os.environ.get("JWT_JWKS_URL") or ""
JWT_ISSUER = os.environ.get("JWT_ISSUER") or None
JWT_AUDIENCE = os.environ.get("JWT_AUDIENCE") or None
CORS_ORIGINS = os.environ.get("CORS_ORIGINS") or "http://localhost:3000"

if __name__ == "__main__" and not JWT_JWKS_URL:
    # The demo runs this file twice: now, and again when uvicorn imports it as `app`.
    os.environ["JWT_SECRET"] = os.environ.get("JWT_SECRET") or os.urandom(32).hex()

JWT_SECRET = os.fsencode(os.environ.get("JWT_SECRET") or "")  # bytes


def refuse_to_start(reason: str) -> NoReturn:
    """Print the reason and exit, with the code that tells uvicorn not to try again."""
    print(f"Can't start: {reason}", file=sys.stderr)
    sys.exit(uvicorn.config.STARTUP_FAILURE)


if bool(JWT_SECRET) == bool(JWT_JWKS_URL):
    refuse_to_start("set exactly one of JWT_SECRET and JWT_JWKS_URL.")
if JWT_SECRET and len(JWT_SECRET) < 32:  # RFC 7518, section 3.2
    refuse_to_start("JWT_SECRET is too short: set at least 32 random bytes.")

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
RETRY = {"Retry-After": "10"}  # seconds
PROBLEM_JSON = "application/problem+json"


def problem(
    status: int, detail: str, headers: Mapping[str, str] | None = None, errors: Any = ()
) -> JSONResponse:
    """Return an error as a response. A 400 has `errors`."""
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    if errors:
        body["errors"] = errors
    return JSONResponse(body, status, headers, media_type=PROBLEM_JSON)


def documented(status: int) -> dict[str, Any]:
    """Describe an error in the OpenAPI document. `problem` makes the example."""
    message = "Input should be a valid UUID, invalid length: found 1"
    errors = [{"loc": ["path", "user_id"], "msg": message}] if status == 400 else ()
    example = json.loads(bytes(problem(status, DETAILS[status], errors=errors).body))
    schema = {"$ref": "#/components/schemas/Problem"}
    content = {PROBLEM_JSON: {"schema": schema, "example": example}}
    return {"description": HTTPStatus(status).phrase, "content": content}


ERRORS: dict[Any, Any] = {s: documented(s) for s in (400, 401, 403, 413, 500, 503)}
TASK_ERRORS = ERRORS | {404: documented(404)}

# --- Database ---------------------------------------------------------------------

POOL_SIZE = 10
# In seconds: an address has 5 to answer; a silent server is given up after 3 + 2 * 3.
# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
TIMEOUTS = {
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
        url = url.set(drivername="postgresql+psycopg2", query=TIMEOUTS | url.query)
    elif not SQLITE or ":memory:" in str(url.database):
        raise ValueError
    engine = sa.create_engine(
        url,
        # Each statement commits itself; `commit()` and `rollback()` only give the
        # connection back. Endpoints that write call `commit()` so that they stay right
        # without this line, which saves two round trips.
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=not SQLITE,  # an empty rollback costs 3 to 12 %
        pool_size=POOL_SIZE,
        max_overflow=20,  # for endpoints that you add without `in_thread`
        pool_timeout=10,  # seconds to wait for a free connection
        hide_parameters=True,  # Titles are not for the log.
    )
except (sa.exc.ArgumentError, TypeError, ValueError):
    refuse_to_start("set DATABASE_URL to sqlite:///FILE or postgresql://USER@HOST/DB.")

# With this option, one connection uses transactions, at the default isolation level.
TRANSACTION = {"isolation_level": "SERIALIZABLE" if SQLITE else "READ COMMITTED"}

if SQLITE:

    @sa.event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _: object) -> None:
        """Enforce foreign keys, and let readers work beside a writer."""
        connection.execute("PRAGMA foreign_keys = ON")
        # The file keeps this mode. Setting the mode can fail while others use the file.
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode = WAL")

else:

    @sa.event.listens_for(engine, "checkout")
    def check_connection(connection: Any, entry: Any, _: object) -> None:
        """Have the pool replace a connection that the server closed while it was idle."""
        # `info` is empty the first time: the connection is new and needs no check.
        if not entry.info:
            entry.info["is_used"] = True
            return
        try:
            connection.poll()  # reads what a closing server sent last; does not wait
            connection.poll()  # if the server has closed, this one raises an error
        except psycopg2.Error as error:
            raise sa.exc.DisconnectionError from error

    @sa.event.listens_for(engine, "handle_error")
    def give_up_read_only(event: Any) -> None:
        """Treat a connection as lost if a failover made its server read-only."""
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


# --- Application ------------------------------------------------------------------


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Create the missing tables at start; close the connections at the end."""
    log.info("The tasks are stored in %s", url.set(query={}).render_as_string())
    if JWT_JWKS_URL and not JWT_AUDIENCE:
        log.warning("JWT_AUDIENCE is not set: tokens for other applications are valid.")
    try:
        create_tables()
    except (sa.exc.DBAPIError, psycopg2.Error, TypeError, ValueError) as error:
        # The process ends. Of the traceback that Starlette logs, only the message stays.
        sys.tracebacklimit = 0
        raise RuntimeError(f"Can't use DATABASE_URL: {first_line(error)}") from None
    gc.set_threshold(50_000)  # Look for garbage less often: saves 10 to 20 %.
    yield
    engine.dispose()
    # SQLite keeps changes in FILE-wal, and the last connection to close removes it.
    # Workers that close together can each miss being the last. So each tries again.
    for _ in range(100):
        if SQLITE and os.path.exists(f"{url.database}-wal"):
            engine.connect().close()
            engine.dispose()


app = FastAPI(
    title="Task API",
    lifespan=lifespan,
    redirect_slashes=False,
    generate_unique_id_function=lambda route: route.name,
    # `model` adds the schema that `documented` refers to. "default" replaces the 422.
    responses={"default": {"model": Problem, "description": "An error"}},
)


# Not `max_body_size`: its 413 is plain text. See https://starlette.dev/middleware/
def limit_body(inner: ASGIApp) -> ASGIApp:
    """Answer 413 to a body over MAX_BODY bytes, announced or in chunks."""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        # A "lifespan" scope has no headers. int() would fail on more than 4,300 digits.
        if float(dict(scope.get("headers", ())).get(b"content-length", 0)) > MAX_BODY:
            return await problem(413, DETAILS[413])(scope, receive, send)
        size = 0

        async def receive_part() -> Message:
            nonlocal size
            part = await receive()
            size += len(part.get("body", b""))
            # FastAPI reads the body through this, so it answers the HTTPException.
            if size > MAX_BODY:
                raise HTTPException(413, DETAILS[413])
            return part

        await inner(scope, receive_part, send)

    return limited


# The middleware that is added last is the outermost: CORS, so that a page can read each
# answer. ServerErrorMiddleware answers 500 and raises the error again: uvicorn logs it.
app.add_middleware(limit_body)
app.add_middleware(ServerErrorMiddleware, handler=lambda *_: problem(500, DETAILS[500]))
app.add_middleware(
    CORSMiddleware,
    allow_origins=[origin.strip().rstrip("/") for origin in CORS_ORIGINS.split(",")],
    allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
    allow_headers=["Authorization", "Content-Type"],
    expose_headers=["Allow", "Location", "Retry-After", "WWW-Authenticate"],
)


# Starlette's class, because the router raises it. FastAPI's is a subclass.
@app.exception_handler(StarletteHTTPException)
async def on_http_exception(_: Request, exc: StarletteHTTPException) -> Response:
    """Answer an HTTPException as a problem. FastAPI raises 400 for an unreadable body."""
    errors = [{"loc": ["body"], "msg": exc.detail}] if exc.status_code == 400 else ()
    return problem(exc.status_code, exc.detail, exc.headers, errors)


@app.exception_handler(RequestValidationError)
async def on_invalid_input(_: Request, exc: RequestValidationError) -> Response:
    """Answer 400 with what is wrong and where. FastAPI would also repeat the input."""
    errors = [{"loc": error["loc"], "msg": error["msg"]} for error in exc.errors()]
    return problem(400, DETAILS[400], errors=errors)


def is_unavailable(exc: Exception) -> bool:
    """Return whether the error means that the database can't be used."""
    if isinstance(exc, sa.exc.OperationalError):
        # A lost connection or a lock. SQLITE_ERROR is a wrong statement: a defect.
        return getattr(exc.orig, "sqlite_errorname", "") != "SQLITE_ERROR"
    # Another DBAPIError counts if it ended the connection. Other classes had none.
    return not isinstance(exc, sa.exc.DBAPIError) or exc.connection_invalidated


@app.exception_handler(sa.exc.TimeoutError)  # No connection is free.
@app.exception_handler(psycopg2.OperationalError)  # when TRANSACTION is set
@app.exception_handler(sa.exc.DBAPIError)
async def on_database_error(_: Request, exc: Exception) -> Response:
    """Answer 503 if the database can't be used. Any other error is a defect: 500."""
    if not is_unavailable(exc):
        # Raise a new exception, because the message of `exc` can contain a title.
        reason = f"{type(exc).__name__}: {first_line(exc)}"
        raise RuntimeError(reason).with_traceback(exc.__traceback__) from None
    log.warning("The database can't be used: %s", first_line(exc))
    return problem(503, DETAILS[503], RETRY)


# --- Authentication ---------------------------------------------------------------

# Never both kinds: a public key must not be accepted as an HS256 secret.
ALGORITHMS = ["HS256"] if JWT_SECRET else ["RS256", "ES256", "EdDSA"]
# UUID() also accepts other forms, such as {...} or one without hyphens.
UUID_FORM = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class KeySet:
    """The public keys of the auth system. `PyJWKClient` loses them if a look-up fails.

    A look-up starts if a key is not cached or the keys are older than MAX_AGE, but at
    most once per INTERVAL. If it fails, the old keys stay. A request waits for it only if
    its key is not cached, or if no other came for MAX_IDLE: it may be withdrawn.
    """

    MAX_AGE = 300  # seconds
    MAX_IDLE = 600  # seconds; over MAX_AGE, so that `find` has just started a look-up
    INTERVAL = 10  # seconds; more than TIMEOUT, so that only one look-up runs
    TIMEOUT = 5  # seconds, for each read from the socket and for a whole look-up

    def __init__(self, url: str) -> None:
        self.client = jwt.PyJWKClient(url, cache_jwk_set=False, timeout=self.TIMEOUT)
        self.keys: dict[str, jwt.PyJWK] = {}
        self.fetched_at = self.looked_up_at = self.asked_at = float("-inf")
        self.look_up: asyncio.Task[None]  # The last one. The first `find` starts one.

    async def find(self, key_id: str) -> jwt.PyJWK:
        """Return a key. Raises InvalidKeyError, or 503 if the last look-up failed."""
        now = monotonic()
        may_be_withdrawn = now - self.asked_at > self.MAX_IDLE
        if key_id not in self.keys or now - self.fetched_at > self.MAX_AGE:
            self.start_look_up(now)
        if not self.look_up.done() and (key_id not in self.keys or may_be_withdrawn):
            # `await self.look_up` would pass one request's cancellation on to it.
            await asyncio.wait({self.look_up})
        self.asked_at = now
        if key_id in self.keys:
            return self.keys[key_id]
        if self.look_up.exception():
            raise HTTPException(503, "The key set can't be reached.", RETRY)
        raise jwt.InvalidKeyError

    def start_look_up(self, now: float) -> None:
        """Start a look-up, unless one was started in the last INTERVAL."""
        if now - self.looked_up_at > self.INTERVAL:
            self.looked_up_at = now
            self.look_up = asyncio.create_task(self.fetch())
            self.look_up.add_done_callback(self.log_failure)

    async def fetch(self) -> None:
        """Replace the cached keys, unless the look-up fails."""
        async with asyncio.timeout(self.TIMEOUT):
            keys = await asyncio.to_thread(self.client.get_signing_keys)
        self.keys = {str(key.key_id): key for key in keys}
        self.fetched_at = monotonic()

    def log_failure(self, look_up: asyncio.Task[None]) -> None:
        """Log why a look-up failed, unless it was cancelled by the shutdown."""
        if not look_up.cancelled() and (error := look_up.exception()):
            log.warning("JWT_JWKS_URL can't be used: %r", error)


try:
    key_set = KeySet(JWT_JWKS_URL) if JWT_JWKS_URL else None
except (jwt.PyJWTError, ValueError):  # PyJWT refuses other schemes.
    refuse_to_start("JWT_JWKS_URL must be an http(s) URL.")


async def verify(token: str) -> UUID:
    """Return the subject of a token. Raises PyJWTError, or the 503 of `KeySet.find`."""
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
    """Return the user id of the path. 401: no valid token. 403: another user's token."""
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

TIME_LIMIT = 20  # seconds for the endpoint; authentication can add 5
# As many threads as the pool keeps connections, so that no thread waits for one.
THREADS = ThreadPoolExecutor(POOL_SIZE)


def in_thread(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Call a `def` endpoint in a thread, as FastAPI does, but with a time limit.

    After the limit, the answer is 503. The thread can't be stopped and may still change
    a task, so there is no `Retry-After`. The endpoint must have a parameter `session`.
    `wraps` lets `@app.get` see the endpoint's parameters.
    """

    @wraps(endpoint)
    async def call(*, session: Session, **others: Any) -> Any:
        def in_the_thread() -> Any:
            try:
                return endpoint(session=session, **others)
            finally:
                session.rollback()  # gives the connection back

        # The thread sees the request's context variables, such as a trace id.
        work = session.info["work"] = THREADS.submit(copy_context().run, in_the_thread)
        try:
            async with asyncio.timeout(TIME_LIMIT) as limit:
                return await asyncio.wrap_future(work)
        except TimeoutError:
            if not limit.expired():  # The endpoint raised it.
                raise
        late = f"No answer within {TIME_LIMIT} seconds; a change may still be made."
        log.warning(late)
        raise HTTPException(503, late)

    return call


async def get_session() -> AsyncIterator[Session]:
    """Yield a session in autocommit. For a transaction, do as `create_task` does."""
    session = Session(engine)
    try:
        yield session
    finally:
        # After a late answer, the thread uses the session until its own `finally`.
        if "work" not in session.info or session.info["work"].done():
            session.close()


SessionDep = Annotated[Session, Depends(get_session)]


def execute(session: Session, statement: Any, **values: Any) -> list[sa.Row[Any]]:
    """Execute a statement with the values of its parameters, and return its rows."""
    return list(session.exec(statement, params=values))


def task_or_404(session: Session, statement: Any, **values: Any) -> TaskPublic:
    """Execute a statement and return its task. 404: there is none."""
    rows = execute(session, statement, **values)
    if not rows:
        raise HTTPException(404, DETAILS[404])
    return TaskPublic.model_validate(rows[0])


# Statements in SQLAlchemy Core: https://docs.sqlalchemy.org/en/21/tutorial/data.html
# `tasks.c.id` is a column. `==`, `&`, `|` and `~` make SQL of columns: =, AND, OR, NOT.
# `bindparam("task")` is the parameter :task; `execute(..., task=x)` gives it a value.
# A value named like a column would set that column; hence `new_title` below.

tasks = SQLModel.metadata.tables["tasks"]  # the table of the class Task, for Core
users = SQLModel.metadata.tables["users"]
OWNED = tasks.c.user_id == sa.bindparam("user")
THE_TASK = OWNED & (tasks.c.id == sa.bindparam("task"))
STATE = sa.bindparam("state", type_=sa.Boolean)
NOW = sa.bindparam("now", type_=UTCDateTime)

# SELECT count(*) AS total FROM tasks
# WHERE user_id = :user AND (:state IS NULL OR is_completed = :state)
LISTED = OWNED & (STATE.is_(None) | (tasks.c.is_completed == STATE))
COUNT_TASKS = sa.select(sa.func.count().label("total")).select_from(tasks).where(LISTED)
# SELECT tasks.*, (the statement above) AS total FROM tasks WHERE (the same as above)
# ORDER BY created_at DESC, id DESC LIMIT :limit OFFSET :offset
LIST_TASKS = (
    sa.select(tasks, COUNT_TASKS.scalar_subquery().label("total"))
    .where(LISTED)
    .order_by(tasks.c.created_at.desc(), tasks.c.id.desc())
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


# INSERT INTO tasks (...) VALUES (...) RETURNING *
# `execute` gives values by the names of columns. The defaults of `Task` fill the rest.
CREATE_TASK = sa.insert(tasks).returning(tasks)
# INSERT INTO users (...) VALUES (...) ON CONFLICT DO NOTHING
CREATE_USER = (sqlite if SQLITE else postgresql).insert(users).on_conflict_do_nothing()


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
    values = dict(body.model_dump(), user_id=user_id, created_at=now, updated_at=now)
    try:
        rows = execute(session, CREATE_TASK, **values)
    except sa.exc.IntegrityError:
        # The user has no row yet. The two statements belong together, so they are in one
        # transaction: both rows or none. If that was not the cause, it fails again.
        session.rollback()  # gives the connection back
        session.connection(execution_options=TRANSACTION)  # in place of autocommit
        session.exec(CREATE_USER, params={"id": user_id})
        rows = execute(session, CREATE_TASK, **values)
    session.commit()
    response.headers["Location"] = f"{request.scope['path']}/{rows[0].id}"
    return TaskPublic.model_validate(rows[0])


# The plain form: `session.exec(select(Task).where(Task.id == task_id, ...)).first()`
# SELECT * FROM tasks WHERE user_id = :user AND id = :task
GET_TASK = sa.select(tasks).where(THE_TASK)


@app.get("/api/{user_id}/tasks/{task_id}", responses=TASK_ERRORS)
@in_thread
def get_task(user_id: UserIdDep, session: SessionDep, task_id: UUID) -> TaskPublic:
    """Return a task."""
    return task_or_404(session, GET_TASK, user=user_id, task=task_id)


# UPDATE tasks SET title = :new_title, updated_at = :now,
#     is_completed = coalesce(:state, is_completed),
#     completed_at = CASE WHEN coalesce(:state, is_completed)
#                         THEN coalesce(completed_at, :now) END
# WHERE user_id = :user AND id = :task RETURNING *
# To the right of =, a column has its old value. If no WHEN is true, a CASE is NULL.
NEW_STATE = sa.func.coalesce(STATE, tasks.c.is_completed)
COMPLETED_AT = sa.func.coalesce(tasks.c.completed_at, NOW)
UPDATE_TASK = (
    sa.update(tasks)
    .where(THE_TASK)
    .values(title=sa.bindparam("new_title"), updated_at=NOW)
    .values(is_completed=NEW_STATE, completed_at=sa.case((NEW_STATE, COMPLETED_AT)))
    .returning(tasks)
)


@app.put("/api/{user_id}/tasks/{task_id}", responses=TASK_ERRORS)
@in_thread
def update_task(
    user_id: UserIdDep, session: SessionDep, task_id: UUID, body: TaskUpdate
) -> TaskPublic:
    """Update the title of a task and, if it is given, its state."""
    state = None if body.is_completed is MISSING else body.is_completed
    values = {"user": user_id, "task": task_id, "state": state, "new_title": body.title}
    task = task_or_404(session, UPDATE_TASK, now=datetime.now(UTC), **values)
    session.commit()
    return task


# DELETE FROM tasks WHERE user_id = :user AND id = :task RETURNING id
DELETE_TASK = sa.delete(tasks).where(THE_TASK).returning(tasks.c.id)


@app.delete("/api/{user_id}/tasks/{task_id}", status_code=204, responses=TASK_ERRORS)
@in_thread
def delete_task(user_id: UserIdDep, session: SessionDep, task_id: UUID) -> None:
    """Delete a task."""
    if not execute(session, DELETE_TASK, user=user_id, task=task_id):
        raise HTTPException(404, DETAILS[404])
    session.commit()


# As UPDATE_TASK, but no title, and the state is coalesce(:state, NOT is_completed)
TOGGLED_STATE = sa.func.coalesce(STATE, ~tasks.c.is_completed)
COMPLETE_TASK = (
    sa.update(tasks)
    .where(THE_TASK)
    .values(updated_at=NOW, is_completed=TOGGLED_STATE)
    .values(completed_at=sa.case((TOGGLED_STATE, COMPLETED_AT)))
    .returning(tasks)
)


@app.patch("/api/{user_id}/tasks/{task_id}/complete", responses=TASK_ERRORS)
@in_thread
def complete_task(
    user_id: UserIdDep,
    session: SessionDep,
    task_id: UUID,
    body: TaskComplete | MISSING = MISSING,
) -> TaskPublic:
    """Toggle the state of a task. With a body, set it, so that a retry is safe."""
    state = None if body is MISSING else body.is_completed
    values = {"user": user_id, "task": task_id, "state": state}
    task = task_or_404(session, COMPLETE_TASK, now=datetime.now(UTC), **values)
    session.commit()
    return task


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
    """Print `curl` commands with the host and port of the options, and start uvicorn."""
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
