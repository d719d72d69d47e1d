"""The Task API: a to-do backend for users who sign in elsewhere and bring a JWT.

`get_user_id` says whose request it is, and refuses another user's path. `get_session`
waits for one of ten places. An endpoint executes one SQL statement; the first task of a
user, and a page past the last one, need more. Errors have the form of `problem`.
"""

import gc
import logging
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from http.client import responses as PHRASES
from re import fullmatch
from typing import Annotated, Any, NoReturn
from uuid import UUID

import jwt
import psycopg2
import sqlalchemy
import uvicorn
from anyio import Lock, Semaphore, fail_after, to_thread
from dotenv import load_dotenv
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import MISSING
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError
from sqlmodel import Session, SQLModel, col, create_engine, delete, func, select, update
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.errors import ServerErrorMiddleware

import models
from models import Task, TaskComplete, TaskCreate, TaskPublic, TaskUpdate, User

log = logging.getLogger("uvicorn.error")  # The log of uvicorn itself, not only errors.
# --- Settings ---------------------------------------------------------------------


def setting(name: str, default: str = "") -> str:
    """Return an environment variable without white space around it, or the default."""
    return os.environ.get(name, "").strip() or default


def refuse_to_start(reason: str) -> NoReturn:
    """Print the reason, and exit with a code that keeps uvicorn from starting again."""
    print(f"Can't start: {reason}", file=sys.stderr)
    sys.exit(uvicorn.config.STARTUP_FAILURE)


# The environment has priority over the file. `${…}` in a value stays as it is.
load_dotenv(os.path.join(os.path.dirname(__file__), ".env"), interpolate=False)
DATABASE_URL = setting("DATABASE_URL", "sqlite:///tasks.db")
JWT_SECRET = setting("JWT_SECRET")
JWT_JWKS_URL = setting("JWT_JWKS_URL")
JWT_ISSUER = setting("JWT_ISSUER")
JWT_AUDIENCE = setting("JWT_AUDIENCE")
CORS_ORIGINS = setting("CORS_ORIGINS", "http://localhost:3000")
ORIGINS = [o.strip().rstrip("/") for o in CORS_ORIGINS.split(",")]
PORT = setting("PORT", "8000")
IS_DEMO = __name__ == "__main__" and not JWT_SECRET and not JWT_JWKS_URL
if IS_DEMO:
    JWT_SECRET = os.urandom(32).hex()
if bool(JWT_SECRET) == bool(JWT_JWKS_URL):
    refuse_to_start("set exactly one of JWT_SECRET and JWT_JWKS_URL.")
if JWT_SECRET and (len(JWT_SECRET.encode()) < 32 or "-----BEGIN" in JWT_SECRET):
    # RFC 7518, section 3.2. PyJWT does not accept a PEM key as an HS256 secret.
    refuse_to_start("JWT_SECRET must be a secret of 32 bytes or more, not a PEM key.")
if JWT_JWKS_URL and not fullmatch(r"(?i)https?://\w[^\s@]*", JWT_JWKS_URL):
    refuse_to_start("JWT_JWKS_URL must be an http:// or https:// URL.")
for origin in ORIGINS:
    # scheme://host or scheme://host:port, as a browser sends it: RFC 6454, section 6.2
    if origin != "*" and not fullmatch(r"[a-z][a-z0-9+.-]*://[a-z0-9._:[\]-]+", origin):
        refuse_to_start("CORS_ORIGINS must be origins such as https://example.com.")
if not fullmatch("[0-9]{1,5}", PORT) or not 0 < int(PORT) < 65536:
    refuse_to_start("PORT must be a number from 1 to 65535.")

# --- Errors -----------------------------------------------------------------------
DETAILS = {
    400: "The input is not valid.",
    401: "The bearer token is missing.",
    403: "The path belongs to another user.",
    404: "The task does not exist.",
    413: "Content Too Large",  # Starlette's text
    500: "The request failed because of a defect, which has been logged.",
    503: "The database can't be used. A change that was asked for may have been made.",
}
PROBLEM_JSON = "application/problem+json"


def problem(status: int, detail: str, headers: Any = None, **more: Any) -> Response:
    """Return an error (RFC 9457). A 400 for invalid input has `errors`, too."""
    title = PHRASES.get(status, "Error")
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(body | more, status, headers, media_type=PROBLEM_JSON)


def documented(status: int) -> dict[str, Any]:
    """Describe an error in the OpenAPI document."""
    example: Any = {"type": "about:blank", "title": PHRASES[status], "status": status}
    example["detail"] = DETAILS[status]
    if status == 400:
        example["errors"] = [{"loc": ["body", "title"], "msg": "Field required"}]
    content = {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}
    return {"description": PHRASES[status], "content": {PROBLEM_JSON: content}}


# `model` adds Problem's schema to the document. With a "default", FastAPI adds no 422.
ERRORS: Any = {status: documented(status) for status in DETAILS}
ERRORS["default"] = {"model": models.Problem, "description": "An error"}

# --- Database ---------------------------------------------------------------------
# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
LIBPQ = {
    "client_encoding": "utf8",  # PGCLIENTENCODING can name another one.
    "connect_timeout": "5",  # seconds for each address
    "keepalives_idle": "3",  # seconds
    "keepalives_interval": "3",
    "keepalives_count": "2",
    "tcp_user_timeout": "9000",  # milliseconds without an answer
}

try:
    url = sqlalchemy.make_url(DATABASE_URL)
    SQLITE = url.drivername == "sqlite" and not str(url.database).startswith("file:")
    is_postgres = fullmatch(r"postgres|postgresql(\+psycopg2)?", url.drivername)
    # With another @, a part of the password would count as the host, and be logged.
    if is_postgres and DATABASE_URL.count("@") == (0 if url.username is None else 1):
        url = url.set(drivername="postgresql+psycopg2", query=LIBPQ | url.query)
    elif not SQLITE:
        raise ValueError  # to the `except` below
    engine = create_engine(
        url,
        # Each statement commits itself, which saves BEGIN and COMMIT. A `commit` can be
        # several. Endpoints call it, to be right without this line, too.
        isolation_level="AUTOCOMMIT",
        # Skip the rollback that this makes useless. SQLite needs it to end a SAVEPOINT.
        skip_autocommit_rollback=not SQLITE,
        pool_size=10,
        max_overflow=20,  # for requests that also use `transactions` (below)
        pool_timeout=10,  # seconds
        hide_parameters=True,  # The values of a statement are not for the log.
    )
except (sqlalchemy.exc.ArgumentError, TypeError, ValueError):
    refuse_to_start("DATABASE_URL must be sqlite:///FILE or postgresql://… (@ is %40).")

# These listeners make connections more robust. Skip them on a first reading.
if SQLITE:

    @sqlalchemy.event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _: object) -> None:
        """Enforce foreign keys, and let readers work beside a writer."""
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA journal_mode = WAL")

else:

    @sqlalchemy.event.listens_for(engine, "checkout")
    def replace_closed(connection: Any, *_: object) -> None:
        """Have the pool replace a connection that can't be used any more."""
        try:  # In place of `pool_pre_ping`, which takes a round trip.
            connection.poll()  # reads what the server sent last, without waiting
            connection.poll()  # fails if the server has closed the connection
            if connection.get_transaction_status():  # not idle: a BEGIN was left open
                raise psycopg2.OperationalError
        except psycopg2.Error as error:
            raise sqlalchemy.exc.DisconnectionError from error

    @sqlalchemy.event.listens_for(engine, "reset")
    def forget_level(connection: Any, *_: object) -> None:
        """Clear the level that a transaction has set, or else psycopg2 sends a SET."""
        if not connection.autocommit:
            connection.rollback()
            connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "handle_error")
    def give_up_read_only(context: Any) -> None:
        """Have the pool replace the connections to a server that became read-only."""
        error = context.original_exception
        if isinstance(error, psycopg2.errors.ReadOnlySqlTransaction):
            context.is_disconnect = True  # also makes it a 503: see `is_unavailable`


# For statements that must all succeed or all fail, over the same connections:
#     with Session(transactions, expire_on_commit=False) as both: …; both.commit()
# Such an endpoint also takes `AutocommitDep`, unused: then `places` (below) limits it.
LEVEL = "SERIALIZABLE" if SQLITE else "READ COMMITTED"  # the default of each
transactions = engine.execution_options(isolation_level=LEVEL)


def create_tables() -> None:
    """Create the missing tables. Workers that start at the same time take turns."""
    # Without a lock, all workers but one can fail. 7265 is arbitrary.
    lock = "BEGIN IMMEDIATE" if SQLITE else "SELECT pg_advisory_xact_lock(7265)"
    with transactions.begin() as connection:
        connection.exec_driver_sql(lock)  # released by the commit
        SQLModel.metadata.create_all(connection)


# At most ten requests have a session. Unlimited, they could hold every connection while
# they wait for the thread in which FastAPI validates an answer. FastAPI's own
# `max_concurrency` has no time limit, and asyncio's semaphore works in one event loop.
places = Semaphore(10)


async def get_session() -> AsyncIterator[Session]:
    """Yield a session in autocommit. 503: no place in ten seconds."""
    # `async`, because nothing in it waits for the database: a `def` would need threads.
    try:
        with fail_after(10):
            await places.acquire()
    except TimeoutError:  # SQLAlchemy's is the one that `on_database_error` answers.
        raise sqlalchemy.exc.TimeoutError("ten requests have a session") from None
    try:
        with Session(engine, expire_on_commit=False) as session:  # no second read
            yield session
    finally:
        places.release()


# "function": closed before the answer is sent, so that a slow client keeps no place.
# Always use this alias: another Depends(get_session) would take a second place.
AutocommitDep = Annotated[Session, Depends(get_session, scope="function")]


def create_user(session: Session, user_id: UUID) -> None:
    """Create the user's row, to which other tables refer, unless it exists."""
    insert = sqlite.insert if SQLITE else postgresql.insert
    session.exec(insert(User).values(id=user_id).on_conflict_do_nothing())


# --- Application ------------------------------------------------------------------


def first_line(error: Exception) -> str:
    """Return the first line of a driver's message. The next ones can quote a row."""
    return str(getattr(error, "orig", error)).partition("\n")[0]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Create the missing tables at start, and close the connections at the end."""
    where = url.set(password=None, query={}).render_as_string()
    log.info("Database: %s", os.path.abspath(str(url.database)) if SQLITE else where)
    if JWT_JWKS_URL and not JWT_AUDIENCE:
        log.warning("JWT_AUDIENCE is not set: tokens for other applications are valid.")
    try:
        create_tables()
    except (SQLAlchemyError, psycopg2.Error, TypeError, ValueError) as error:
        sys.tracebacklimit = 0  # uvicorn ends here, and logs the reason in one line.
        raise RuntimeError(f"Can't use DATABASE_URL: {first_line(error)}") from None
    gc.set_threshold(50_000)  # Look for garbage less often: 11 to 15 % more requests.
    yield
    engine.dispose()


app = FastAPI(
    title="Task API",
    description="**Authorize** with a token. The demo, `python app.py`, prints two.",
    lifespan=lifespan,
    redirect_slashes=False,
    generate_unique_id_function=lambda route: route.name,
    responses=ERRORS,
    swagger_ui_parameters={"persistAuthorization": True},
)

# CORSMiddleware is added last, so it is outside: a page can read this 500. The one of
# FastAPI lacks the headers. The exception is raised again, for uvicorn's log.
app.add_middleware(ServerErrorMiddleware, handler=lambda *_: problem(500, DETAILS[500]))
app.add_middleware(
    CORSMiddleware,
    allow_origins=ORIGINS,
    allow_methods=["*"],
    allow_headers=["*"],
    expose_headers=["Allow", "Location", "WWW-Authenticate"],
)


@app.exception_handler(StarletteHTTPException)  # also the router's own
async def on_http_exception(_: Request, exc: StarletteHTTPException) -> Response:
    """Answer an HTTPException as a problem."""
    return problem(exc.status_code, str(exc.detail), exc.headers)


@app.exception_handler(RequestValidationError)
async def on_invalid_input(_: Request, exc: RequestValidationError) -> Response:
    """Answer 400 with what is wrong and where. FastAPI would also repeat the input."""
    errors = [{"loc": error["loc"], "msg": error["msg"]} for error in exc.errors()]
    return problem(400, DETAILS[400], errors=errors)


def is_unavailable(exc: Exception) -> bool:
    """Return whether an error means that the database can't be used."""
    if isinstance(exc, OperationalError):
        # Lost, locked, too slow. SQLITE_ERROR is a wrong statement: a defect.
        return getattr(exc.orig, "sqlite_errorname", "") != "SQLITE_ERROR"
    if isinstance(exc, DBAPIError):
        return exc.connection_invalidated
    # The pool raises this text if the server closes each new connection at once.
    closed = str(exc) == "This connection is closed"
    return closed or isinstance(exc, sqlalchemy.exc.TimeoutError)


@app.exception_handler(SQLAlchemyError)
async def on_database_error(_: Request, exc: Exception) -> Response:
    """Answer 503 if the database can't be used. Any other error is a defect: 500."""
    if not is_unavailable(exc):
        # A new exception, a 500 as above: the message of `exc` can quote a row.
        defect = RuntimeError(f"{type(exc).__name__}: {first_line(exc)}")
        raise defect.with_traceback(exc.__traceback__) from None
    log.warning("The database can't be used: %s", first_line(exc))
    return problem(503, DETAILS[503])


# --- Authentication ---------------------------------------------------------------
# Never both kinds: a public key must not be accepted as an HS256 secret.
ALGORITHMS = ["HS256"] if JWT_SECRET else ["RS256", "ES256", "EdDSA"]
UUID_FORM = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"  # UUID() accepts more forms.
# What a look-up can raise, whatever is answered. A TimeoutError is an OSError.
UNUSABLE = jwt.PyJWTError, OSError, ValueError, TypeError, OverflowError, RecursionError


class KeySet:
    """The public keys of the auth system (RFC 7517). A failed look-up keeps them."""

    def __init__(self, url: str) -> None:
        agent = {"User-Agent": "task-api"}  # Some firewalls refuse Python's.
        client = jwt.PyJWKClient(url, cache_jwk_set=False, headers=agent, timeout=5)
        self.fetch = client.fetch_data
        self.keys: list[jwt.PyJWK] = []
        self.fetched_at = self.failed_at = float("-inf")
        self.lock = Lock()

    def matching(self, header: dict[str, Any]) -> list[jwt.PyJWK]:
        """Return the keys with a token's key id and algorithm. There can be several."""
        wanted = header.get("kid"), header.get("alg")
        return [key for key in self.keys if (key.key_id, key.algorithm_name) == wanted]

    async def look_up(self) -> None:
        """Fetch the keys. If this fails or takes five seconds, the old ones stay."""
        try:
            with fail_after(5):  # The client's own timeout is for each read.
                answer = await to_thread.run_sync(self.fetch, abandon_on_cancel=True)
            keys = [k for k in answer.get("keys") if isinstance(k, dict)]
            keys = [k for k in keys if k.get("kid") and k.get("use") in (None, "sig")]
            keys = [k for k in keys if k.get("alg") in (None, *ALGORITHMS)]
            keys = [k for k in keys if k.get("kty") in ("RSA", "EC", "OKP")]
            # Without "d", a private key that was published by mistake is a public one.
            keys = [{name: k[name] for name in k if name != "d"} for k in keys]
            self.keys, self.fetched_at = jwt.PyJWKSet(keys).keys, time.monotonic()
        except UNUSABLE as error:
            self.failed_at = time.monotonic()
            log.warning("JWT_JWKS_URL can't be used: %r", error)

    async def find(self, header: dict[str, Any]) -> list[jwt.PyJWK]:
        """Return the keys for a token. 503: there are none. Looks them up after 300 s,
        for an unknown key after 30 s, but not in the 10 s after a failure."""
        if self.lock.locked() and self.matching(header):
            return self.matching(header)  # Another request is looking up the keys.
        async with self.lock:
            now = time.monotonic()
            max_age = 300 if self.matching(header) else 30
            if now - self.fetched_at > max_age and now - self.failed_at > 10:
                await self.look_up()
        if not self.keys:
            raise HTTPException(503, "The key set can't be used at the moment.")
        return self.matching(header)


key_set = KeySet(JWT_JWKS_URL) if JWT_JWKS_URL else None


async def verify(token: str) -> UUID:
    """Return the user id in a token. Raises PyJWTError if the token is not valid."""
    keys: list[Any] = [JWT_SECRET]
    if key_set:
        keys = await key_set.find(jwt.get_unverified_header(token))
    options: Any = {"require": ["exp", "sub"], "verify_aud": bool(JWT_AUDIENCE)}
    expected: Any = {"issuer": JWT_ISSUER or None, "audience": JWT_AUDIENCE or None}
    for key in keys:
        with suppress(jwt.InvalidSignatureError, jwt.InvalidKeyError):  # Try the next.
            claims = jwt.decode(token, key, ALGORITHMS, options, leeway=30, **expected)
            if not fullmatch(UUID_FORM, claims["sub"].lower()):
                raise jwt.exceptions.InvalidSubjectError
            return UUID(claims["sub"])
    raise jwt.InvalidSignatureError if keys else jwt.InvalidKeyError


bearer = HTTPBearer(bearerFormat="JWT", auto_error=False)
BearerDep = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
ALICE = "a11ce000-0000-4000-8000-000000000001"  # fixed: the next demo has her tasks
BOB = "b0b00000-0000-4000-8000-000000000002"
DEMO_USERS: Any = {"Alice": {"value": ALICE}, "Bob": {"value": BOB}}


async def get_user_id(
    user_id: Annotated[UUID, Path(openapi_examples=DEMO_USERS)], credentials: BearerDep
) -> UUID:
    """Return the user id of the path. 401: no valid token. 403: another user's path."""
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
    return user_id


UserIdDep = Annotated[UUID, Depends(get_user_id)]

# --- Endpoints --------------------------------------------------------------------
router = APIRouter(prefix="/api/{user_id}/tasks", tags=["tasks"])
MAX_BODY = 64 * 1024  # bytes; FastAPI answers 413 to a larger one.


@router.get("", response_model=models.TaskPage)
def list_tasks(
    user_id: UserIdDep,
    session: AutocommitDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
    is_completed: bool | MISSING = MISSING,
) -> dict[str, Any]:
    """Return a page of the user's tasks, newest first."""
    # `col` tells a type checker that `Task.user_id` is a column here.
    matches = col(Task.user_id) == user_id
    if is_completed is not MISSING:
        matches &= col(Task.is_completed) == is_completed
    # SELECT tasks.*, (SELECT count(*) FROM tasks WHERE …) FROM tasks WHERE … LIMIT …
    count = select(func.count()).select_from(Task).where(matches)
    page = select(Task, count.scalar_subquery()).where(matches)
    page = page.order_by(*models.NEWEST_FIRST).limit(limit).offset(offset)
    rows = session.exec(page).all()  # Each has the task and the total.
    total = rows[0][1] if rows else 0
    if offset and not rows:  # A page past the last one: no row has the total.
        total = session.exec(count).one()
    meta = {"total": total, "limit": limit, "offset": offset}
    return {"data": [task for task, _ in rows], "meta": meta}


@router.post("", response_model=TaskPublic, status_code=201, max_body_size=MAX_BODY)
def create_task(
    user_id: UserIdDep,
    session: AutocommitDep,
    body: TaskCreate,
    request: Request,
    response: Response,
) -> Task:
    """Create a task. `Location` is its path."""
    task = Task(**body.model_dump(), user_id=user_id)
    task.updated_at = task.created_at  # not a microsecond later
    session.add(task)
    try:
        session.commit()
    except IntegrityError:  # the user's first task; otherwise, it fails again
        session.rollback()
        create_user(session, user_id)
        session.add(task)
        session.commit()
    response.headers["Location"] = f"{request.url.path}/{task.id}"
    return task


@router.get("/{task_id}", response_model=TaskPublic)
def get_task(user_id: UserIdDep, session: AutocommitDep, task_id: UUID) -> Task:
    """Return a task."""
    task = session.get(Task, (user_id, task_id))
    if task is None:
        raise HTTPException(404, DETAILS[404])
    return task


def change_task(
    session: Session, user_id: UUID, task_id: UUID, changes: dict[str, Any]
) -> Task:
    """Change a task and return it. 404: there is none."""
    now = datetime.now(UTC)
    if "is_completed" in changes:  # a bool, or the SQL expression NOT is_completed
        # CASE WHEN (the new state) THEN coalesce(completed_at, now) ELSE NULL END
        since = func.coalesce(Task.completed_at, now)
        completed_at = sqlalchemy.case((changes["is_completed"], since), else_=None)
        changes = changes | {"completed_at": completed_at}
    # One UPDATE in place of a read and a write: two simultaneous toggles both count.
    the_task = col(Task.user_id) == user_id, col(Task.id) == task_id
    statement = update(Task).where(*the_task).values(updated_at=now, **changes)
    # Do not search the session for the task, but overwrite it if it is there: faster.
    options = {"synchronize_session": False, "populate_existing": True}
    result = session.exec(statement.returning(Task), execution_options=options)
    task: Task | None = result.scalar()
    if task is None:
        raise HTTPException(404, DETAILS[404])
    return task


@router.put("/{task_id}", response_model=TaskPublic, max_body_size=MAX_BODY)
def update_task(
    user_id: UserIdDep, session: AutocommitDep, task_id: UUID, body: TaskUpdate
) -> Task:
    """Change the title of a task, its state, or both. What is left out stays."""
    task = change_task(session, user_id, task_id, body.model_dump())
    session.commit()
    return task


@router.delete("/{task_id}", status_code=204)
def delete_task(user_id: UserIdDep, session: AutocommitDep, task_id: UUID) -> None:
    """Delete a task."""
    the_task = col(Task.user_id) == user_id, col(Task.id) == task_id
    result = session.exec(delete(Task).where(*the_task))
    if result.rowcount == 0:
        raise HTTPException(404, DETAILS[404])
    session.commit()


@router.patch("/{task_id}/complete", response_model=TaskPublic, max_body_size=MAX_BODY)
def complete_task(
    user_id: UserIdDep,
    session: AutocommitDep,
    task_id: UUID,
    request: Request,
    body: TaskComplete | MISSING = MISSING,
) -> Task:
    """Toggle the state of a task. With a body, set it, so that a retry is safe."""
    # uvicorn loses the body if there is an `Upgrade` header (Kludex/uvicorn#2722).
    length = request.headers.get("content-length", "0")
    if body is MISSING and (length != "0" or "transfer-encoding" in request.headers):
        raise HTTPException(400, "The body did not arrive.")
    toggle = {"is_completed": ~col(Task.is_completed)}
    changes = toggle if body is MISSING else body.model_dump()
    task = change_task(session, user_id, task_id, changes)
    session.commit()
    return task


app.include_router(router)


@app.api_route("/health", methods=["GET", "HEAD"], include_in_schema=False)
async def health() -> dict[str, str]:
    """Answer that the process runs. Does not query the database."""
    return {"status": "ok"}


@app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def root(request: Request) -> RedirectResponse:
    """Redirect a browser to the interactive documentation."""
    return RedirectResponse(f"{request.scope['root_path']}/docs")


# --- Start ------------------------------------------------------------------------


def print_demo() -> None:
    """Print the id of each demo user, a token that is valid for a day, and commands."""
    claims = {"iss": JWT_ISSUER, "aud": JWT_AUDIENCE, "exp": time.time() + 24 * 3600}
    base = f"http://127.0.0.1:{PORT}"
    body = "-H 'Content-Type: application/json' -d '{\"title\": \"Buy milk\"}'"
    for name, user_id in ("Alice", ALICE), ("Bob", BOB):
        token = jwt.encode(claims | {"sub": user_id}, JWT_SECRET)
        curl = f'curl {base}/api/{user_id}/tasks -H "Authorization: Bearer {token}"'
        print(f"The id of {name}:\n{user_id}\nA token of {name}:\n{token}")
        print(f"List the tasks of {name}:\n{curl}\nCreate a task:\n{curl} {body}\n")
    print(f"Try it in a browser: {base}/docs", flush=True)


if __name__ == "__main__":
    if IS_DEMO:
        print_demo()
    # No WebSockets: an unanswered one keeps the server from stopping.
    uvicorn.run(app, port=int(PORT), ws="none", workers=1)  # despite WEB_CONCURRENCY
