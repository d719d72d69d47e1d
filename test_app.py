"""The specification of the Task API, as tests of its public interface.

    python -m pytest                                     on temporary SQLite files
    TEST_DATABASE_URL=postgresql://… python -m pytest    on PostgreSQL, in new schemas

What DATABASE_URL names is not touched. Each test loads the application with settings of
its own, or starts a real uvicorn. Alice and Bob are users of one auth system.
"""

import asyncio
import importlib.metadata
import json
import os
import queue
import re
import select
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cached_property, partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import Mock, patch
from uuid import UUID, uuid4

import httpx2
import jwt
import psycopg2
import pytest
import sqlalchemy
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import Engine, event
from sqlmodel import Session
from starlette.types import ASGIApp, Receive, Scope, Send

pytestmark = pytest.mark.filterwarnings("error")

HERE = Path(__file__).parent
POSTGRES = os.environ.get("TEST_DATABASE_URL", "")
SECRET = "a secret of the tests, with more than 32 bytes"
NOBODY = "11111111-1111-4111-8111-111111111111"
PAGE = "http://localhost:3000"
SETTINGS = ["DATABASE_URL", "JWT_SECRET", "JWT_JWKS_URL"]
SETTINGS += ["JWT_ISSUER", "JWT_AUDIENCE", "CORS_ORIGINS"]
REAL_TIME = time.monotonic

# --- The database and the application -------------------------------------------------


class Database:
    """A new database: a SQLite file, or a schema of the PostgreSQL server."""

    def __init__(self, folder: Path) -> None:
        self.name, self.file = f"test_{uuid4().hex}", folder / "tasks.db"
        self.url = f"sqlite:///{self.file}"
        if POSTGRES:
            more = f"options=-csearch_path%3D{self.name}&application_name={self.name}"
            self.url = f"{POSTGRES}{'&' if '?' in POSTGRES else '?'}{more}"
            self.sql(f"CREATE SCHEMA {self.name}")

    @contextmanager
    def cursor(self, *statements: str) -> Iterator[Any]:
        """Execute statements beside the application, in autocommit."""
        connection: Any
        if POSTGRES:
            connection = psycopg2.connect(self.url.replace("+psycopg2", ""))
            connection.autocommit = True
        else:
            connection = sqlite3.connect(self.file, isolation_level=None)
            connection.execute("PRAGMA foreign_keys = ON")
        with closing(connection):
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            yield cursor

    def sql(self, statement: str) -> list[Any]:
        with self.cursor(statement) as cursor:
            return list(cursor.fetchall()) if cursor.description else []


def new_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = Database(tmp_path_factory.mktemp("database"))
    yield database
    if POSTGRES:
        close_connections(database)  # of servers that were killed
        database.sql(f"DROP SCHEMA {database.name} CASCADE")


database = pytest.fixture(new_database, scope="module")  # Most tests share it.
fresh = pytest.fixture(new_database)
locked = pytest.fixture(new_database, scope="module")
LOCK = ["BEGIN", "LOCK TABLE tasks"] if POSTGRES else ["BEGIN IMMEDIATE"]


@contextmanager
def before_each_statement(do: Callable[..., object]) -> Iterator[None]:
    """Call `do(connection, cursor, statement, …)` before the application executes one."""
    event.listen(Engine, "before_cursor_execute", do)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", do)


def environment(**settings: str) -> dict[str, str]:
    """Return the environment with these settings and no others; "" is not set."""
    given = {"JWT_SECRET": SECRET, "PYTHONPATH": str(HERE)} | settings
    others = {name: os.environ[name] for name in os.environ if name not in SETTINGS}
    return others | {name: value for name, value in given.items() if value}


def load(clock: Callable[[], float] = REAL_TIME, /, **settings: str) -> FastAPI:
    """Return `app.app`, loaded anew with other settings and another clock."""
    sys.modules.pop("app", None)
    new = patch.dict(os.environ, environment(**settings), clear=True)
    with new, patch.object(time, "monotonic", clock):
        app: FastAPI = importlib.import_module("app").app
    return app


def visit(app: ASGIApp) -> TestClient:
    """Return a client. In a `with`, the application is started and stopped."""
    return TestClient(app, raise_server_exceptions=False, follow_redirects=False)


@pytest.fixture(scope="module")
def client(database: Database) -> Iterator[TestClient]:
    """A client of the application that most tests share."""
    with visit(load(DATABASE_URL=database.url)) as client:
        yield client


@pytest.fixture
def start(database: Database) -> Iterator[Callable[..., TestClient]]:
    """Return a function that starts the application with other settings."""
    with ExitStack() as clients:
        url = {"DATABASE_URL": database.url}
        yield lambda **new: clients.enter_context(visit(load(**url | new)))


# --- People, servers and their auth system --------------------------------------------


Route = namedtuple("Route", "name method path body status")
TASKS, TASK = "/api/{user_id}/tasks", "/api/{user_id}/tasks/{task_id}"
LIST = Route("list_tasks", "GET", TASKS, None, 200)
CREATE = Route("create_task", "POST", TASKS, {"title": "x"}, 201)
GET = Route("get_task", "GET", TASK, None, 200)
UPDATE = Route("update_task", "PUT", TASK, {"title": "x"}, 200)
COMPLETE = Route("complete_task", "PATCH", f"{TASK}/complete", None, 200)
DELETE = Route("delete_task", "DELETE", TASK, None, 204)
ROUTES = [LIST, CREATE, GET, UPDATE, COMPLETE, DELETE]
each = partial(pytest.mark.parametrize, "route", ids=lambda route: route.name)


def sign(*, key: Any = SECRET, header: Any = None, **claims: Any) -> str:
    """Return a token of the auth system. A claim that is None is left out."""
    algorithm, key = key if isinstance(key, tuple) else ("HS256", key)
    claims = {"sub": NOBODY, "exp": time.time() + 3600} | claims
    given = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(given, key, algorithm, header)


def ask(client: httpx2.Client, token: str | bytes, user: Any = NOBODY) -> Response:
    """Return the answer to a request for a user's tasks."""
    value = token.encode() if isinstance(token, str) else token
    headers = {b"Authorization": b"Bearer " + value}
    return client.get(f"/api/{user}/tasks", headers=headers)


def cancel_the_first(client: Any, token: str, user: Any, wait: Any, go_on: Any) -> int:
    """Cancel one of two requests after `wait`. Return the status of the other one."""

    async def answers() -> int:
        url, app = f"http://x/api/{user}/tasks", httpx2.ASGITransport(client.app)
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx2.AsyncClient(transport=app, headers=headers) as both:
            first, second = (asyncio.create_task(both.get(url)) for _ in "12")
            assert await asyncio.to_thread(wait, 60) is not False
            first.cancel()
            await asyncio.wait([first])
            go_on()
            return (await second).status_code

    return asyncio.run(answers())


class Person:
    """A user of the auth system, with a client and a valid token."""

    def __init__(self, client: httpx2.Client) -> None:
        self.client, self.id = client, str(uuid4())
        self.hex = f"'{UUID(self.id).hex}'"  # the id in SQL
        self.headers = {"Authorization": f"Bearer {sign(sub=self.id)}"}
        self.headers["Content-Type"] = "application/json"

    def __call__(self, route: Route, task: Any = None, **options: Any) -> Response:
        """Send a request to one of the six endpoints. `task` is a task or an id."""
        task_id = task["id"] if isinstance(task, dict) else task
        path = route.path.format(user_id=options.pop("user", self.id), task_id=task_id)
        headers = self.headers | options.pop("headers", {})
        options = options if "content" in options else {"json": route.body} | options
        return self.client.request(route.method, path, headers=headers, **options)

    def task(self, title: str = "Buy milk") -> Any:
        return self(CREATE, json={"title": title}).raise_for_status().json()

    def tasks(self, **query: Any) -> Any:
        return self(LIST, params=query).raise_for_status().json()

    def sees(self, task: Any) -> Any:
        """Return the task as it is now, or None if it is gone."""
        answer = self(GET, task)
        return answer.json() if answer.status_code == 200 else None


@pytest.fixture
def alice(client: TestClient) -> Person:
    return Person(client)


def problem(answer: Response, status: int, retry: bool = False) -> Any:
    """Check that an answer is an error in the one form, and return its body."""
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers.get("retry-after", 0)) > 0 or not retry
    expected: dict[str, Any] = {"type": "about:blank", "status": answer.status_code}
    expected |= {"title": HTTPStatus(status).phrase, "detail": str(body["detail"])}
    if status == 400:
        expected |= {"errors": body["errors"]}
        assert all(set(error) == {"loc", "msg"} for error in body["errors"])
    assert (answer.status_code, body) == (status, expected)
    return body


UVICORN = ("-m", "uvicorn", "app:app", "--ws", "none", "--port", "0")
DEMO = (str(HERE / "app.py"), "--port", "0")


class Server:
    """A real process. `log` is what it has printed, as far as it was read."""

    def __init__(self, *command: str, cwd: Path = HERE, **settings: str) -> None:
        self.log = ""
        options: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        options |= {"env": environment(PYTHONUNBUFFERED="1", **settings), "text": True}
        options |= {"cwd": cwd, "start_new_session": True}
        self.process = subprocess.Popen((sys.executable, *command), **options)
        self.output: Any = self.process.stdout
        self.limit = threading.Timer(120, self.send, [signal.SIGKILL])
        self.limit.daemon = True
        self.limit.start()

    def wait_for(self, words: str, times: int = 1) -> None:
        """Return when the process has printed the words so often."""
        while self.log.count(words) < times:
            line = self.output.readline()
            assert line, self.log
            self.log += line

    @cached_property
    def client(self) -> httpx2.Client:
        self.wait_for("Uvicorn running on")
        url = re.findall(r"running on (http://\S+)", self.log)[0]
        return httpx2.Client(base_url=url, timeout=60)

    def send(self, by: signal.Signals) -> None:
        """Send SIGTERM to the first process, or another signal to all, as Ctrl-C."""
        with suppress(ProcessLookupError):
            (os.kill if by is signal.SIGTERM else os.killpg)(self.process.pid, by)

    def wait(self) -> int:
        """Read the log to its end, and return the exit code."""
        with suppress(ValueError):  # It is closed already.
            self.log += self.output.read()
            self.output.close()
        self.limit.cancel()
        return self.process.wait()

    def stop(self, by: signal.Signals = signal.SIGTERM) -> None:
        self.send(by)
        self.wait()
        if "client" in self.__dict__:
            self.client.close()


@pytest.fixture
def serve(fresh: Database) -> Iterator[Callable[..., Server]]:
    """Return a function that starts processes, which end with the test."""
    with ExitStack() as servers:

        def serve(*command: str, **options: Any) -> Server:
            server = Server(*command, **{"DATABASE_URL": fresh.url} | options)
            servers.callback(server.stop, signal.SIGKILL)
            return server

        yield serve


KEYS: dict[str, tuple[str, Any]] = {
    "first": ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
    "EdDSA": ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
    "ES256": ("ES256", ec.generate_private_key(ec.SECP256R1())),
    "RS256": ("RS256", rsa.generate_private_key(65537, 2048)),
}


class Issuer:
    """An auth system with a key set, and an application whose clock shows `now`."""

    def __init__(self, database: Database) -> None:
        self.look_ups, self.reply, self.now, self.published = 0, b"", 0.0, ["first"]
        self.was_asked, self.may_answer = threading.Event(), threading.Event()
        self.may_answer.set()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.look_ups += 1
                issuer.was_asked.set()
                issuer.may_answer.wait(60)
                with suppress(OSError):  # The application has given up.
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(issuer.reply or issuer.key_set())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        serve = self.server.serve_forever
        threading.Thread(target=serve, args=(0.01,), daemon=True).start()
        settings = {"DATABASE_URL": database.url, "JWT_SECRET": ""}
        settings["JWT_JWKS_URL"] = f"http://127.0.0.1:{self.server.server_port}/jwks"
        self.client = visit(load(lambda: self.now or REAL_TIME(), **settings))
        self.now = REAL_TIME()

    def key_set(self) -> bytes:
        keys = []
        for key_id in self.published:
            algorithm, private = KEYS[key_id]
            encoder: Any = jwt.get_algorithm_by_name(algorithm)
            public = json.loads(encoder.to_jwk(private.public_key()))
            keys.append(public | {"kid": key_id, "alg": algorithm, "use": "sig"})
        return json.dumps({"keys": keys}).encode()

    def token(self, key_id: str) -> str:
        return sign(key=KEYS[key_id], header={"kid": key_id})

    def status(self, key_id: str) -> int:
        return ask(self.client, self.token(key_id)).status_code


@pytest.fixture
def issuer(database: Database) -> Iterator[Issuer]:
    issuer = Issuer(database)
    with issuer.client:
        yield issuer
        issuer.may_answer.set()
        issuer.server.shutdown()
        issuer.server.server_close()


@pytest.fixture(scope="module", autouse=True)
def late(locked: Database) -> Iterator[tuple[Server, Future[list[Response]]]]:
    """Send requests while the table is locked. The last test reads the answers."""
    url = locked.url if POSTGRES else f"{locked.url}?timeout=60"
    server = Server(*UVICORN, DATABASE_URL=url)
    alice = Person(server.client)
    task = alice.task("before")
    # SQLite locks a file for writers only.
    routes = [each for each in ROUTES if POSTGRES or each.method != "GET"] * 8

    def send_all() -> list[Response]:
        with locked.cursor(*LOCK), ThreadPoolExecutor(len(routes)) as clients:
            return list(clients.map(lambda each: alice(each, task, timeout=30), routes))

    with ThreadPoolExecutor(1) as beside:
        yield server, beside.submit(send_all)
        server.stop(signal.SIGKILL)


# --- Tokens ---------------------------------------------------------------------------


def unsigned(header: Any) -> bytes:
    """Return a token that nobody signed."""
    claims = {"sub": NOBODY, "exp": time.time() + 3600}
    parts = [json.dumps(part).encode() for part in (header, claims)] + [b"signature"]
    return b".".join(jwt.utils.base64url_encode(part) for part in parts)


NOW, HS256, GOOD = time.time(), {"alg": "HS256"}, sign().encode()
BAD_SUBJECTS = [1, [NOBODY], "", "alice", f"{{{NOBODY}}}", f"{NOBODY}\n", "1" * 32]
BAD_PAYLOADS = [b"[1]", b"[" * 5000, b"\xff", b'{"exp": 1' + b"0" * 5000 + b"}", b'"x"']
BAD_TOKENS: list[tuple[str, list[str | bytes]]] = [
    ("MissingRequiredClaimError", [sign(exp=None), sign(sub=None)]),
    ("ExpiredSignatureError", [sign(exp=1), sign(exp=-1), sign(exp=NOW - 31)]),
    ("ImmatureSignatureError", [sign(nbf=NOW + 3600), sign(iat=NOW + 3600)]),
    ("InvalidIssuedAtError", [sign(iat={})]),
    ("InvalidSubjectError", [sign(sub=subject) for subject in BAD_SUBJECTS]),
    ("InvalidSignatureError", [sign(key=SECRET[::-1]), unsigned(HS256)]),
    ("InvalidAlgorithmError", [sign(key=("HS512", SECRET * 2)), unsigned({})]),
    ("InvalidAlgorithmError", [unsigned({"alg": each}) for each in ("none", ["x"])]),
    ("InvalidTokenError", [unsigned(HS256 | {"kid": 1})]),
    ("InvalidTokenError", [unsigned(HS256 | {"crit": ["exp"]})]),
    ("DecodeError", [sign(exp="soon"), sign(exp=float("inf")), sign(nbf=[1])]),
    ("DecodeError", [b"x", b"..", b"a.b.c", b"\xff\xfe", GOOD + b".", unsigned([])]),
    ("DecodeError", [jwt.api_jws.encode(payload, SECRET) for payload in BAD_PAYLOADS]),
]
EACH_BAD_TOKEN = [(check, token) for check, tokens in BAD_TOKENS for token in tokens]


@pytest.mark.parametrize(("check", "token"), EACH_BAD_TOKEN)
def test_a_bad_token_is_a_401(client: Any, check: str, token: str | bytes) -> None:
    answer = ask(client, token)
    assert check in problem(answer, 401)["detail"]
    challenge = answer.headers["www-authenticate"]
    assert challenge.startswith("Bearer ") and 'error="invalid_token"' in challenge
    assert len(token) < 10 or str(token).strip("b'") not in answer.text


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat", "more"])
def test_a_good_token_gets_in(client: TestClient, claim: str) -> None:
    tolerated: dict[str, Any] = {claim: NOW + (-20 if claim == "exp" else 20)}
    more = {"sub": NOBODY.upper(), "iss": "any", "aud": ["any"], "roles": ["x" * 8000]}
    assert ask(client, sign(**more | tolerated)).status_code == 200


def test_issuer_and_audience_must_match_if_they_are_set(start: Any) -> None:
    client = start(JWT_ISSUER="https://auth.example", JWT_AUDIENCE="tasks")
    right: dict[str, Any] = {"iss": "https://auth.example", "aud": ["other", "tasks"]}
    assert ask(client, sign(**right)).status_code == 200
    for wrong, check in [({"iss": "other"}, "Issuer"), ({"aud": "other"}, "Audience")]:
        assert check in problem(ask(client, sign(**right | wrong)), 401)["detail"]
        missing = dict.fromkeys(wrong)
        assert "Missing" in problem(ask(client, sign(**right | missing)), 401)["detail"]


# --- The six routes -------------------------------------------------------------------


def test_each_operation_of_the_document_needs_a_token(client: TestClient) -> None:
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method in methods:
            url = re.sub(r"{\w+}", NOBODY, path)
            answer = client.request(method, url, json={"title": "x"})
            assert answer.status_code == 401, f"{method} {path} is open to everybody"
            assert "missing" in problem(answer, 401)["detail"]
            assert answer.headers["www-authenticate"] == "Bearer"


@each(ROUTES)
def test_each_answer_is_the_documented_one(alice: Person, route: Route) -> None:
    task, page = alice.task(), {"Origin": PAGE}
    announced = page | {"Content-Length": "65537"}
    errors = {
        400: alice(route, task, user="1", headers=page),
        401: alice(route, task, headers=page | {"Authorization": "Basic YTpi"}),
        403: alice(route, task, user=uuid4(), headers=page),
        413: alice(route, task, content=b"", headers=announced),  # before it comes
    }
    if route.path != TASKS:
        errors[404] = alice(route, uuid4(), headers=page)
    defect = TimeoutError("qqqq")  # is not the database's
    with before_each_statement(Mock(side_effect=defect)):
        errors[500] = alice(route, task, headers=page)
    with before_each_statement(Mock(side_effect=sqlalchemy.exc.TimeoutError("qqqq"))):
        errors[503] = alice(route, task, headers=page)
    assert alice.tasks()["data"] == [task]
    success = alice(route, task, headers=page)
    document = alice.client.get("/openapi.json").json()
    shown = document["paths"][route.path][route.method.lower()]["responses"]
    assert set(shown) - {"default"} == {str(success.status_code), *map(str, errors)}
    schema = {"$ref": "#/components/schemas/Problem"}
    for status, answer in errors.items():
        example = problem(answer, status, retry=status == 503)
        content = {"application/problem+json": {"schema": schema, "example": example}}
        described = {"description": example["title"], "content": content}
        assert shown[str(status)] == described
        assert "qqqq" not in answer.text
    for answer in (success, *errors.values()):  # A page can read it.
        assert answer.headers["access-control-allow-origin"] == PAGE
        exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
        assert set(exposed) == {"allow", "location", "retry-after", "www-authenticate"}


@each([GET, UPDATE, COMPLETE, DELETE])
def test_a_foreign_task_is_not_found(alice: Person, route: Route) -> None:
    bob = Person(alice.client)
    task, own = alice.task(), bob.task()
    assert problem(bob(route, task), 404) == problem(bob(route, uuid4()), 404)
    problem(bob(route, "qqqq"), 400)
    assert (alice.tasks()["data"], bob.tasks()["data"]) == ([task], [own])


@each(ROUTES)
def test_each_request_is_one_statement(alice: Person, route: Route) -> None:
    task, executed = alice.task(), list[str]()
    with before_each_statement(lambda *given: executed.append(given[2])):
        assert alice(route, task).status_code == route.status
    (statement,) = executed
    assert "user_id" in statement.rpartition("WHERE")[2].partition("RETURNING")[0]


@each([CREATE, UPDATE, COMPLETE])
def test_a_body_may_have_64_kib(alice: Person, route: Route) -> None:
    task = alice.task()
    start = b'{"title": "x", "is_completed": true, "more": "'
    largest = start + b"x" * (65_534 - len(start)) + b'"}'
    problem(alice(route, task, content=iter([largest, b" "])), 413)
    assert alice.tasks()["data"] == [task]
    for body in (largest, iter([largest[:1000], largest[1000:]])):
        assert alice(route, task, content=body).status_code == route.status


def test_a_page_is_a_window(alice: Person, database: Database) -> None:
    Person(alice.client).task("Bob's")
    assert alice.tasks() == {"data": [], "meta": {"total": 0, "limit": 50, "offset": 0}}
    newest_first = [alice.task(str(n)) for n in range(51)][::-1]
    assert alice.tasks()["data"] == newest_first[:50]
    for limit, offset in [(1, 0), (2, 1), (2, 50), (200, 0), (3, 51), (1, 2**31 - 1)]:
        page = alice.tasks(limit=limit, offset=offset)
        assert page["data"] == newest_first[offset : offset + limit]
        assert page["meta"] == {"total": 51, "limit": limit, "offset": offset}
    moment = f"(SELECT min(created_at) FROM tasks WHERE user_id = {alice.hex})"
    database.sql(f"UPDATE tasks SET created_at = {moment} WHERE user_id = {alice.hex}")
    ids = [task["id"] for task in alice.tasks(limit=60)["data"]]
    assert ids == sorted(ids)[::-1]  # newest first, ties by id


def test_the_filter_narrows_the_page_and_the_total(alice: Person) -> None:
    open_task, done = alice.task("open"), alice(COMPLETE, alice.task("done")).json()
    for state, task in [("true", done), ("false", open_task)]:
        for offset, tasks in [(0, [task]), (1, [])]:
            page = alice.tasks(is_completed=state, offset=offset)
            assert (page["data"], page["meta"]["total"]) == (tasks, 1)


BAD_QUERIES = ["limit=0", "limit=201", "limit=-1", "limit=x", "limit=", "limit=1.5"]
BAD_QUERIES += ["offset=-1", "offset=2147483648", "offset=9" + "9" * 30, "offset=x"]
BAD_QUERIES += ["is_completed=maybe", "is_completed=", "is_completed=2"]


@pytest.mark.parametrize("query", BAD_QUERIES)
def test_a_bad_query_is_a_400_that_names_it(alice: Person, query: str) -> None:
    name, _, value = query.partition("=")
    (error,) = problem(alice(LIST, params={name: value}), 400)["errors"]
    assert error["loc"] == ["query", name]


SPACE = " \t\n\u3000" * 100
TITLES = [(each, each) for each in ("x" * 200, "\U0001f95b" * 200, "'; DROP -- %s :a")]


@pytest.mark.parametrize(("sent", "title"), [(f"{SPACE}x y{SPACE}", "x y"), *TITLES])
def test_a_new_task_is_open(alice: Person, sent: str, title: str) -> None:
    before = datetime.now(UTC)
    answer = alice(CREATE, json={"title": sent})
    task, after = answer.json(), datetime.now(UTC)
    expected = dict.fromkeys(["created_at", "updated_at"], task["created_at"])
    expected |= {"title": title, "user_id": alice.id, "completed_at": None}
    expected |= {"id": str(UUID(task["id"], version=4)), "is_completed": False}
    assert (answer.status_code, task) == (201, expected)
    assert task["created_at"].endswith("Z")
    assert before <= datetime.fromisoformat(task["created_at"]) <= after
    assert answer.headers["location"] == f"/api/{alice.id}/tasks/{task['id']}"
    assert alice.sees(task) == task


def test_other_members_of_a_body_are_ignored(alice: Person) -> None:
    body = {"title": "x", "id": str(uuid4()), "user_id": NOBODY, "extra": {}}
    body |= dict.fromkeys(["completed_at", "created_at", "updated_at"], "2000-01-01")
    task = alice(CREATE, json=body | {"is_completed": True}).json()
    assert (task["user_id"], task["is_completed"]) == (alice.id, False)
    assert task["id"] != body["id"] and "2000-" not in str(task)
    updated = alice(UPDATE, task, json=body).json()
    assert updated == task | {"updated_at": updated["updated_at"]}


def test_first_tasks_at_once_make_one_user(alice: Person, database: Database) -> None:
    all_have_no_user = threading.Barrier(5, timeout=60)
    rows = f"SELECT count(*) FROM users WHERE id = {alice.hex}"
    assert (alice.tasks()["data"], database.sql(rows)) == ([], [(0,)])

    def wait(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "users" in statement.partition("(")[0]:
            all_have_no_user.wait()

    with before_each_statement(wait), ThreadPoolExecutor(5) as clients:
        made = {task["id"] for task in clients.map(alice.task, "12345")}
    assert {task["id"] for task in alice.tasks()["data"]} == made
    assert database.sql(rows) == [(1,)]


def test_a_first_task_is_one_transaction(serve: Any, fresh: Database) -> None:
    server = serve(*UVICORN, "--no-access-log")
    alice = Person(server.client)
    alice.headers["Connection"] = "close"  # because a 500 ends the connection
    if POSTGRES:
        fresh.sql("ALTER TABLE tasks ADD CONSTRAINT no_q CHECK (title <> 'qqqq')")
    else:
        when = "BEFORE INSERT ON tasks WHEN new.title = 'qqqq'"
        fresh.sql(f"CREATE TRIGGER q {when} BEGIN SELECT RAISE(ABORT, 'no_q'); END")
    problem(alice(CREATE, json={"title": "qqqq"}), 500)
    assert fresh.sql("SELECT id FROM users") == []
    assert [alice.task()] == alice.tasks()["data"]
    server.stop()
    assert "Traceback" in server.log and "no_q" in server.log
    assert str(sqlalchemy.make_url(fresh.url).database) in server.log  # at the start
    assert "qqqq" not in server.log and alice.id not in server.log


@each([UPDATE, COMPLETE])
def test_a_state_is_set_or_kept_or_toggled(alice: Person, route: Route) -> None:
    task, other = alice.task(), alice.task("other")
    title = {"title": "Buy oat milk"} if route is UPDATE else {}
    for state in (None, None, False, True, True, None, False, None, None):
        body = title | ({} if state is None else {"is_completed": state})
        after = alice(route, task, json=body or None).json()
        default = task["is_completed"] if route is UPDATE else not task["is_completed"]
        done = default if state is None else state
        done_at = (task["completed_at"] or after["updated_at"]) if done else None
        changed = {"is_completed": done, "completed_at": done_at}
        assert after == task | title | changed | {"updated_at": after["updated_at"]}
        assert after["updated_at"] > task["updated_at"]
        assert alice.sees(task) == after
        task = after
    assert alice.sees(other) == other


def test_of_a_hundred_simultaneous_toggles_none_is_lost(alice: Person) -> None:
    task = alice.task()
    with ThreadPoolExecutor(20) as clients:
        answers = clients.map(lambda _: alice(COMPLETE, task).json(), range(101))
        states = [answer["is_completed"] for answer in answers]
    assert states.count(True) == states.count(False) + 1


def test_a_deleted_task_is_gone(alice: Person) -> None:
    task, other = alice.task(), alice.task("other")
    answer = alice(DELETE, task)
    assert (answer.status_code, answer.content) == (204, b"")
    problem(alice(DELETE, task), 404)
    assert alice.tasks()["data"] == [other]


BAD_TITLES = ["null", "1", '["x"]', "NaN", "1e999", '""', '" \\t\\n"', '"\\ud800"']
BAD_TITLES += ['"qqqq\\u0000"', f'"{"q" * 201}"']
BAD_STATES = ["null", "0", "1", '"yes"', '"true"', "[]", "{}"]
NOT_OBJECTS = ["[]", '"qqqq"', "1", "\xff", "[" * 60_000, '{"x": ' + "7" * 5000 + "}"]
BAD_BODIES: list[tuple[list[Route], list[Any], str, list[str]]] = [
    ([CREATE, UPDATE], ["title"], '{"title": %s}', BAD_TITLES),
    ([CREATE, UPDATE], ["title"], "%s", ["{}"]),
    ([CREATE, UPDATE], [], "%s", [""]),
    ([COMPLETE], ["is_completed"], "%s", ["{}"]),
    ([UPDATE], ["is_completed"], '{"title": "x", "is_completed": %s}', BAD_STATES),
    ([COMPLETE], ["is_completed"], '{"is_completed": %s}', BAD_STATES),
    ([CREATE, UPDATE, COMPLETE], [], "%s", NOT_OBJECTS),
    ([CREATE, UPDATE, COMPLETE], [16], '{"title": %s', ['"qqqq"']),
    ([COMPLETE], [], "%s", ["null"]),
]


@pytest.mark.parametrize(("routes", "place", "form", "values"), BAD_BODIES)
def test_a_bad_body_is_a_400_that_names_the_place(
    alice: Person, routes: list[Route], place: list[Any], form: str, values: list[str]
) -> None:
    task = alice.task()
    for route, value in [(route, value) for route in routes for value in values]:
        answer = alice(route, task, content=(form % value).encode("latin-1"))
        (error,) = problem(answer, 400)["errors"]
        assert error["loc"] == ["body", *place], value
        assert "qqqq" not in answer.text
    assert alice.tasks()["data"] == [task]


def test_other_paths_need_no_token_and_no_statement(client: TestClient) -> None:
    tasks = f"/api/{NOBODY}/tasks"
    with before_each_statement(Mock(side_effect=ZeroDivisionError)):
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/", follow_redirects=True).url.path == "/docs"
        for path in (f"{tasks}/", f"{tasks}/{NOBODY}/", f"{tasks}/a/b", "/api"):
            problem(client.get(path), 404)
        for path in (tasks, "/health"):
            answer = client.request("TRACE", path, headers={"Origin": PAGE})
            problem(answer, 405)
            assert "GET" in answer.headers["allow"]
            assert answer.headers["access-control-allow-origin"] == PAGE


def test_a_missing_table_is_a_defect(start: Any, fresh: Database) -> None:
    alice = Person(client := start(DATABASE_URL=fresh.url))
    fresh.sql("ALTER TABLE tasks RENAME TO other")
    problem(alice(LIST), 500)
    alice.client = TestClient(client.app)
    defect = pytest.raises(RuntimeError, alice, LIST)  # It is logged.
    assert "execute" in {entry.name for entry in defect.traceback}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_a_browser_is_told_what_a_page_may_send(start: Any, method: str) -> None:
    client = start(CORS_ORIGINS="https://a.example, https://b.example/")
    headers = {"Access-Control-Request-Headers": "authorization, content-type"}
    headers["Access-Control-Request-Method"] = method
    for origin in ("https://a.example", "https://b.example", PAGE):
        answer = client.options("/health", headers=headers | {"Origin": origin})
        allowed = answer.headers.get("access-control-allow-origin")
        expected = (400, None) if origin == PAGE else (200, origin)
        assert (answer.status_code, allowed) == expected


def test_behind_a_proxy_each_location_has_its_prefix(serve: Any) -> None:
    server = serve(*UVICORN, "--root-path", "/v1")
    alice = Person(server.client)
    task = alice(CREATE)
    assert task.headers["location"] == f"/v1/api/{alice.id}/tasks/{task.json()['id']}"
    assert alice.sees(task.json()) == task.json()  # The proxy removes the prefix.
    assert server.client.get("/").headers["location"] == "/v1/docs"
    assert "/v1/openapi.json" in server.client.get("/docs").text


# --- The document and the tables ------------------------------------------------------


def test_the_document_describes_the_six_operations(alice: Person) -> None:
    alice(COMPLETE, alice.task())
    document = alice.client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for route in ROUTES:
        operation = document["paths"][route.path][route.method.lower()]
        assert operation["operationId"] == route.name
        assert operation["security"] == [{"HTTPBearer": []}]
        assert ("requestBody" in operation) == (route in (CREATE, UPDATE, COMPLETE))
        formats = [each["schema"].get("format") for each in operation["parameters"]]
        assert formats.count("uuid") == route.path.count("{")
        content = operation["responses"][str(route.status)].get("content")
        name = "TaskPage" if route is LIST else "TaskPublic"
        schema = {"schema": {"$ref": f"#/components/schemas/{name}"}}
        assert content == (None if route is DELETE else {"application/json": schema})
    assert not {"/", "/health"} & set(document["paths"])
    page, sent = schemas["TaskPage"]["example"], alice.tasks()
    assert page["data"] == [schemas["TaskPublic"]["example"]]
    texts = [json.dumps(each, sort_keys=True) for each in (page, sent)]
    assert len({re.sub("[0-9a-f]", "0", text) for text in texts}) == 1
    assert set(schemas["TaskPublic"]["required"]) == set(sent["data"][0])
    scheme = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    assert document["components"]["securitySchemes"] == {"HTTPBearer": scheme}
    named = re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document))
    assert set(named) == set(schemas)


def test_a_learner_can_add_an_endpoint_below(database: Database) -> None:
    before, app = load().openapi(), load(DATABASE_URL=database.url)
    get_session, kept = Depends(sys.modules["app"].get_session), list[Any]()

    @app.get("/one/{number}")
    def one(number: int, session: Annotated[Session, get_session]) -> bool:
        kept.append(session.connection())  # The session gives it back.
        if not POSTGRES:
            kept[-1].exec_driver_sql(*LOCK)  # and ends its transaction.
        return number == 1

    async def visit_in_one_task() -> Any:
        given: Any = {"transport": httpx2.ASGITransport(app), "base_url": "http://x"}
        async with httpx2.AsyncClient(**given) as client:
            assert all([(await client.get("/one/1")).json() is True for _ in range(31)])
            return (await client.get("/openapi.json")).json()

    document = asyncio.run(visit_in_one_task())
    assert "422" not in json.dumps(document)
    assert document["paths"].pop("/one/{number}")["get"]["operationId"] == "one"
    assert document == json.loads(json.dumps(before))


def test_a_test_can_share_its_session(fresh: Database) -> None:
    url = fresh.url.replace("postgresql:", "postgresql+psycopg2:")
    app, engine = load(DATABASE_URL=fresh.url), sqlalchemy.create_engine(url)
    rows = partial(fresh.sql, "SELECT title, is_completed FROM tasks")
    with visit(app) as client, Session(engine) as session:
        app.dependency_overrides[sys.modules["app"].get_session] = lambda: session
        alice = Person(client)
        task = alice.task()
        own = session.scalars(sqlalchemy.select(sys.modules["models"].Task)).one()
        assert rows() == [("Buy milk", False)]  # The endpoint has committed.
        assert alice(UPDATE, task).json() and rows() == [("x", False)]
        assert alice(COMPLETE, task).json() and rows() == [("x", True)]
        assert own in session  # It was not closed.
        assert (alice(DELETE, task).status_code, rows()) == (204, [])
    engine.dispose()


def test_a_cancelled_request_keeps_its_connection(fresh: Database) -> None:
    order, both = queue.SimpleQueue[str](), threading.Barrier(3)

    def wait(*_: object) -> None:
        both.wait(60)  # for the other request
        both.wait(60)  # until this one, or the other one, is cancelled

    def go_on() -> None:
        order.put("cancelled")
        both.wait(60)

    with visit(load(DATABASE_URL=fresh.url)) as client, before_each_statement(wait):
        event.listen(sys.modules["app"].engine, "checkin", lambda *_: order.put("back"))
        assert cancel_the_first(client, sign(), NOBODY, both.wait, go_on) == 200
        assert [order.get(timeout=60) for _ in "123"] == ["cancelled", "back", "back"]


BROKEN = ["title = ''", f"title = '{'x' * 201}'", "completed_at = created_at"]
BROKEN += ["is_completed = (completed_at IS NULL)", f"user_id = '{uuid4().hex}'"]


@pytest.mark.parametrize("change", BROKEN)
def test_a_broken_task_is_refused(alice: Person, database: Any, change: str) -> None:
    task = alice.task()
    with pytest.raises((sqlite3.IntegrityError, psycopg2.IntegrityError)):
        database.sql(f"UPDATE tasks SET {change} WHERE user_id = {alice.hex}")
    assert alice.sees(task) == task


def test_a_user_owns_their_own_ids_and_tasks(alice: Person, database: Database) -> None:
    bob = Person(alice.client)
    task, _own = alice.task(), bob.task()
    others = "id, title, is_completed, completed_at, created_at, updated_at"
    own = f"SELECT {bob.hex}, {others} FROM tasks WHERE user_id = {alice.hex}"
    database.sql(f"INSERT INTO tasks (user_id, {others}) {own}")
    database.sql(f"DELETE FROM users WHERE id = {alice.hex}")
    assert (alice.sees(task), bob.sees(task)) == (None, task | {"user_id": bob.id})


def test_the_tables_have_names_and_the_pool_thirty_places(start: Any) -> None:
    start()
    engine = sys.modules["app"].engine
    tables, pool = sqlalchemy.inspect(engine), engine.pool
    columns: Any = {each["name"]: each["type"] for each in tables.get_columns("tasks")}
    assert columns["completed_at"].timezone or not POSTGRES
    rules: list[Any] = [tables.get_pk_constraint(name) for name in ("tasks", "users")]
    assert rules[0]["constrained_columns"] == ["user_id", "id"]
    rules += tables.get_foreign_keys("tasks") + tables.get_indexes("tasks")
    rules += tables.get_check_constraints("tasks")
    expected = "pk_tasks pk_users fk_tasks_user_id ix_tasks_user_id_created_at_id"
    expected += " ck_tasks_title_length ck_tasks_completed"
    assert {rule["name"] for rule in rules} == set(expected.split())
    for connection in [pool.connect() for _ in range(30)]:
        connection.close()
    assert pool.status().startswith("Pool size: 10  Connections in pool: 10 ")


def test_the_list_is_read_from_its_index(alice: Person, database: Database) -> None:
    executed: list[Any] = []
    for n in range(30):
        alice.task(str(n))
    with before_each_statement(lambda *given: executed.extend(given[2:4])):
        alice.tasks(limit=20)
    # PostgreSQL reads a small table faster without an index.
    no_scan = [f"SET enable_{each} = off" for each in ("seqscan", "bitmapscan")]
    with database.cursor(*["ANALYZE tasks", *no_scan] if POSTGRES else []) as cursor:
        explain = "EXPLAIN" if POSTGRES else "EXPLAIN QUERY PLAN"
        cursor.execute(f"{explain} {executed[0]}", executed[1])
        plan = str(cursor.fetchall())
    assert "ix_tasks_user_id_created_at_id" in plan
    assert "Sort" not in plan and "TEMP B-TREE" not in plan


def test_tables_can_be_created_by_hand_and_again(serve: Any, fresh: Database) -> None:
    assert not serve("-c", "import app; [app.create_tables() for _ in 'ab']").wait()
    assert fresh.sql("SELECT * FROM tasks") == fresh.sql("SELECT * FROM users") == []


def test_eight_workers_share_a_new_database(serve: Any, fresh: Database) -> None:
    server = serve(*UVICORN, "--workers", "8")
    server.wait_for("Application startup complete.", times=8)
    with ThreadPoolExecutor(20) as clients:
        list(clients.map(Person(server.client).task, map(str, range(40))))
    server.stop(signal.SIGKILL)  # The tasks are there nevertheless.
    assert fresh.sql("SELECT count(*) FROM tasks") == [(40,)]
    assert "Traceback" not in server.log


def test_a_context_variable_reaches_the_endpoint(client: TestClient) -> None:
    variable, seen = ContextVar("variable", default=""), list[str]()

    async def with_variable(scope: Scope, receive: Receive, send: Send) -> None:
        variable.set("of this request")
        await client.app(scope, receive, send)

    with before_each_statement(lambda *_: seen.append(variable.get())):
        Person(visit(with_variable)).tasks()
    assert seen == ["of this request"]


def test_a_connection_that_cannot_be_made_is_a_503(caplog: Any) -> None:
    given: dict[str, Any] = {}

    def refuse(_dialect: Any, _record: Any, _args: Any, options: Any) -> None:
        given.update(options)
        raise psycopg2.OperationalError("connection refused")

    url = "postgres://alice:hidden@h1/x?sslmode=require&channel_binding=require"
    event.listen(Engine, "do_connect", refuse)
    problem(Person(visit(load(DATABASE_URL=url)))(LIST), 503, retry=True)
    event.remove(Engine, "do_connect", refuse)
    assert "connection refused" in caplog.text and "hidden" not in caplog.text
    expected = {"host": "h1", "user": "alice", "password": "hidden", "dbname": "x"}
    expected |= {"sslmode": "require", "channel_binding": "require"}
    assert expected.items() <= given.items() and "options" not in given
    assert 0 < int(given["connect_timeout"]) <= 10
    assert 0 < int(given["tcp_user_timeout"]) <= 30_000
    unanswered = int(given["keepalives_interval"]) * int(given["keepalives_count"])
    assert 0 < int(given["keepalives_idle"]) + unanswered <= 30


if POSTGRES:

    def close_connections(database: Database, *_: object) -> None:
        """Return when the server has closed every connection of the application."""
        others = f"application_name = '{database.name}' AND pid <> pg_backend_pid()"
        terminate = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        database.sql(f"{terminate} WHERE {others}")

    def test_a_closed_connection_is_not_used(start: Any, fresh: Database) -> None:
        all_are_used = threading.Barrier(10)
        alice = Person(start(DATABASE_URL=fresh.url))
        alice.task()
        clients = ThreadPoolExecutor(10)
        with before_each_statement(lambda *_: all_are_used.wait(60)), clients:
            list(clients.map(lambda _: alice.tasks(), range(10)))
        for _ in range(3):
            close_connections(fresh)
            for _ in range(15):
                alice.task()

    @each(ROUTES)
    def test_a_lost_one_is_a_503(start: Any, fresh: Database, route: Route) -> None:
        alice = Person(start(DATABASE_URL=fresh.url))
        task, read_only = alice.task(), "SET default_transaction_read_only = on"
        with before_each_statement(lambda *_: close_connections(fresh)):
            problem(alice(route, task), 503, retry=True)
        assert alice.tasks()["data"] == [task]
        if route.method != "GET":
            with before_each_statement(lambda *given: given[1].execute(read_only)):
                problem(alice(route, task), 503, retry=True)
        assert alice(route, task).status_code == route.status

    def test_one_lost_before_a_transaction_is_a_503(start: Any, fresh: Any) -> None:
        alice = Person(start(DATABASE_URL=fresh.url))
        cut = partial(close_connections, fresh)
        event.listen(Engine, "set_connection_execution_options", cut)
        problem(alice(CREATE), 503, retry=True)
        event.remove(Engine, "set_connection_execution_options", cut)
        assert alice.tasks()["data"] == []

    @pytest.mark.parametrize("hosts", [1, 2])
    @pytest.mark.parametrize("driver", ["postgres", "postgresql+psycopg2"])
    def test_a_url_works(start: Any, database: Any, driver: str, hosts: int) -> None:
        url = sqlalchemy.make_url(database.url).set(drivername=driver)
        if hosts == 2:  # Nobody listens on port 1.
            places = ["127.0.0.1:1", f"{url.host}:{url.port or 5432}"]
            url = url.set(host=None, port=None).update_query_dict({"host": places})
        more = "&sslmode=prefer&channel_binding=prefer&target_session_attrs=read-write"
        client = start(DATABASE_URL=url.render_as_string(hide_password=False) + more)
        assert Person(client).task()["title"] == "Buy milk"

    def test_each_request_is_one_round_trip(start: Any, database: Database) -> None:
        questions: list[bytes] = []
        url = sqlalchemy.make_url(database.url)
        listener = socket.create_server(("127.0.0.1", 0))
        here = url.set(host="127.0.0.1", port=listener.getsockname()[1])

        def relay() -> None:
            near, far = listener.accept()[0], (url.host, url.port or 5432)
            with listener, near, socket.create_connection(far) as server:
                other = {near: server, server: near}
                while True:
                    for source in select.select(other, [], [])[0]:
                        data = source.recv(65536)
                        other[source].sendall(data)
                        questions.extend([data] if source is near else [])
                        if not data:
                            return

        threading.Thread(target=relay, daemon=True).start()
        alice = Person(start(DATABASE_URL=here.render_as_string(hide_password=False)))
        task = alice.task()
        for route in ROUTES:
            questions.clear()
            assert alice(route, task).status_code == route.status
            (question,) = questions
            assert question.startswith(b"Q")  # a simple query: nothing is prepared

else:

    def test_a_locked_or_read_only_file_is_a_503(start: Any, fresh: Database) -> None:
        alice = Person(start(DATABASE_URL=f"{fresh.url}?timeout=0.01"))
        task, read_only = alice.task(), "PRAGMA query_only = ON"
        with fresh.cursor(*LOCK):
            problem(alice(CREATE), 503, retry=True)
            assert alice.tasks()["data"] == [task]  # Readers do not wait.
        assert fresh.sql("PRAGMA journal_mode") == [("wal",)]
        alice.task()
        with before_each_statement(lambda *given: given[1].execute(read_only)):
            problem(alice(CREATE), 503, retry=True)

    TWO = ("--workers", "2")

    @pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
    @pytest.mark.parametrize("command", [UVICORN, (*UVICORN, *TWO), (*DEMO, *TWO)])
    def test_one_file_is_left(serve: Any, fresh: Any, command: Any, by: Any) -> None:
        server = serve(*command)
        server.wait_for("startup complete.", times=2 if "2" in command else 1)
        alice = Person(server.client)
        with ThreadPoolExecutor(8) as clients:
            list(clients.map(alice.task, map(str, range(20))))
        server.stop(by)
        assert "Traceback" not in server.log
        assert os.listdir(fresh.file.parent) == ["tasks.db"]
        assert fresh.sql("SELECT count(*) FROM tasks") == [(20,)]


# --- Start ----------------------------------------------------------------------------

KEYS_URL = "http://localhost/keys"
BAD_URLS = ["file:///etc/passwd", "http://[::1", "auth.example.com/keys"]
BAD_DATABASES = ["nonsense", "mysql://u:hidden@localhost/x", "sqlite://host/tasks.db"]
BAD_DATABASES += ["postgresql+asyncpg://u:hidden@h/x", "postgresql://u:hidden@h:port/x"]
BAD_DATABASES += ["sqlite://", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true"]
BAD_SETTINGS: list[tuple[str, dict[str, str]]] = [
    ("JWT_SECRET", {"JWT_SECRET": ""}),
    ("JWT_JWKS_URL", {"JWT_JWKS_URL": KEYS_URL}),
    ("32", {"JWT_SECRET": "hidden" + "x" * 25}),
    *(("JWT_JWKS_URL", {"JWT_SECRET": "", "JWT_JWKS_URL": url}) for url in BAD_URLS),
    *(("DATABASE_URL", {"DATABASE_URL": url}) for url in BAD_DATABASES),
]


@pytest.mark.parametrize(("named", "settings"), BAD_SETTINGS)
def test_a_bad_setting_is_refused(capfd: Any, named: str, settings: Any) -> None:
    with pytest.raises(SystemExit) as end:
        load(**settings)
    output = capfd.readouterr()
    (line,) = output.err.splitlines()
    assert named in line and "hidden" not in line
    assert end.value.code and not output.out


def test_a_bad_start_is_one_line_in_the_log_and_is_not_repeated(serve: Any) -> None:
    lost = "postgres://u:hidden@127.0.0.1:1/x"
    starts = [("JWT_SECRET", "", workers) for workers in "12"]
    starts += [("DATABASE_URL", lost, workers) for workers in "12"]
    for path in ("/nowhere/tasks.db", "tasks.db?timeout=soon"):
        starts.append(("DATABASE_URL", f"sqlite:///{path}", "1"))
    servers = [serve(*UVICORN, "--workers", n, **{name: v}) for name, v, n in starts]
    for (name, _, workers), server in zip(starts, servers, strict=True):
        # With several workers, the exit code is that of uvicorn's supervisor.
        assert server.wait() != 0 or workers != "1"
        assert 1 <= len(re.findall(f"(?m)^.*{name}.*$", server.log)) <= int(workers)
        assert "Traceback" not in server.log and "hidden" not in server.log


def test_a_start_says_where_tasks_are(start: Any, database: Any, caplog: Any) -> None:
    caplog.set_level("INFO")
    more = {"passfile": "/hidden"} if POSTGRES else {"timeout": "7"}
    url = sqlalchemy.make_url(database.url).update_query_dict(more)
    url = url.set(password=url.password or "hidden") if POSTGRES else url
    start(DATABASE_URL=url.render_as_string(hide_password=False), JWT_SECRET="x" * 32)
    assert str(url.database) in caplog.text
    assert not re.search(f"passfile|timeout|{url.password or '[?]'}", caplog.text)
    start(JWT_SECRET="", JWT_JWKS_URL=KEYS_URL, JWT_AUDIENCE="tasks")
    assert "JWT_AUDIENCE" not in caplog.text
    start(JWT_SECRET="", JWT_JWKS_URL=KEYS_URL)
    (warning,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert "JWT_AUDIENCE" in warning.message


def test_only_a_filled_in_example_starts(serve: Any, fresh: Any, tmp_path: Any) -> None:
    example = (HERE / ".env.example").read_text()
    (tmp_path / "example").write_text(example)
    for name, value in [("JWT_SECRET", SECRET), ("DATABASE_URL", fresh.url)]:
        example = re.sub(f"(?m)^{name}=.*", f"{name}={value}", example)
    (tmp_path / "copy").write_text(example)
    unset = {"cwd": tmp_path, "JWT_SECRET": "", "DATABASE_URL": ""}
    refused = serve(*UVICORN, "--env-file", "example", **unset)
    Person(serve(*UVICORN, "--env-file", "copy", **unset).client).task()
    assert fresh.sql("SELECT title FROM tasks") == [("Buy milk",)]
    assert refused.wait() != 0 and "JWT_SECRET" in refused.log


def test_an_import_does_nothing_else(serve: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for url in ("", f"postgresql://u@127.0.0.1:{listener.getsockname()[1]}/x"):
            process = serve("-c", "import app", cwd=tmp_path, DATABASE_URL=url)
            assert (process.wait(), process.log) == (0, "")
        assert select.select([listener], [], [], 0)[0] == []  # Nobody connects.
    assert os.listdir(tmp_path) == []


def test_the_demo_needs_no_settings(serve: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    made: dict[str, list[Any]] = {}
    checked = {"JWT_ISSUER": "https://auth.example", "JWT_AUDIENCE": "tasks"}
    for settings, workers in [({"JWT_SECRET": ""}, 1), (checked, 2)]:
        command = (*DEMO, "--port", port, "--workers", str(workers))
        server = serve(*command, cwd=tmp_path, DATABASE_URL="", **settings)
        server.wait_for("Application startup complete.", times=workers)
        assert f"http://127.0.0.1:{port}/docs\n" in server.log
        for line in re.findall(r"(?m)^curl .*$", server.log):
            _curl, url, _option, header = shlex.split(line)
            client = httpx2.Client(headers=dict([header.split(": ")]))
            new = client.post(url, json={"title": "x"}).json()
            made.setdefault(new["user_id"], []).insert(0, new)
            assert client.get(url).json()["data"] == made[new["user_id"]]
            upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
            upgrade |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "A" * 24}
            assert client.get(url, headers=upgrade).status_code == 200
            client.close()
        server.stop(signal.SIGINT)
        assert "Traceback" not in server.log and os.listdir(tmp_path) == ["tasks.db"]
    assert [len(tasks) for tasks in made.values()] == [2, 2]
    assert jwt.decode(header.split()[-1], SECRET, ["HS256"], audience="tasks")


def test_the_demo_refuses_an_env_file(serve: Any, tmp_path: Path) -> None:
    (tmp_path / ".env").touch()
    for options in (["--env-file", ".env"], ["--env-file=.env"], []):
        settings = {} if options else {"UVICORN_ENV_FILE": ".env"}
        server = serve(*DEMO, *options, cwd=tmp_path, **settings)
        assert server.wait() != 0
        assert "--env-file" in server.log and server.log.count("\n") == 1


# --- Key sets -------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_rotated_key_works_without_a_restart(issuer: Issuer, algorithm: str) -> None:
    assert issuer.status("first") == 200
    issuer.published.append(algorithm)
    for seconds, status in [(9.9, 401), (0.2, 200)]:
        issuer.now += seconds
        assert (issuer.status(algorithm), issuer.status("first")) == (status, 200)
    assert issuer.look_ups == 2


def test_a_token_that_fits_no_published_key_is_refused(issuer: Issuer) -> None:
    issuer.published += ["RS256", "ES256", "EdDSA"]
    first, eddsa = {"kid": "first"}, {"alg": "EdDSA"}
    tokens = [
        sign(key=KEYS["RS256"], header={"kid": "ES256"}),
        sign(key=KEYS["ES256"], header={"kid": "EdDSA"}),
        sign(key=KEYS["EdDSA"], header=first),
        sign(key=KEYS["first"]),
        sign(key=issuer.key_set()[:64].hex(), header=first),
        *(unsigned(first | {"alg": name}) for name in ("none", "EdDSA", "RS256")),
        *(unsigned(eddsa | {"kid": key_id}) for key_id in (None, [1], "odd")),
        *(token for _, token in EACH_BAD_TOKEN),
    ]
    for token in tokens:
        problem(ask(issuer.client, token), 401)
    assert issuer.status("first") == 200
    assert issuer.look_ups == 1


def test_all_requests_wait_for_one_look_up(issuer: Issuer) -> None:
    headers = [{"kid": "first"}] * 40 + [{"kid": str(n)} for n in range(40)]
    tokens = [sign(key=KEYS["first"], header=header) for header in headers]
    with ThreadPoolExecutor(20) as clients:
        answers = clients.map(lambda token: ask(issuer.client, token), tokens)
        assert [answer.status_code for answer in answers] == [200] * 40 + [401] * 40
    assert issuer.look_ups == 1


def test_a_cached_key_never_waits_and_another_five_seconds(issuer: Issuer) -> None:
    assert issuer.status("first") == 200
    issuer.published.append("EdDSA")
    issuer.may_answer.clear()
    for seconds in (299.9, 0.2):  # The second one starts a look-up.
        assert issuer.look_ups == 1
        issuer.now += seconds
        assert issuer.status("first") == 200
    with ThreadPoolExecutor(1) as waiting:
        second = waiting.submit(ask, issuer.client, issuer.token("EdDSA"))
        assert issuer.status("first") == 200
        assert issuer.client.get("/health").status_code == 200
        assert not second.done()
        problem(second.result(), 503, retry=True)
    assert issuer.look_ups == 2


def test_keys_are_not_trusted_if_nobody_asked_for_ten_minutes(issuer: Issuer) -> None:
    assert issuer.status("first") == 200
    issuer.published = ["EdDSA"]
    issuer.now += 599.9
    assert issuer.status("first") == 200  # starts a look-up
    assert issuer.status("EdDSA") == 200
    issuer.published = ["ES256"]
    issuer.now += 600.1
    assert (issuer.status("EdDSA"), issuer.status("ES256")) == (401, 200)


NOT_KEY_SETS = [b"<html>", b"[]", b'{"keys": []}', b'{"keys": 1}', b"\xff", b"["]
NOT_KEY_SETS += [b"[" * 100_000, b"1" * 5000, b'{"keys": [{"kty": "oct"}]}', b" "]
NOT_KEY_SETS += [b'{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": ["x"]}]}']


@pytest.mark.parametrize("reply", NOT_KEY_SETS)
def test_a_failed_look_up_is_a_503(issuer: Issuer, reply: bytes, caplog: Any) -> None:
    assert issuer.status("first") == 200
    issuer.published.append("EdDSA")
    issuer.reply = reply
    issuer.now += 10.1
    for _ in range(3):
        problem(ask(issuer.client, issuer.token("EdDSA")), 503, retry=True)
        problem(ask(issuer.client, "x"), 401)
        assert issuer.status("first") == 200
        issuer.now += 3.3
    assert issuer.look_ups == caplog.text.count("JWT_JWKS_URL can't be used") + 1 == 2
    issuer.now += 601
    assert issuer.status("first") == 200
    issuer.reply = b""
    issuer.now += 10.1
    assert issuer.status("EdDSA") == 200


def test_a_cancelled_request_does_not_cancel_the_look_up(issuer: Issuer) -> None:
    given = issuer.token("first"), NOBODY, issuer.was_asked.wait, issuer.may_answer.set
    issuer.may_answer.clear()
    assert cancel_the_first(issuer.client, *given) == 200
    assert issuer.look_ups == 1


def test_a_look_up_does_not_wait_for_the_database(issuer: Issuer) -> None:
    assert issuer.status("first") == 200
    waiting, may_go_on = threading.Semaphore(0), threading.Event()

    def wait(*_: object) -> None:
        waiting.release()
        may_go_on.wait(60)

    issuer.published.append("EdDSA")
    issuer.now += 10.1
    with before_each_statement(wait), ThreadPoolExecutor(40) as clients:
        answers = [clients.submit(issuer.status, "first") for _ in range(40)]
        assert all(waiting.acquire(timeout=60) for _ in range(10))
        for key_id in ("first", "EdDSA"):
            problem(ask(issuer.client, issuer.token(key_id), uuid4()), 403)
        assert issuer.client.get("/health").status_code == 200
        may_go_on.set()
        assert {answer.result() for answer in answers} == {200}
    assert issuer.look_ups == 2


def test_every_package_that_is_imported_is_pinned() -> None:
    source = (HERE / "app.py").read_text() + (HERE / "models.py").read_text()
    packages = set(re.findall(r"(?m)^(?:from|import) (\w+)", source))
    owners = importlib.metadata.packages_distributions()
    pin = re.compile(r"(?m)^([\w-]+)(?:\[.*\])?==(\S+)$")
    pins = dict(pin.findall((HERE / "requirements.txt").read_text().lower()))
    for package in packages - sys.stdlib_module_names - {"models"}:
        (distribution,) = set(owners[package])
        assert pins[distribution.lower()] == importlib.metadata.version(distribution)


def test_the_example_explains_every_setting_and_no_other() -> None:
    read = r"(?:environ\.get\(|getenv\(|environ\[)[\"'](\w+)"
    settings = set(re.findall(read, (HERE / "app.py").read_text()))
    example = (HERE / ".env.example").read_text()
    explained = set(re.findall(r"(?m)^(?:# )?([A-Z_]+)=", example))
    assert explained == settings == set(SETTINGS)


def test_a_late_answer_says_that_it_is_late(locked: Database, late: Any) -> None:
    server, answers = late
    for answer in answers.result(timeout=60):
        assert "may still be" in problem(answer, 503)["detail"]
        assert "retry-after" not in answer.headers
    Person(server.client).task("after")
    server.stop()
    assert "Traceback" not in server.log and "No answer within" in server.log
    titles = [title for (title,) in locked.sql("SELECT title FROM tasks")]
    assert "after" in titles and titles.count("x") < 8  # Not all are executed later.
