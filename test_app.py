"""The specification of the Task API, as tests of its public interface.

    python -m pytest                                     on temporary SQLite files
    TEST_DATABASE_URL=postgresql://… python -m pytest    on PostgreSQL, in new schemas

What DATABASE_URL and `.env` name is not touched. Each test loads the application with
settings of its own, or starts a real uvicorn. Alice and Bob are users of an auth system.
"""

import importlib
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, contextmanager, suppress
from copy import copy
from datetime import UTC, datetime
from functools import cached_property, partial
from http.client import responses as PHRASES
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from select import select as wait_for_data
from typing import Any, NamedTuple
from unittest.mock import Mock, patch
from uuid import UUID, uuid4

import httpx2
import jwt
import psycopg2
import pytest
import sqlalchemy
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import Engine, Pool, create_engine, event
from sqlmodel import Session, SQLModel
from sqlmodel.pool import StaticPool

pytestmark = pytest.mark.filterwarnings("error")

HERE = Path(__file__).parent
POSTGRES = os.environ.get("TEST_DATABASE_URL", "")
SECRET = "a secret of the tests, with more than 32 bytes"
NOBODY = "11111111-1111-4111-8111-111111111111"
PAGE = "http://localhost:3000"
SETTINGS = ["DATABASE_URL", "JWT_SECRET", "JWT_JWKS_URL", "JWT_ISSUER", "JWT_AUDIENCE"]
SETTINGS += ["CORS_ORIGINS", "PORT"]

# --- The database and the application -------------------------------------------------


class Database:
    """A new database: a SQLite file, or a schema of the PostgreSQL server."""

    def __init__(self, folder: Path) -> None:
        self.name, self.file = f"test_{uuid4().hex}", folder / "tasks.db"
        self.url = f"sqlite:///{self.file}"
        if POSTGRES:
            more = f"application_name={self.name}&options=-csearch_path%3D{self.name}"
            self.url = f"{POSTGRES}{'&' if '?' in POSTGRES else '?'}{more}"
            self.sql(f"CREATE SCHEMA {self.name}")

    @contextmanager
    def connect(self, *statements: str) -> Iterator[Any]:
        """Execute statements beside the application, in autocommit. Yield a cursor."""
        connection: Any
        if POSTGRES:
            connection = psycopg2.connect(self.url.replace("+psycopg2", ""))
            connection.autocommit = True
        else:
            connection = sqlite3.connect(self.file, isolation_level=None)
        with closing(connection):
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            yield cursor

    def sql(self, statement: str) -> list[Any]:
        foreign_keys = [] if POSTGRES else ["PRAGMA foreign_keys = ON"]
        with self.connect(*foreign_keys, statement) as cursor:
            return list(cursor.fetchall()) if cursor.description else []

    def close_connections(self, *_: object) -> None:
        """Return when the server has closed every connection of the application."""
        others = f"application_name = '{self.name}' AND pid <> pg_backend_pid()"
        terminate = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        self.sql(f"{terminate} WHERE {others}")


def new_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = Database(tmp_path_factory.mktemp("database"))
    yield database
    if POSTGRES:
        database.close_connections()  # of servers that were killed
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
    """Return the environment with these settings; the others are set to nothing."""
    ours = dict.fromkeys(SETTINGS, "") | {"JWT_SECRET": SECRET}
    return dict(os.environ) | ours | {"PYTHONPATH": str(HERE)} | settings


def load(**settings: str) -> FastAPI:
    """Return `app.app`, loaded anew with other settings."""
    sys.modules.pop("app", None)
    with patch.dict(os.environ, environment(**settings), clear=True):
        app: FastAPI = importlib.import_module("app").app
    return app


def visit(app: FastAPI) -> TestClient:
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


class Route(NamedTuple):
    name: str
    method: str
    path: str
    body: Any
    status: int


TASKS, TASK = "/api/{user_id}/tasks", "/api/{user_id}/tasks/{task_id}"
LIST = Route("list_tasks", "GET", TASKS, None, 200)
CREATE = Route("create_task", "POST", TASKS, {"title": "x"}, 201)
GET = Route("get_task", "GET", TASK, None, 200)
UPDATE = Route("update_task", "PUT", TASK, {"title": "x"}, 200)
COMPLETE = Route("complete_task", "PATCH", f"{TASK}/complete", None, 200)
DELETE = Route("delete_task", "DELETE", TASK, None, 204)
ROUTES, WITH_BODY = (
    [LIST, CREATE, GET, UPDATE, COMPLETE, DELETE],
    [CREATE, UPDATE, COMPLETE],
)
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


class Person:
    """A user of the auth system, with a client and a valid token."""

    def __init__(self, client: httpx2.Client) -> None:
        self.client, self.id = client, str(uuid4())
        self.hex = f"'{UUID(self.id).hex}'"  # the id in SQL
        self.headers = {"Authorization": f"Bearer {sign(sub=self.id)}"}
        self.headers |= {"Content-Type": "application/json", "Origin": PAGE}

    def __call__(self, route: Route, task: Any = None, **options: Any) -> Response:
        """Send a request to an endpoint. `task` is a task or an id."""
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


def problem(answer: Response, status: int) -> Any:
    """Check that an answer is an error in the one form, and return its body."""
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert "retry-after" not in answer.headers
    expected = {"type": "about:blank", "title": PHRASES[status], "status": status}
    expected |= {"detail": str(body["detail"])}
    if "errors" in body:
        assert status == 400 and set(body["errors"][0]) == {"loc", "msg"}
        expected["errors"] = body["errors"]
    assert (answer.status_code, body) == (status, expected)
    return body


def unavailable(answer: Response) -> None:
    """Check that an answer says that the database can't be used."""
    assert "may have been made" in problem(answer, 503)["detail"]


UVICORN = ("-m", "uvicorn", "app:app", "--ws", "none", "--port", "0")


class Server:
    """A real process. `log` is what it has printed, as far as it was read."""

    def __init__(self, *command: str, cwd: Path = HERE, **settings: str) -> None:
        env = environment(PYTHONUNBUFFERED="1", **settings)
        options: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        options |= {"env": env, "cwd": cwd, "text": True, "start_new_session": True}
        self.process = subprocess.Popen((sys.executable, *command), **options)
        self.output, self.log = self.process.stdout or sys.stdin, ""
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
        limits = httpx2.Limits(max_connections=None)
        return httpx2.Client(base_url=url, timeout=60, limits=limits)

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


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


KEYS: dict[str, tuple[str, Any]] = {
    "first": ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
    "EdDSA": ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
    "ES256": ("ES256", ec.generate_private_key(ec.SECP256R1())),
    "P384": ("ES384", ec.generate_private_key(ec.SECP384R1())),
    "RS256": ("RS256", rsa.generate_private_key(65537, 2048)),
}


def jwk(key_id: str, private: bool = False, **others: Any) -> dict[str, Any]:
    """Return a key of KEYS as a member of a key set. A member that is None is left out."""
    algorithm, key = KEYS[key_id]
    encoder: Any = jwt.get_algorithm_by_name(algorithm)
    members = json.loads(encoder.to_jwk(key if private else key.public_key()))
    members |= {"kid": key_id, "alg": algorithm, "use": "sig"} | others
    return {name: value for name, value in members.items() if value is not None}


class Issuer:
    """An auth system with a key set, and an application whose clock can be put forward."""

    look_ups, seconds, reply, status_code, slow = 0, 0.0, b"", 200, False

    def __init__(self, database: Database) -> None:
        self.keys, self.agents = [jwk("first")], set[str]()
        self.asked, self.gone_on = threading.Semaphore(0), threading.Event()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.look_ups += 1
                issuer.asked.release()
                issuer.agents.add(self.headers["User-Agent"])
                with suppress(OSError):  # The application has given up.
                    self.send_response(issuer.status_code)
                    self.end_headers()
                    while issuer.slow and not issuer.gone_on.wait(0.2):
                        self.wfile.write(b" ")
                    keys = json.dumps({"keys": issuer.keys}).encode()
                    self.wfile.write(issuer.reply or keys)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        serve = self.server.serve_forever
        threading.Thread(target=serve, args=(0.01,), daemon=True).start()
        settings = {"DATABASE_URL": database.url, "JWT_SECRET": ""}
        settings["JWT_JWKS_URL"] = f"http://127.0.0.1:{self.server.server_port}/jwks"
        self.client = visit(load(**settings))

    def monotonic(self) -> float:
        return time.monotonic() + self.seconds

    def status(self, key_id: str, name: str = "") -> int:
        """Return the answer to a token that names its key, perhaps by another name."""
        token = sign(key=KEYS[key_id], header={"kid": name or key_id})
        return ask(self.client, token).status_code


@pytest.fixture
def issuer(database: Database) -> Iterator[Issuer]:
    issuer = Issuer(database)
    clock = Mock(wraps=time, monotonic=issuer.monotonic)
    with issuer.client, ExitStack() as stack:
        for name in ("app", "app"):
            stack.enter_context(patch(f"{name}.time", clock))
        yield issuer
        issuer.gone_on.set()
        issuer.server.shutdown()
        issuer.server.server_close()


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
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert len(token) < 10 or str(token).strip("b'") not in answer.text


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat", "more"])
def test_a_good_token_gets_in(client: TestClient, claim: str) -> None:
    tolerated: dict[str, Any] = {claim: NOW + (-20 if claim == "exp" else 20)}
    more = {"sub": NOBODY.upper(), "iss": "any", "aud": ["any"], "roles": ["x" * 8000]}
    assert ask(client, sign(**more | tolerated)).status_code == 200


def test_issuer_and_audience_must_match_if_they_are_set(start: Any) -> None:
    client = start(JWT_ISSUER=" https://auth.example ", JWT_AUDIENCE="tasks\n")
    right: dict[str, Any] = {"iss": "https://auth.example", "aud": ["other", "tasks"]}
    assert ask(client, sign(**right)).status_code == 200
    for wrong, check in [({"iss": "other"}, "Issuer"), ({"aud": "other"}, "Audience")]:
        assert check in problem(ask(client, sign(**right | wrong)), 401)["detail"]
        missing = dict.fromkeys(wrong)
        assert "Missing" in problem(ask(client, sign(**right | missing)), 401)["detail"]


# --- The six routes -------------------------------------------------------------------


@each(ROUTES)
def test_each_answer_is_the_documented_one(alice: Person, route: Route) -> None:
    task, defect = alice.task(), TimeoutError("qqqq")  # is not the database's
    answers = {
        400: alice(route, task, user="1"),
        401: alice(route, task, headers={"Authorization": "Basic YTpi"}),
        403: alice(route, task, user=uuid4()),
    }
    assert answers[401].headers["www-authenticate"] == "Bearer"
    if route.path != TASKS:
        answers[404] = alice(route, uuid4())
    with before_each_statement(Mock(side_effect=defect)):
        answers[500] = alice(route, task)
    with before_each_statement(Mock(side_effect=sqlalchemy.exc.TimeoutError("qqqq"))):
        unavailable(lost := alice(route, task))
    assert alice.tasks()["data"] == [task]
    success = alice(route, task)
    document = alice.client.get("/openapi.json").json()
    shown = document["paths"][route.path][route.method.lower()]["responses"]
    errors = {"400", "401", "403", "404", "413", "500", "503", "default"}
    assert set(shown) == {str(success.status_code)} | errors
    schema = {"$ref": "#/components/schemas/Problem"}
    for status, answer in {**answers, 503: lost}.items():
        body, described = problem(answer, status), shown[str(status)]
        (form,) = described["content"].values()
        assert list(described["content"]) == ["application/problem+json"]
        assert (described["description"], form["schema"]) == (body["title"], schema)
        assert status != 400 or form["example"]["errors"][0]["loc"] == ["body", "title"]
        assert {**form["example"], "errors": 0} == {**body, "errors": 0}
        assert "qqqq" not in answer.text
    for answer in (success, *answers.values()):  # A page can read it.
        assert answer.headers["access-control-allow-origin"] == PAGE
        exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
        assert set(exposed) == {"allow", "location", "www-authenticate"}


@each([GET, UPDATE, COMPLETE, DELETE])
def test_a_foreign_task_is_not_found(alice: Person, route: Route) -> None:
    bob = Person(alice.client)
    task, own = alice.task(), bob.task()
    assert problem(bob(route, task), 404) == problem(bob(route, uuid4()), 404)
    assert problem(bob(route, "qqqq"), 400)["errors"][0]["loc"] == ["path", "task_id"]
    assert (alice.tasks()["data"], bob.tasks()["data"]) == ([task], [own])


@each(ROUTES)
def test_each_request_is_one_statement(alice: Person, route: Route) -> None:
    task, executed = alice.task(), list[str]()
    with before_each_statement(lambda *given: executed.append(given[2])):
        assert alice(route, task).status_code == route.status
    (statement,) = executed
    assert "user_id" in statement.rpartition("WHERE")[2].partition("RETURNING")[0]


@each(WITH_BODY)
def test_a_body_may_have_64_kib(alice: Person, route: Route) -> None:
    task = alice.task()
    start = b'{"title": "x", "is_completed": true, "more": "'
    largest = start + b"x" * (65_534 - len(start)) + b'"}'
    for body in (largest + b" ", iter([largest, b" "])):
        answer = alice(route, task, content=body)
        assert answer.status_code == 413
        assert answer.headers["access-control-allow-origin"] == PAGE
    assert alice.tasks()["data"] == [task]
    for body in (largest, iter([largest[:1000], largest[1000:]])):
        assert alice(route, task, content=body).status_code == route.status


def test_a_page_is_a_window(alice: Person, database: Database) -> None:
    Person(alice.client).task("Bob's")
    with before_each_statement(statement := Mock()):
        assert alice.tasks()["meta"] == {"total": 0, "limit": 50, "offset": 0}
    assert statement.call_count == 1
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


SPACE = " \t\n\u3000" * 100
TITLES = [(each, each) for each in ("x" * 200, "\U0001f95b" * 200, "'; DROP -- %s :a")]


@pytest.mark.parametrize(("sent", "title"), [(f"{SPACE}x ü{SPACE}", "x ü"), *TITLES])
def test_a_new_task_is_open(alice: Person, sent: str, title: str) -> None:
    before = datetime.now(UTC)
    answer = alice(CREATE, json={"title": sent})
    task, after = answer.json(), datetime.now(UTC)
    expected = dict.fromkeys(["created_at", "updated_at"], task["created_at"])
    expected |= {"title": title, "user_id": alice.id, "completed_at": None}
    expected |= {"id": str(UUID(task["id"], version=4)), "is_completed": False}
    assert answer.status_code == 201 and expected.items() <= task.items()
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


CHANGES: list[tuple[Route, list[Any]]] = [
    (UPDATE, [{"title": "Buy oat milk"}, {"is_completed": True}, {"title": "x"}]),
    (UPDATE, [{"title": "x", "is_completed": done} for done in (True, True, False)]),
    (COMPLETE, [{"is_completed": done} for done in (False, True, True, False)]),
    (COMPLETE, [None, None, None, {"is_completed": False}, None]),
]


@pytest.mark.parametrize(("route", "bodies"), CHANGES)
def test_a_change_changes_what_it_is_given(
    alice: Person, route: Route, bodies: list[Any]
) -> None:
    task, other = alice.task(), alice.task("other")
    for body in bodies:
        after = alice(route, task, json=body).json()
        default = task["is_completed"] if route is UPDATE else not task["is_completed"]
        changed = {"is_completed": default} | (body or {})
        done_at = task["completed_at"] or after["updated_at"]
        changed["completed_at"] = done_at if changed["is_completed"] else None
        assert after == task | changed | {"updated_at": after["updated_at"]}
        assert after["updated_at"] > task["updated_at"]
        assert alice.sees(task) == after
        task = after
    sent_back = alice(UPDATE, task, json=task).json()
    assert sent_back == task | {"updated_at": sent_back["updated_at"]}
    assert alice.sees(other) == other


def test_of_a_hundred_simultaneous_toggles_none_is_lost(alice: Person) -> None:
    task = alice.task()
    with ThreadPoolExecutor(20) as clients:
        answers = clients.map(lambda _: alice(COMPLETE, task).json(), range(101))
        states = [answer["is_completed"] for answer in answers]
    assert states.count(True) == states.count(False) + 1


def test_a_body_that_did_not_arrive_is_not_a_toggle(serve: Any) -> None:
    server, body = serve(*UVICORN), b'{"is_completed": true}'
    alice = Person(server.client)
    task, once = alice(COMPLETE, alice.task()).json(), copy(alice)
    for upgrade in ("h2c", "websocket", "TLS/1.2"):
        offer = {"Connection": "Upgrade", "Upgrade": upgrade}
        for content in (body, iter([body])):  # with its length, and in chunks
            with httpx2.Client(base_url=server.client.base_url) as once.client:
                answer = once(COMPLETE, task, content=content, headers=offer)
            assert answer.status_code in (200, 400)
            assert alice.sees(task)["is_completed"] is True
    empty = alice(COMPLETE, task, content=b"", headers={"Content-Length": "0"})
    assert empty.json()["is_completed"] is False


def test_a_deleted_task_is_gone(alice: Person) -> None:
    task, other = alice.task(), alice.task("other")
    answer = alice(DELETE, task)
    assert (answer.status_code, answer.content) == (204, b"")
    problem(alice(DELETE, task), 404)
    assert alice.tasks()["data"] == [other]


BAD_LIMITS = ["0", "201", "-1", "x", "", "1.5"]
BAD_OFFSETS = ["-1", "2147483648", "9" * 30, "x"]
BAD_TITLES = ["null", "1", '["x"]', "NaN", "1e999", '""', '" \\t\\n"', '"\\ud800"']
BAD_TITLES += ['"qqqq\\u0000"', f'"{"q" * 201}"']
BAD_STATES = ["null", "0", "1", '"yes"', '"true"', "[]", "{}"]
NOT_JSON = [b"\xff", b"[" * 60_000, b'{"x": ' + b"7" * 5000 + b"}"]
BAD_INPUT: list[tuple[list[Route], list[Any], str, list[Any]]] = [
    ([LIST], ["query", "limit"], "limit=%s", BAD_LIMITS),
    ([LIST], ["query", "offset"], "offset=%s", BAD_OFFSETS),
    ([LIST], ["query", "is_completed"], "is_completed=%s", ["maybe", "", "2", "null"]),
    ([CREATE, UPDATE], ["body", "title"], '{"title": %s}', BAD_TITLES),
    ([CREATE], ["body", "title"], "%s", ["{}"]),
    ([COMPLETE], ["body", "is_completed"], "%s", ["{}"]),
    ([UPDATE], ["body"], "%s", ["{}", '{"isCompleted": true}', '{"id": "1"}']),
    ([CREATE, UPDATE], ["body"], "%s", [""]),
    ([UPDATE, COMPLETE], ["body", "is_completed"], '{"is_completed": %s}', BAD_STATES),
    (WITH_BODY, ["body"], "%s", ["[]", '"qqqq"', "1", "null"]),
    (WITH_BODY, ["body", 16], '{"title": %s', ['"qqqq"']),
    (WITH_BODY, [], "", NOT_JSON),  # The answer has no place.
]


@pytest.mark.parametrize(("routes", "place", "form", "values"), BAD_INPUT)
def test_bad_input_is_a_400_that_names_the_place(
    alice: Person, routes: list[Route], place: list[Any], form: str, values: list[Any]
) -> None:
    task = alice.task()
    for route, value in [(route, value) for route in routes for value in values]:
        given = form % value if form else value
        name = "params" if route is LIST else "content"
        body = problem(answer := alice(route, task, **{name: given}), 400)
        assert [e["loc"] for e in body.get("errors", [])] == [place][: len(place)], (
            value
        )
        assert "qqqq" not in answer.text
    assert alice.tasks()["data"] == [task]


@each(WITH_BODY)
def test_a_body_that_is_not_called_json_is_a_400(alice: Person, route: Route) -> None:
    task, text = alice.task(), {"Content-Type": "text/plain"}
    problem(alice(route, task, content='{"is_completed": true}', headers=text), 400)
    assert alice.tasks()["data"] == [task]


def test_other_paths_need_no_token_and_no_statement(client: TestClient) -> None:
    tasks = f"/api/{NOBODY}/tasks"
    with before_each_statement(Mock(side_effect=ZeroDivisionError)):
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/", follow_redirects=True).url.path == "/docs"
        for path, status in [("/health", 200), ("/", 307)]:  # as monitors send it
            answer = client.head(path)
            assert (answer.status_code, answer.content) == (status, b"")
        for path in (f"{tasks}/", f"{tasks}/{NOBODY}/", f"{tasks}/a/b", "/api"):
            problem(client.get(path), 404)
        for path in (tasks, "/health"):
            answer = client.request("TRACE", path, headers={"Origin": PAGE})
            problem(answer, 405)
            assert "GET" in answer.headers["allow"]
            assert answer.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_a_page_may_send_any_header(start: Any, method: str) -> None:
    client = start(CORS_ORIGINS="https://a.example, http://[::1]:5173/")
    wanted = "authorization, content-type, sentry-trace, baggage, traceparent"
    headers = {"Access-Control-Request-Headers": wanted}
    headers["Access-Control-Request-Method"] = method
    for origin in ("https://a.example", "http://[::1]:5173", PAGE):
        answer = client.options("/health", headers=headers | {"Origin": origin})
        allowed = answer.headers.get("access-control-allow-origin")
        expected = (400, None) if origin == PAGE else (200, origin)
        assert (answer.status_code, allowed) == expected
        assert (
            origin == PAGE or answer.headers["access-control-allow-headers"] == wanted
        )


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
        assert (operation["operationId"], operation["tags"]) == (route.name, ["tasks"])
        assert operation["security"] == [{"HTTPBearer": []}]
        assert ("requestBody" in operation) == (route in WITH_BODY)
        formats = [each["schema"].get("format") for each in operation["parameters"]]
        assert formats.count("uuid") == route.path.count("{")
        (users,) = [p["examples"] for p in operation["parameters"] if "examples" in p]
        assert [UUID(users[name]["value"]).version for name in ("Alice", "Bob")] == [
            4,
            4,
        ]
        content = operation["responses"][str(route.status)].get("content")
        name = "TaskPage" if route is LIST else "TaskPublic"
        schema = {"schema": {"$ref": f"#/components/schemas/{name}"}}
        assert content == (None if route is DELETE else {"application/json": schema})
    assert not {"/", "/health"} & set(document["paths"])
    assert "Authorize" in document["info"]["description"]
    assert "persistAuthorization" in alice.client.get("/docs").text
    assert schemas["TaskUpdate"].keys() == {"title", "description", "type", "anyOf"}
    one_of = [each["required"] for each in schemas["TaskUpdate"]["anyOf"]]
    assert one_of == [["title"], ["is_completed"]]
    page, sent = schemas["TaskPage"]["example"], alice.tasks()
    assert page["data"] == [schemas["TaskPublic"]["example"]]
    texts = [json.dumps(each, sort_keys=True) for each in (page, sent)]
    assert len({re.sub("[0-9a-f]", "0", text) for text in texts}) == 1
    assert set(schemas["TaskPublic"]["required"]) == set(sent["data"][0])
    scheme = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    assert document["components"]["securitySchemes"] == {"HTTPBearer": scheme}
    named = re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document))
    assert set(named) == set(schemas) and "422" not in json.dumps(document)


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
    with database.connect(*["ANALYZE tasks", *no_scan] if POSTGRES else []) as beside:
        explain = "EXPLAIN" if POSTGRES else "EXPLAIN QUERY PLAN"
        beside.execute(f"{explain} {executed[0]}", executed[1])
        plan = str(beside.fetchall())
    assert "ix_tasks_user_id_created_at_id" in plan
    assert "Sort" not in plan and "TEMP B-TREE" not in plan


def test_the_tables_can_be_created_at_once(fresh: Database) -> None:
    load(DATABASE_URL=fresh.url)
    create, all_begin = sys.modules["app"].create_tables, threading.Barrier(8)
    with ThreadPoolExecutor(8) as workers:
        list(workers.map(lambda _: (all_begin.wait(60), create()), range(8)))
    assert fresh.sql("SELECT * FROM tasks") == fresh.sql("SELECT * FROM users") == []


def test_eight_workers_share_a_new_database(serve: Any, fresh: Database) -> None:
    server = serve(*UVICORN, "--workers", "8")
    server.wait_for("Application startup complete.", times=8)
    with ThreadPoolExecutor(20) as clients:
        list(clients.map(Person(server.client).task, map(str, range(40))))
    server.stop(signal.SIGKILL)  # The tasks are there nevertheless.
    assert fresh.sql("SELECT count(*) FROM tasks") == [(40,)]
    assert "Traceback" not in server.log


# --- A database that can't be used, and a learner's endpoints -------------------------

LEARNER = """
from app import *


@app.post("/pairs/{user_id}", status_code=204)
def create_pair(user_id: UserIdDep, _: AutocommitDep, fail: bool = False) -> None:
    with Session(transactions) as session:
        create_user(session, user_id)
        session.add(Task(user_id=user_id, title="first"))
        session.flush()
        if fail:
            raise HTTPException(499)
        session.add(Task(user_id=user_id, title="second"))
        session.commit()


@app.post("/users/{user_id}/renamed")
def rename_tasks(user_id: UserIdDep, session: AutocommitDep) -> list[Task]:
    tasks = session.exec(select(Task).where(Task.user_id == user_id)).all()
    for task in tasks:
        task.title = "renamed"
        session.add(task)
    session.commit()
    session.refresh(tasks[0])
    return tasks


@app.post("/open/{user_id}", status_code=204)
def leave_a_transaction_open(user_id: UserIdDep, session: AutocommitDep) -> None:
    session.exec(sqlalchemy.text("BEGIN"))
    session.exec(update(Task).values(title="qqqq"))
"""
PAIR = Route("create_pair", "POST", "/pairs/{user_id}", None, 204)
OPEN = Route("leave_a_transaction_open", "POST", "/open/{user_id}", None, 204)
RENAME = Route("rename_tasks", "POST", "/users/{user_id}/renamed", None, 200)


@pytest.fixture(scope="module", autouse=True)
def crowd(locked: Database, tmp_path_factory: Any) -> Iterator[Future[list[Response]]]:
    """Send 45 requests at once while the table is locked, beside the other tests."""
    folder = tmp_path_factory.mktemp("learner")
    (folder / "learner.py").write_text(LEARNER)
    command = ("-m", "uvicorn", "learner:app", "--port", "0", "--no-access-log")
    server = Server(*command, cwd=folder, DATABASE_URL=locked.url)
    alice = Person(server.client)
    routes, task = [UPDATE, COMPLETE, PAIR] * 15, alice.task()

    def send_all() -> list[Response]:
        with locked.connect(*LOCK) as lock, ThreadPoolExecutor(45) as clients:
            requests = [clients.submit(alice, route, task) for route in routes]
            for request in islice(as_completed(requests), 35):
                unavailable(request.result())
            assert server.client.get("/health").status_code == 200
            if POSTGRES:  # SQLite has given up the ten after five seconds.
                waiting = "FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                named = f"application_name = '{locked.name}'"
                lock.execute(f"SELECT count(*) {waiting} AND {named}")
                assert lock.fetchall() == [(10,)]
            lock.execute("COMMIT")
            answers = [request.result() for request in requests]
        assert alice(PAIR).status_code == 204
        return answers

    with ThreadPoolExecutor(1) as beside:
        yield beside.submit(send_all)
        server.stop(signal.SIGKILL)


@pytest.fixture
def learner(fresh: Database, tmp_path: Path) -> Iterator[TestClient]:
    """A client of an application to which a learner has added endpoints."""
    app = load(DATABASE_URL=fresh.url)
    (tmp_path / "learner.py").write_text(LEARNER)
    with patch.object(sys, "path", [str(tmp_path), *sys.path]), visit(app) as client:
        sys.modules.pop("learner", None)
        importlib.import_module("learner")
        yield client


def test_a_learner_can_add_endpoints_below(learner: TestClient) -> None:
    alice, executed = Person(learner), Mock()
    answer = alice(PAIR, params={"fail": True})
    assert (answer.status_code, answer.json()["title"]) == (499, "Error")
    assert alice.tasks()["data"] == []  # all of them or none
    assert alice(PAIR).status_code == 204
    with before_each_statement(executed):
        renamed = alice(RENAME).json()
    statements = [call.args[2].split()[0] for call in executed.call_args_list]
    assert statements == ["SELECT", "UPDATE", "SELECT"]  # nothing is read again
    assert [task["title"] for task in renamed] == ["renamed"] * 2
    assert alice.tasks()["data"] == sorted(renamed, key=lambda t: t["created_at"])[::-1]
    document = learner.get("/openapi.json").json()
    routes = (PAIR, RENAME, OPEN)
    added = [document["paths"].pop(route.path)["post"] for route in routes]
    assert "422" not in json.dumps(added) and "503" in added[0]["responses"]
    assert document["paths"] == json.loads(json.dumps(load().openapi()))["paths"]


def test_a_transaction_that_is_left_open_is_undone(learner: Any, fresh: Any) -> None:
    alice = Person(learner)
    for _ in range(3):
        alice.task("x")
        assert alice(OPEN).status_code == 204
    assert fresh.sql("SELECT title FROM tasks") == [("x",)] * 3


def test_a_slow_client_keeps_no_connection(learner: TestClient) -> None:
    alice, checked_out = Person(learner), list[int]()
    task, pool, app = alice.task(), sys.modules["app"].engine.pool, learner.app

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        async def watch(message: Any) -> None:
            checked_out.append(pool.checkedout())
            await send(message)

        await app(scope, receive, watch)

    alice.client = TestClient(watched)
    assert alice.sees(task) == task and checked_out == [0, 0]


def test_a_test_can_use_a_database_in_memory(database: Database) -> None:
    app = load(DATABASE_URL=database.url)
    shared: Any = {"check_same_thread": False}
    memory = create_engine("sqlite://", connect_args=shared, poolclass=StaticPool)
    SQLModel.metadata.create_all(memory)
    with Session(memory) as session:
        app.dependency_overrides[sys.modules["app"].get_session] = lambda: session
        alice = Person(TestClient(app))
        task = alice(UPDATE, alice.task(), json={"is_completed": True}).json()
        assert alice(COMPLETE, task).json()["is_completed"] is False
        assert alice(DELETE, task).status_code == 204
        assert alice.tasks()["data"] == []
    memory.dispose()


def test_a_second_test_client_waits_in_its_own_event_loop(start: Any) -> None:
    ten_at_a_time, client = threading.Barrier(10), start()
    for _ in range(2):
        with (
            TestClient(client.app) as another,
            before_each_statement(lambda *_: ten_at_a_time.wait(60)),
            ThreadPoolExecutor(20) as clients,
        ):
            list(clients.map(partial(ask, another), [sign()] * 20))


def test_a_defect_is_logged_without_the_values(serve: Any, fresh: Database) -> None:
    server = serve(*UVICORN, "--no-access-log")
    alice = Person(server.client)
    alice.headers["Connection"] = "close"  # because a 500 ends the connection
    if POSTGRES:
        fresh.sql("ALTER TABLE tasks ADD CONSTRAINT no_q CHECK (title <> 'qqqq')")
    else:
        when = "BEFORE INSERT ON tasks WHEN new.title = 'qqqq'"
        fresh.sql(f"CREATE TRIGGER q {when} BEGIN SELECT RAISE(ABORT, 'no_q'); END")
    problem(alice(CREATE, json={"title": "qqqq"}), 500)
    assert [alice.task()] == alice.tasks()["data"]
    fresh.sql("ALTER TABLE tasks RENAME COLUMN updated_at TO changed_at")
    for route in (LIST, CREATE):
        problem(alice(route), 500)
    server.stop()
    assert server.log.count("Traceback") == 3
    assert "no_q" in server.log and server.log.count("updated_at") >= 2
    assert "qqqq" not in server.log and alice.id not in server.log


def test_a_connection_that_cannot_be_made_is_a_503(caplog: Any) -> None:
    given: dict[str, Any] = {}

    def refuse(_dialect: Any, _record: Any, _args: Any, options: Any) -> None:
        given.update(options)
        raise psycopg2.OperationalError("connection refused")

    url = "postgres://alice:hidden@h1/x?sslmode=require&channel_binding=require"
    event.listen(Engine, "do_connect", refuse)
    unavailable(Person(visit(load(DATABASE_URL=url)))(LIST))
    event.remove(Engine, "do_connect", refuse)
    assert "connection refused" in caplog.text and "hidden" not in caplog.text
    expected = {"host": "h1", "user": "alice", "password": "hidden", "dbname": "x"}
    expected |= {"sslmode": "require", "channel_binding": "require"}
    expected |= {"client_encoding": "utf8", "connect_timeout": "5"}
    assert expected.items() <= given.items() and "options" not in given
    assert 0 < int(given["tcp_user_timeout"]) <= 10_000
    unanswered = int(given["keepalives_interval"]) * int(given["keepalives_count"])
    assert 0 < int(given["keepalives_idle"]) + unanswered <= 10


def test_a_server_that_closes_each_connection_is_a_503(alice: Person) -> None:
    def close(_connection: Any, _record: Any, _pool: Any) -> None:
        raise sqlalchemy.exc.DisconnectionError

    event.listen(Pool, "checkout", close)
    unavailable(alice(LIST))
    event.remove(Pool, "checkout", close)
    assert alice.tasks()["data"] == []


if POSTGRES:

    def test_a_closed_connection_is_not_used(start: Any, fresh: Database) -> None:
        all_are_used = threading.Barrier(10)
        alice = Person(start(DATABASE_URL=fresh.url))
        alice.task()
        clients = ThreadPoolExecutor(10)
        with before_each_statement(lambda *_: all_are_used.wait(60)), clients:
            list(clients.map(lambda _: alice.tasks(), range(10)))
        for _ in range(3):
            fresh.close_connections()
            for _ in range(15):
                alice.task()

    @each(ROUTES)
    def test_a_lost_one_is_a_503(start: Any, fresh: Database, route: Route) -> None:
        alice = Person(start(DATABASE_URL=fresh.url))
        task, read_only = alice.task(), "SET default_transaction_read_only = on"
        with before_each_statement(fresh.close_connections):
            unavailable(alice(route, task))
        assert alice.tasks()["data"] == [task]
        if route.method != "GET":
            with before_each_statement(lambda *given: given[1].execute(read_only)):
                unavailable(alice(route, task))
        assert alice(route, task).status_code == route.status

    @pytest.mark.parametrize("moment", ["engine_connect", "checkout"])
    def test_one_that_is_lost_early_is_a_503(
        learner: Any, fresh: Any, moment: str
    ) -> None:
        alice, target = Person(learner), Pool if moment == "checkout" else Engine
        event.listen(target, moment, fresh.close_connections, insert=True)
        unavailable(alice(PAIR))
        event.remove(target, moment, fresh.close_connections)
        assert alice(PAIR).status_code == 204

    def test_the_server_can_end_a_statement(start: Any, fresh: Database) -> None:
        limit = fresh.url.replace("options=", "options=-cstatement_timeout%3D100%20")
        alice = Person(start(DATABASE_URL=limit))
        task = alice.task()
        with fresh.connect(*LOCK):
            for route in ROUTES:
                unavailable(alice(route, task))
        assert alice.tasks()["data"] == [task]

    @pytest.mark.parametrize("hosts", [1, 2])
    @pytest.mark.parametrize("driver", ["postgres", "postgresql+psycopg2"])
    def test_a_url_works(start: Any, database: Any, driver: str, hosts: int) -> None:
        url = sqlalchemy.make_url(database.url).set(drivername=driver)
        if hosts == 2:  # Nobody listens on port 1.
            places = ["127.0.0.1:1", f"{url.host}:{url.port or 5432}"]
            url = url.set(host=None, port=None).update_query_dict({"host": places})
        more = "&sslmode=prefer&channel_binding=prefer&target_session_attrs=read-write"
        whole = url.render_as_string(hide_password=False) + more
        client = start(DATABASE_URL=whole, PGCLIENTENCODING="SQL_ASCII")
        assert Person(client).task("ü")["title"] == "ü"

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
                    for source in wait_for_data(other, [], [])[0]:
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
        questions.clear()
        for _ in range(2):
            with Session(sys.modules["app"].transactions) as session:
                session.connection().exec_driver_sql("SELECT 1")
        assert len(questions) == 6 and b"SET" not in b"".join(questions)

else:

    def test_a_locked_or_read_only_file_is_a_503(start: Any, fresh: Database) -> None:
        alice = Person(start(DATABASE_URL=f"{fresh.url}?timeout=0.01"))
        task, read_only = alice.task(), "PRAGMA query_only = ON"
        with fresh.connect(*LOCK):
            unavailable(alice(CREATE))
            assert alice.tasks()["data"] == [task]  # Readers do not wait.
        assert fresh.sql("PRAGMA journal_mode") == [("wal",)]
        alice.task()
        with before_each_statement(lambda *given: given[1].execute(read_only)):
            unavailable(alice(CREATE))

    def test_a_start_while_the_file_is_read_is_one_line(serve: Any, fresh: Any) -> None:
        create = ("-c", "import app; [app.create_tables() for _ in 'ab']")
        assert serve(*create).wait() == 0
        fresh.sql("PRAGMA journal_mode = DELETE")
        with fresh.connect("BEGIN", "SELECT * FROM sqlite_master"):
            server = serve(*UVICORN, DATABASE_URL=f"{fresh.url}?timeout=0.01")
            assert server.wait() != 0
        assert "database is locked" in server.log and "Traceback" not in server.log
        assert serve(*create).wait() == 0
        assert fresh.sql("PRAGMA journal_mode") == [("wal",)]

    @pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
    @pytest.mark.parametrize("command", [UVICORN, ("app.py",)])
    def test_one_file_is_left(serve: Any, fresh: Any, command: Any, by: Any) -> None:
        server = serve(*command, PORT=free_port())
        alice = Person(server.client)
        with ThreadPoolExecutor(8) as clients:
            list(clients.map(alice.task, map(str, range(20))))
        server.stop(by)
        assert "Traceback" not in server.log
        assert os.listdir(fresh.file.parent) == ["tasks.db"]
        assert fresh.sql("SELECT count(*) FROM tasks") == [(20,)]


# --- Start ----------------------------------------------------------------------------

KEYS_URL = "http://localhost/keys"
BAD_URLS = ["file:///etc/passwd", "http://", "auth.example.com/keys"]
PEM = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAhidden\n-----END PUBLIC KEY-----"
BAD_DATABASES = ["nonsense", "mysql://u:hidden@localhost/x", "sqlite://host/tasks.db"]
BAD_DATABASES += ["postgresql+asyncpg://u:hidden@h/x", "postgresql://u:hidden@h:port/x"]
BAD_DATABASES += ["sqlite://", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true"]
BAD_DATABASES += ["postgresql://u:p@hidden@h/x", "postgresql://u:p@hid/den@h/x"]
BAD_ORIGINS = [
    "https://*.vercel.app",
    "localhost:3000",
    "https://a.example/app",
    "null",
]
BAD_ORIGINS += ['"https://a.example"', "'https://a.example'", "https://A.example"]
BAD_SETTINGS: list[tuple[str, dict[str, str]]] = [
    ("JWT_SECRET", {"JWT_SECRET": " "}),
    ("JWT_JWKS_URL", {"JWT_JWKS_URL": KEYS_URL}),
    ("32", {"JWT_SECRET": "hidden" + "x" * 25}),
    ("PEM", {"JWT_SECRET": PEM}),
    *(("JWT_JWKS_URL", {"JWT_SECRET": "", "JWT_JWKS_URL": url}) for url in BAD_URLS),
    *(("DATABASE_URL", {"DATABASE_URL": url}) for url in BAD_DATABASES),
    *(("CORS_ORIGINS", {"CORS_ORIGINS": f"{PAGE},{o}"}) for o in BAD_ORIGINS),
    *(("PORT", {"PORT": port}) for port in ("abc", "0", "65536", "-1", "8000.0")),
]


@pytest.mark.parametrize(("named", "settings"), BAD_SETTINGS)
def test_a_bad_setting_is_refused(capfd: Any, named: str, settings: Any) -> None:
    with pytest.raises(SystemExit) as end:
        load(**settings)
    output = capfd.readouterr()
    (line,) = output.err.splitlines()
    assert named in line and "hidden" not in line
    assert end.value.code == 3 and not output.out  # uvicorn does not try again


def test_a_bad_start_is_one_line_in_the_log_and_is_not_repeated(serve: Any) -> None:
    lost = "postgres://u:hidden@127.0.0.1:1/x"
    starts = [("JWT_SECRET", "", "2"), *(("DATABASE_URL", lost, n) for n in "12")]
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
    example, source = (HERE / ".env.example").read_text(), (HERE / "app.py").read_text()
    settings = re.findall(r'setting\("(\w+)"', source)
    assert set(re.findall(r"(?m)^(?:# )?([A-Z_]+)=", example)) == set(settings)
    assert set(settings) == set(SETTINGS)
    for name in ("app.py", "models.py"):
        shutil.copy(HERE / name, tmp_path)
    (tmp_path / ".env").write_text(example)
    elsewhere: Any = {"cwd": tmp_path.parent, "PYTHONPATH": str(tmp_path)}
    unset = f"import os, sys; [os.environ.pop(name) for name in {SETTINGS}]"
    refused = serve("-c", f"{unset}; import app", **elsewhere)
    assert refused.wait() == 3 and "JWT_SECRET" in refused.log
    for name, value in [("JWT_SECRET", SECRET), ("DATABASE_URL", fresh.url)]:
        example = re.sub(f"(?m)^{name}=.*", f"{name}= {value} ", example)
    (tmp_path / ".env").write_text(example)
    run = "import app, uvicorn; uvicorn.run(app.app, port=0)"
    Person(serve("-c", f"{unset}; {run}", **elsewhere).client).task()
    assert fresh.sql("SELECT title FROM tasks") == [("Buy milk",)]
    empty = serve("-c", "import app", JWT_SECRET="", **elsewhere)  # wins over `.env`
    assert empty.wait() == 3


def test_an_import_does_nothing_else(serve: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for url in ("", f"postgresql://u@127.0.0.1:{listener.getsockname()[1]}/x"):
            process = serve("-c", "import app", cwd=tmp_path, DATABASE_URL=url)
            assert (process.wait(), process.log) == (0, "")
        assert wait_for_data([listener], [], [], 0)[0] == []  # Nobody connects.
    assert os.listdir(tmp_path) == []


def test_the_demo_needs_no_settings(serve: Any, tmp_path: Path) -> None:
    made: dict[str, list[Any]] = {}
    demo: Any = {"cwd": tmp_path, "DATABASE_URL": "", "JWT_SECRET": ""}
    for more in ({}, {"JWT_ISSUER": "https://auth.example", "JWT_AUDIENCE": "tasks"}):
        server = serve(str(HERE / "app.py"), PORT=(port := free_port()), **demo, **more)
        server.wait_for("Uvicorn running")
        assert str(tmp_path / "tasks.db") in server.log
        assert f"http://127.0.0.1:{port}/docs\n" in server.log
        lines = server.log.splitlines()
        commands = [shlex.split(line) for line in lines if line.startswith("curl ")]
        for n, (_curl, url, _option, header, *others) in enumerate(commands):
            client = httpx2.Client(headers=dict([header.split(": ")]))
            user, token = url.split("/")[4], header.split()[-1]
            assert user in lines and token in lines
            if n % 2:
                new = client.post(url, json=json.loads(others[-1])).json()
                made.setdefault(user, []).insert(0, new)
            assert client.get(url).json()["data"] == made.get(user, [])
            upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
            upgrade |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "A" * 24}
            assert client.get(url, headers=upgrade).status_code == 200
            client.close()
        server.stop(signal.SIGINT)
        assert "Traceback" not in server.log and os.listdir(tmp_path) == ["tasks.db"]
    assert [len(tasks) for tasks in made.values()] == [2, 2]
    several = {"PORT": free_port(), "WEB_CONCURRENCY": "2"}  # as some hosts set it
    server = serve(str(HERE / "app.py"), cwd=tmp_path, **several)
    Person(server.client).task()
    assert "curl" not in server.log  # Only the demo prints tokens.


# --- Key sets -------------------------------------------------------------------------


@pytest.mark.parametrize("key_id", ["RS256", "ES256", "EdDSA"])
def test_a_rotated_key_works_without_a_restart(issuer: Issuer, key_id: str) -> None:
    assert issuer.status("first") == 200
    issuer.keys.append(jwk(key_id))
    for seconds, status in [(29, 401), (2, 200)]:
        issuer.seconds += seconds
        assert (issuer.status(key_id), issuer.status("first")) == (status, 200)
    issuer.keys = [jwk(key_id)]
    for seconds, status in [(299, 200), (2, 401)]:
        issuer.seconds += seconds
        assert (issuer.status(key_id), issuer.status("first")) == (200, status)
    assert issuer.look_ups == 3
    assert not any("Python" in agent for agent in issuer.agents)


def test_a_key_set_may_hold_what_it_likes(issuer: Issuer) -> None:
    several = [jwk("RS256", kid="one", alg=f"RS{n}") for n in (384, 512, 256)]
    several += [jwk(key_id, kid="same") for key_id in ("first", "EdDSA", "ES256")]
    odd: list[Any] = [jwk("first", use="enc"), {"kty": "oct", "k": "eA", "kid": "HS"}]
    odd += [{}, "x", 1, {"kty": "RSA", "kid": "first"}, {"kty": "oct", "kid": "HS"}]
    odd += [jwk("RS256", alg=alg) for alg in ("none", "XX", ["RS256"], 1)]
    odd += [jwk("P384", kid="ES256", alg="ES256")]
    odd += [jwk("first", kid=None), jwk("first", kid=5)]
    private = [jwk(key_id, private=True) for key_id in ("RS256", "ES256", "EdDSA")]
    issuer.keys = [
        *odd,
        *several,
        *private,
        jwk("ES256", kid="bare", alg=None, use=None),
    ]
    accepted = [("RS256", "one"), ("RS256", ""), ("ES256", ""), ("EdDSA", "")]
    accepted += [(key_id, "same") for key_id in ("first", "EdDSA", "ES256")]
    for key_id, name in [*accepted, ("ES256", "bare")]:
        assert issuer.status(key_id, name) == 200, (key_id, name)
    assert issuer.status("RS256", "same") == issuer.status("first") == 401


def test_a_token_that_fits_no_published_key_is_refused(issuer: Issuer) -> None:
    issuer.keys += [jwk(name) for name in ("RS256", "ES256", "EdDSA")]
    first, eddsa = {"kid": "first"}, {"alg": "EdDSA"}
    tokens = [
        sign(key=KEYS["RS256"], header={"kid": "ES256"}),
        sign(key=KEYS["ES256"], header={"kid": "EdDSA"}),
        sign(key=KEYS["EdDSA"], header=first),
        sign(key=KEYS["first"]),
        sign(key=json.dumps(issuer.keys)[:64], header=first),
        *(unsigned(first | {"alg": name}) for name in ("none", "EdDSA", "RS256")),
        *(unsigned(eddsa | {"kid": key_id}) for key_id in (None, [1], "odd")),
        *(token for _, token in EACH_BAD_TOKEN),
    ]
    assert issuer.status("first") == 200
    for token in tokens:
        problem(ask(issuer.client, token), 401)
    assert issuer.status("first") == 200
    assert issuer.look_ups == 1


def test_requests_at_once_make_one_look_up(issuer: Issuer) -> None:
    names = ["first"] * 30 + [str(n) for n in range(30)]
    with ThreadPoolExecutor(20) as clients:
        statuses = clients.map(partial(issuer.status, "first"), names)
        assert list(statuses) == [200] * 30 + [401] * 30
    assert issuer.look_ups == 1


NOT_KEY_SETS = [b"<html>", b"[]", b'{"keys": []}', b'{"keys": 1}', b"\xff", b"[", b"{}"]
NOT_KEY_SETS += [b"[" * 100_000, b"1" * 5000, b'{"keys": [{"kty": "oct"}]}', b" "]
NOT_KEY_SETS += [b'{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": ["x"]}]}']
NOT_KEY_SETS += [json.dumps({"keys": [jwk("first", use="enc")]}).encode(), b"403"]


@pytest.mark.parametrize("reply", NOT_KEY_SETS)
def test_the_last_keys_stay_after_a_failure(
    issuer: Any, reply: Any, caplog: Any
) -> None:
    failure, success = (reply, 403 if reply == b"403" else 200), (b"", 200)
    issuer.reply, issuer.status_code = failure
    for seconds in (0, 9, 2):  # There is no further attempt for ten seconds.
        issuer.seconds += seconds
        detail = problem(ask(issuer.client, unsigned({"alg": "ES256"})), 503)["detail"]
        assert "key set" in detail and "change" not in detail
        problem(ask(issuer.client, "x"), 401)
    assert issuer.look_ups == caplog.text.count("JWT_JWKS_URL can't be used") == 2
    issuer.reply, issuer.status_code = success
    issuer.seconds += 11
    assert issuer.status("first") == 200
    issuer.reply, issuer.status_code = failure
    issuer.seconds += 301
    for seconds in (0, 9, 2):
        issuer.seconds += seconds
        assert (issuer.status("first"), issuer.status("EdDSA")) == (200, 401)
    assert issuer.look_ups == 5


def test_a_look_up_has_five_seconds_and_blocks_no_one_else(issuer: Issuer) -> None:
    assert issuer.status("first") == 200 and issuer.asked.acquire(timeout=60)
    issuer.slow = True  # It sends a byte now and then, for ever.
    issuer.seconds += 31
    with ThreadPoolExecutor(1) as waiting:
        unknown = waiting.submit(issuer.status, "EdDSA")
        assert issuer.asked.acquire(timeout=60)
        assert issuer.status("first") == 200
        assert issuer.client.get("/health").status_code == 200
        assert not unknown.done()
        assert unknown.result() == 401


# --- The other files, and the crowd ---------------------------------------------------


def test_every_package_that_is_imported_is_pinned() -> None:
    source = (HERE / "app.py").read_text() + (HERE / "models.py").read_text()
    packages = set(re.findall(r"(?m)^(?:from|import) (\w+)", source))
    owners = importlib.metadata.packages_distributions()
    pin = re.compile(r"(?m)^([\w-]+)(?:\[.*\])?==(\S+)$")
    pins = dict(pin.findall((HERE / "requirements.txt").read_text().lower()))
    for package in packages - sys.stdlib_module_names - {"models"}:
        (distribution,) = set(owners[package])
        assert pins[distribution.lower()] == importlib.metadata.version(distribution)


PASTED = """
def test_a_comment_touches_its_task(alice: Person) -> None:
    task = alice.task()
    route = Route("comment", "POST", f"{TASK}/comments", {"title": "x"}, 201)
    assert alice(route, task).json()["task_id"] == task["id"]
    assert alice.sees(task)["updated_at"] > task["updated_at"]
    problem(alice(route, uuid4()), 404)
    assert alice(DELETE, task).status_code == 204


def test_a_due_date_is_kept_and_removed(alice: Person) -> None:
    task = alice(CREATE, json={"title": "x", "due_date": "2026-12-24"}).json()
    assert alice(COMPLETE, task).json()["due_date"] == "2026-12-24"
    assert alice(UPDATE, task, json={"due_date": None}).json()["due_date"] is None
"""
FIELDS = [
    ("is_completed: bool = False", "due_date: date | None = None"),
    ("title: Title", "due_date: date | None = None"),
    ("title: Title | MISSING = MISSING", "due_date: date | None | MISSING = MISSING"),
    ("is_completed: bool", "due_date: date | None"),
]


def test_what_the_readme_adds_works(serve: Any, tmp_path: Path) -> None:
    readme, names = (
        (HERE / "README.md").read_text(),
        ("models.py", "app.py", "test_app.py"),
    )
    files = {name: (HERE / name).read_text() for name in names}
    files["models.py"] += "\nfrom sqlmodel import ForeignKeyConstraint\n"
    blocks = re.findall(r"```python\n# (\w+\.py).*\n([^`]*)```", readme)
    for name, block in [] if "class Project" in files["models.py"] else blocks:
        before, mark, after = files[name].partition("\n# --- Start")
        files[name] = f"{before}\n\n{block}\n{mark}{after}"
    for old, new in FIELDS:
        both = f"    {old}\n    {new}\n"
        files["models.py"] = files["models.py"].replace(f"    {old}\n", both, 1)
    files["models.py"] = f"from datetime import date\n{files['models.py']}"
    files["test_app.py"] += PASTED
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    pytest_k = ("-m", "pytest", "-k", "project or comment or due_date")
    tests = serve(*pytest_k, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert tests.wait() == 0 and "3 passed" in tests.log, tests.log


def test_ten_requests_wait_for_a_lock_and_the_others_are_answered(crowd: Any) -> None:
    statuses = [answer.status_code for answer in crowd.result(timeout=60)]
    assert statuses.count(503) == 35 or not POSTGRES
