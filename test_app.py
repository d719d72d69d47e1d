"""The specification of the Task API, as tests, most of them of its public interface.

    python -m pytest                                     on temporary SQLite files
    TEST_DATABASE_URL=postgresql://… python -m pytest    on PostgreSQL, in new schemas

What DATABASE_URL and `.env` name is not touched. Each test has an application of its own.
"""

import json
import os
import re
import runpy
import shlex
import signal
import socket
import sys
import threading
import time
import traceback
from collections import namedtuple
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from functools import cached_property, partial
from http.client import responses as PHRASES
from itertools import islice
from pathlib import Path
from queue import Queue
from socketserver import BaseRequestHandler, ThreadingTCPServer
from subprocess import PIPE, STDOUT, Popen
from typing import Any
from unittest.mock import Mock, patch
from uuid import UUID, uuid4

import httpx2
import jwt
import psycopg2
import pytest
import sqlalchemy
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from fastapi import HTTPException
from fastapi.testclient import TestClient
from sqlalchemy import Engine, NullPool, Pool, StaticPool, create_engine, event
from sqlmodel import Session, SQLModel, select

pytestmark = pytest.mark.filterwarnings("error")
HERE, POSTGRES = Path(__file__).parent, os.environ.get("TEST_DATABASE_URL", "")
SECRET = "a secret of the tests, in which ${HOME} stays as it is"
NOBODY, OK = "11111111-1111-4111-8111-111111111111", b"HTTP/1.0 200 OK\r\n\r\n"
PAGE, PROBLEM_JSON = "http://localhost:3000", "application/problem+json"
UVICORN = ("-m", "uvicorn", "app:app", "--ws", "none", "--port", "0")
ALLOWED, MAYBE = "access-control-allow-origin", "may have been made"
SETTINGS = ["DATABASE_URL", "JWT_SECRET", "JWT_JWKS_URL", "JWT_ISSUER", "JWT_AUDIENCE"]
SETTINGS += ["CORS_ORIGINS", "PORT"]
os.environ |= dict.fromkeys(SETTINGS, "") | {"JWT_SECRET": SECRET}
LOCK = ["BEGIN", "LOCK TABLE tasks"] if POSTGRES else ["BEGIN IMMEDIATE"]
FOREIGN_KEYS = [] if POSTGRES else ["PRAGMA foreign_keys = ON"]
SHORT_WAIT = "SET statement_timeout = 300" if POSTGRES else "PRAGMA busy_timeout = 10"
READ_ONLY = "SET default_transaction_read_only=1" if POSTGRES else "PRAGMA query_only=1"

# --- The database, the application, people, servers and their auth system -------------


class Database(namedtuple("Database", ["url", "folder"])):
    """A new database: a SQLite file, or a schema of the PostgreSQL server."""

    @contextmanager
    def connect(self, *statements: str) -> Iterator[Any]:
        """Execute statements beside the application, in autocommit. Yield a cursor."""
        url = re.sub("^postgres(ql)?:", "postgresql+psycopg2:", self.url)
        engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with closing(engine.raw_connection()) as connection:
            cursor = connection.cursor()
            for statement in (*FOREIGN_KEYS, *statements):
                cursor.execute(statement)
            yield cursor

    def sql(self, *statements: str) -> Any:
        with self.connect(*statements) as cursor:
            return cursor.fetchall() if cursor.description else None

    def close_connections(self, *_: object) -> None:
        """Return when the server has closed every connection of the application."""
        application = "application_name = current_setting('application_name')"
        terminate = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        self.sql(f"{terminate} WHERE {application} AND pid <> pg_backend_pid()")


def new_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    name, folder = f"test_{uuid4().hex}", tmp_path_factory.mktemp("db")
    if not POSTGRES:
        yield Database(f"sqlite:///{folder}/tasks.db", folder)
        return
    more = f"application_name={name}&options=-csearch_path%3D{name}"
    db = Database(f"{POSTGRES}{'&' if '?' in POSTGRES else '?'}{more}", folder)
    db.sql(f"CREATE SCHEMA {name}")
    yield db
    db.close_connections()  # of servers that were killed
    db.sql(f"DROP SCHEMA {name} CASCADE")


def on(moment: str, do: Callable[..., Any], target: Any = Engine) -> ExitStack:
    """Call a function at each event of SQLAlchemy, from now to the end of the `with`."""
    event.listen(target, moment, do, insert=True)
    end = ExitStack()
    end.callback(event.remove, target, moment, do)
    return end


def load(**settings: str) -> Any:
    """Return a client of the application, imported anew with these settings."""
    sys.modules.pop("app", None)
    connect = on("do_connect", Mock(side_effect=ZeroDivisionError))
    with patch.dict(os.environ, settings), connect:  # An import does not connect.
        from app import app
    return TestClient(app, raise_server_exceptions=False, follow_redirects=False)


Route = namedtuple("Route", ["name", "method", "path", "body", "status"])
TASKS, TASK = "/api/{user_id}/tasks", "/api/{user_id}/tasks/{task_id}"
LIST = Route("list_tasks", "GET", TASKS, None, 200)
CREATE = Route("create_task", "POST", TASKS, {"title": "x"}, 201)
GET = Route("get_task", "GET", TASK, None, 200)
UPDATE = Route("update_task", "PUT", TASK, {"title": "x"}, 200)
COMPLETE = Route("complete_task", "PATCH", f"{TASK}/complete", None, 200)
DELETE = Route("delete_task", "DELETE", TASK, None, 204)
WITH_BODY = [CREATE, UPDATE, COMPLETE]
ROUTES = [LIST, GET, *WITH_BODY, DELETE]
KEYS: dict[str, tuple[str, Any]] = {
    "first": ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
    "EdDSA": ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
    "ES256": ("ES256", ec.generate_private_key(ec.SECP256R1())),
    "P384": ("ES384", ec.generate_private_key(ec.SECP384R1())),
    "RS256": ("RS256", rsa.generate_private_key(65537, 2048)),
}
each = partial(pytest.mark.parametrize, "route", ids=lambda route: route.name)


def sign(*, key: Any = ("HS256", SECRET), header: Any = None, **claims: Any) -> str:
    """Return a token of the auth system. A claim that is None is left out."""
    claims = {"sub": NOBODY, "exp": time.time() + 3600} | claims
    given = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(given, key[1], key[0], header)


def forge(header: Any) -> str:
    """Return a good token with another header, which the signature does not fit."""
    encoded = jwt.utils.base64url_encode(json.dumps(header).encode()).decode()
    return f"{encoded}.{sign().partition('.')[2]}"


def ask(client: httpx2.Client, token: str) -> httpx2.Response:
    """Return the answer to a request for NOBODY's tasks."""
    headers = {b"Authorization": f"Bearer {token}".encode("latin-1")}
    return client.get(f"/api/{NOBODY}/tasks", headers=headers)


class Person:
    """A user of the auth system, with a client and a valid token."""

    def __init__(self, client: httpx2.Client) -> None:
        self.client, self.id = client, str(uuid4())
        self.hex = f"'{UUID(self.id).hex}'"  # the id in SQL
        self.headers = {"Authorization": f"Bearer {sign(sub=self.id)}"}
        self.headers |= {"Content-Type": "application/json", "Origin": PAGE}

    def __call__(self, route: Route, task: Any = None, **more: Any) -> httpx2.Response:
        """Send a request to an endpoint. `task` is a task or an id."""
        task_id = task["id"] if isinstance(task, dict) else task
        path = route.path.format(user_id=more.pop("user", self.id), task_id=task_id)
        more["headers"] = self.headers | more.get("headers", {})
        return self.client.request(route.method, path, **{"json": route.body} | more)

    def task(self, title: str = "Buy milk") -> Any:
        return self(CREATE, json={"title": title}).raise_for_status().json()

    def tasks(self, **query: Any) -> Any:
        return self(LIST, params=query).raise_for_status().json()

    def sees(self, task: Any) -> Any:
        return self(GET, task).json()


def problem(answer: httpx2.Response, status: int, words: str = "") -> Any:
    """Check that an answer is an error in the one form, and return its body."""
    body, more = answer.json(), {"errors"} if status == 400 else set()
    fixed = {"type": "about:blank", "title": PHRASES[status], "status": status}
    assert (answer.status_code, body) == (status, body | fixed)
    assert set(body) - more == {*fixed, "detail"} and words in body["detail"]
    assert answer.headers["content-type"] == PROBLEM_JSON
    assert "retry-after" not in answer.headers
    return body


class Server(Popen[str]):
    """A real process. `log` is what it has printed, as far as it was read."""

    def __init__(self, *command: str, cwd: Path = HERE, **settings: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port, self.log = str(listener.getsockname()[1]), ""
        env = os.environ | settings | {"PORT": self.port}
        more: Any = {"stdout": PIPE, "stderr": STDOUT, "env": env, "process_group": 0}
        more |= {"cwd": cwd, "text": True, "pipesize": 2**20}  # It is not always read.
        super().__init__([sys.executable, *command], **more)

    def wait_for(self, words: str, times: int = 1) -> None:
        """Return when the process has printed the words that many times."""
        while self.log.count(words) < times:
            self.log += (self.stdout or sys.stdin).readline() or pytest.fail(self.log)

    @cached_property
    def client(self) -> httpx2.Client:
        self.wait_for("Uvicorn running on")
        url = re.findall(r"running on (http://\S+)", self.log)[0]
        no_pool = httpx2.Limits(max_keepalive_connections=0)
        return httpx2.Client(base_url=url, timeout=600, limits=no_pool)

    def stop(self, by: int = 0) -> int:
        """Send a signal, or none, to all of it, and return its exit code."""
        if self.returncode is None:
            os.killpg(self.pid, by)  # 0 is no signal.
            self.log += self.communicate()[0]
        return self.returncode

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGKILL)


def jwk(key_id: str, private: bool = False, **others: Any) -> dict[str, Any]:
    """Return a key of KEYS as a member of a key set. A member that is None is left out."""
    algorithm, key = KEYS[key_id]
    encoder: Any = jwt.get_algorithm_by_name(algorithm)
    members = json.loads(encoder.to_jwk(key if private else key.public_key()))
    members |= {"kid": key_id, "alg": algorithm, "use": "sig"} | others
    return {name: value for name, value in members.items() if value is not None}


class Issuer(ThreadingTCPServer):
    """An auth system with a key set, and an application that trusts its tokens."""

    daemon_threads, seconds = True, 0.0

    def __init__(self, start: Callable[..., TestClient]) -> None:
        super().__init__(("127.0.0.1", 0), BaseRequestHandler)
        self.look_ups, self.is_fast = Queue[str](), threading.Event()
        self.is_fast.set()
        self.publish(jwk("first"))
        url = f"http://127.0.0.1:{self.server_address[1]}/jwks"
        self.client = start(JWT_SECRET="", JWT_JWKS_URL=url)

    def publish(self, *keys: Any) -> None:
        self.reply = OK + json.dumps({"keys": keys}).encode()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer; if the auth system is not fast, byte by byte in eight seconds."""
        self.look_ups.put(request.recv(65536).decode())
        for byte in self.reply:
            request.sendall(bytes([byte]))
            self.is_fast.wait(8 / len(self.reply))

    def status(self, key_id: str, name: str = "") -> int:
        """Return the status for a token that names its key, perhaps by another name."""
        token = sign(key=KEYS[key_id], header={"kid": name or key_id})
        return ask(self.client, token).status_code


@pytest.fixture
def run(db: Database) -> Iterator[Callable[..., Any]]:
    """Return a function that runs `load` or a Server until the end of the test."""
    with ExitStack() as stack:
        url = {"DATABASE_URL": db.url}
        yield lambda what, *args, **new: stack.enter_context(what(*args, **url | new))


db = pytest.fixture(new_database)
locked = pytest.fixture(new_database, scope="module")
start = pytest.fixture(lambda run: partial(run, load))
serve = pytest.fixture(lambda run: partial(run, Server))
client = pytest.fixture(lambda start: start())
alice = pytest.fixture(lambda client: Person(client))
before_each_statement = partial(on, "before_cursor_execute")


@pytest.fixture
def issuer(start: Callable[..., TestClient]) -> Iterator[Issuer]:
    with Issuer(start) as issuer, ThreadPoolExecutor(1) as server:
        server.submit(issuer.serve_forever, 0.01)
        with patch("app.time", Mock(wraps=time, monotonic=lambda: issuer.seconds)):
            yield issuer
        issuer.is_fast.set()
        issuer.shutdown()


# --- Tokens ---------------------------------------------------------------------------

LATER, HS256 = time.time() + 3600, {"alg": "HS256"}
BAD_SUBJECTS = [1, [NOBODY], "", "alice", f"{{{NOBODY}}}", f"{NOBODY}\n", "1" * 32]
BAD_PAYLOADS = [b"[1]", b"[" * 5000, b"\xff", b'{"exp": 1' + b"0" * 5000 + b"}", b'"x"']
NO_TOKENS = [jwt.api_jws.encode(payload, SECRET) for payload in BAD_PAYLOADS]
NO_TOKENS += ["x", "..", "a.b.c", "\xff", f"{sign()}.", forge([])]
BAD_TOKENS = {
    "MissingRequiredClaimError": [sign(exp=None), sign(sub=None)],
    "ExpiredSignatureError": [sign(exp=e) for e in (1, -1, time.time() - 31)],
    "ImmatureSignatureError": [sign(nbf=LATER), sign(iat=LATER)],
    "InvalidIssuedAtError": [sign(iat={})],
    "InvalidSubjectError": [sign(sub=subject) for subject in BAD_SUBJECTS],
    "InvalidSignatureError": [sign(key=("HS256", SECRET[::-1])), forge(HS256)],
    "InvalidAlgorithmError": [forge({"alg": a}) for a in ("none", ["x"], "HS512")],
    "InvalidTokenError": [forge(HS256 | {"kid": 1}), forge(HS256 | {"crit": []})],
    "DecodeError": [*NO_TOKENS, sign(exp="x"), sign(exp=float("inf")), sign(nbf=[1])],
}


@pytest.mark.parametrize("check", BAD_TOKENS)
def test_a_bad_token_is_a_401(client: TestClient, check: str) -> None:
    problem(client.get(f"/api/{NOBODY}/tasks"), 401)
    for token in BAD_TOKENS[check]:
        problem(answer := ask(client, token), 401, check)
        assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
        assert len(token) < 10 or token not in answer.text


def test_issuer_and_audience_are_checked_if_set(client: Any, start: Any) -> None:
    strict = start(JWT_ISSUER=" https://auth.example ", JWT_AUDIENCE="tasks\n")
    right: Any = {"iss": "https://auth.example", "aud": ["other", "tasks"]}
    right |= {"sub": NOBODY.upper(), "roles": ["x" * 8000]}
    for claim, seconds in [("exp", -20), ("nbf", 20), ("iat", 20)]:  # the leeway
        token = sign(**right | {claim: time.time() + seconds})
        assert ask(strict, token).status_code == 200
    for claim, check in [("iss", "Issuer"), ("aud", "Audience")]:
        for value, error in [("other", f"Invalid{check}Error"), (None, "Missing")]:
            token = sign(**right | {claim: value})
            problem(ask(strict, token), 401, error)
            assert ask(client, token).status_code == 200


# --- The six endpoints, their document and their tables -------------------------------


@each(ROUTES)
def test_each_endpoint_is_documented_and_one_statement(alice: Any, route: Any) -> None:
    bob, basic = Person(alice.client), {"Authorization": "Basic YTpi"}
    task, other, own = alice.task(), alice.task("other"), bob.task()
    problem(alice(route, task, user="1"), 400)
    answers = {400: alice(CREATE, json={}), 401: alice(route, headers=basic)}
    answers |= {403: bob(route, task, user=alice.id)}
    for status, error in [(500, TimeoutError), (503, sqlalchemy.exc.TimeoutError)]:
        with before_each_statement(Mock(side_effect=error("qqqq"))):
            answers[status] = alice(route, task)
    if route.path != TASKS:
        answers[404] = bob(route, task)
        assert problem(bob(route, uuid4()), 404) == answers[404].json()
        problem(bob(route, "1"), 400)
    assert alice.tasks()["data"] == [other, task]
    with before_each_statement(executed := Mock()):
        success = alice(route, task)
    (statement,) = [call.args[2] for call in executed.call_args_list]
    assert "user_id" in statement.rpartition("WHERE")[2].partition("RETURNING")[0]
    document = alice.client.get("/openapi.json").json()
    shown = document["paths"][route.path][route.method.lower()]["responses"]
    errors = {"400", "401", "403", "404", "413", "500", "503", "default"}
    assert set(shown) == {str(route.status)} | errors
    for status, answer in answers.items():
        body = problem(answer, status)
        form = {"schema": {"$ref": "#/components/schemas/Problem"}, "example": body}
        described = {"description": body["title"], "content": {PROBLEM_JSON: form}}
        assert shown[str(status)] == described
        assert "qqqq" not in answer.text
        assert answer.headers[ALLOWED] == success.headers[ALLOWED] == PAGE
    assert answers[401].headers["www-authenticate"] == "Bearer"
    assert success.status_code == route.status
    assert route is not DELETE or alice(GET, task).status_code == 404
    assert (alice.sees(other), bob.tasks()["data"]) == (other, [own])


def test_the_list_is_a_window_with_a_filter(alice: Person, db: Database) -> None:
    with before_each_statement(statement := Mock()):
        assert alice.tasks()["meta"] == {"total": 0, "limit": 50, "offset": 0}
    assert statement.call_count == 1
    first, *others = [alice.task(str(n)) for n in range(51)]
    todo, done = others[::-1], [alice(COMPLETE, first).json()]
    lists: list[Any] = [({}, todo + done)]
    lists += [({"is_completed": True}, done), ({"is_completed": False}, todo)]
    windows = [(1, 0), (2, 1), (2, 50), (200, 0), (3, 51), (1, 2**31 - 1)]
    for query, tasks in lists:
        assert alice.tasks(**query)["data"] == tasks[:50]
        for limit, offset in windows:
            window = {"limit": limit, "offset": offset}
            page = alice.tasks(**query, **window)
            assert page["data"] == tasks[offset : offset + limit]
            assert page["meta"] == window | {"total": len(tasks)}
    db.sql("UPDATE tasks SET created_at = '2026-01-01'")
    ids = [task["id"] for task in alice.tasks(limit=60)["data"]]
    assert ids == sorted(ids)[::-1]  # newest first, ties by id


OTHERS: Any = {"id": NOBODY.replace("-4", "-1"), "user_id": NOBODY, "extra": {}}
OTHERS |= dict.fromkeys(["completed_at", "created_at", "updated_at"], "2000-01-01")


@pytest.mark.parametrize("title", ["x" * 200, "\U0001f95b" * 200, "'; DROP %s :a"])
def test_a_new_task_is_open(alice: Person, title: str) -> None:
    body, before = OTHERS | {"is_completed": True}, datetime.now(UTC)
    answer = alice(CREATE, json=body | {"title": f" \t\n\u3000{title}{' ' * 200}"})
    task, after = answer.json(), datetime.now(UTC)
    expected = dict.fromkeys(["created_at", "updated_at"], task["created_at"])
    expected |= {"title": title, "user_id": alice.id, "completed_at": None}
    expected |= {"id": str(UUID(task["id"], version=4)), "is_completed": False}
    assert (answer.status_code, task) == (201, expected)
    assert task["created_at"].endswith("Z")
    assert before <= datetime.fromisoformat(task["created_at"]) <= after


def test_first_tasks_at_once_make_one_user(alice: Person, db: Database) -> None:
    assert alice.tasks()["data"] == db.sql("SELECT * FROM users") == []
    wait = threading.Barrier(5, timeout=60).wait  # until all see that there is no user
    at_once = before_each_statement(lambda *given: "users" in given[2] and wait())
    with at_once, ThreadPoolExecutor(5) as clients:
        made = {task["id"] for task in clients.map(alice.task, "12345")}
    assert {task["id"] for task in alice.tasks()["data"]} == made
    assert db.sql("SELECT count(created_at) FROM users") == [(1,)]


CHANGES: list[tuple[Route, list[Any]]] = [
    (UPDATE, [{"title": "Buy oat milk"}, {"is_completed": True}, {"title": "x"}]),
    (UPDATE, [{"title": "x", "is_completed": done} for done in (True, True, False)]),
    (COMPLETE, [{"is_completed": done} for done in (False, True, True, False)]),
    (COMPLETE, [None, None, None, {"is_completed": False}, None]),
]


@pytest.mark.parametrize(("route", "bodies"), CHANGES)
def test_a_change_does_what_it_says(alice: Person, route: Any, bodies: Any) -> None:
    task = alice.task()
    for body in bodies:
        after = alice(route, task, json=body and {**OTHERS, **body}).json()
        default = task["is_completed"] if route is UPDATE else not task["is_completed"]
        changed = {"is_completed": default} | (body or {})
        done_at = task["completed_at"] or after["updated_at"]
        changed["completed_at"] = done_at if changed["is_completed"] else None
        assert after == task | changed | {"updated_at": after["updated_at"]}
        assert after["updated_at"] > task["updated_at"]
        assert alice.sees(task) == after
        task = after


def test_of_a_hundred_simultaneous_toggles_none_is_lost(start: Any) -> None:
    app = start().app
    for _ in range(2):  # The second one waits for a place in its own event loop.
        with TestClient(app) as client, ThreadPoolExecutor(20) as clients:
            task = (alice := Person(client)).task()
            answers = clients.map(partial(alice, COMPLETE), [task] * 101)
            states = [answer.json()["is_completed"] for answer in answers]
        assert states.count(True) == states.count(False) + 1


def test_a_body_that_did_not_arrive_is_not_a_toggle(serve: Any) -> None:
    alice, body = Person(serve(*UVICORN).client), b'{"is_completed": true}'
    task = alice(COMPLETE, alice.task()).json()
    offer = {"Connection": "Upgrade", "Upgrade": "h2c"}  # uvicorn drops the body.
    for content in (body, iter([body])):  # with its length, and in chunks
        answer = alice(COMPLETE, task, content=content, headers=offer)
        assert answer.status_code == 400 and alice.sees(task) == task
    empty = alice(COMPLETE, task, content=b"", headers={"Content-Length": "0"})
    assert empty.json()["is_completed"] is False


@each(WITH_BODY)
def test_a_body_is_json_of_64_kib_at_most(alice: Person, route: Route) -> None:
    task, text = alice.task(), {"Content-Type": "text/plain"}
    start = b'{"title": "x", "is_completed": true, "more": "'
    largest = start + b"x" * (65_534 - len(start)) + b'"}'
    for body in (largest + b" ", iter([largest, b" "])):
        answer = alice(route, task, content=body)
        assert (answer.status_code, answer.headers[ALLOWED]) == (413, PAGE)
    problem(alice(route, task, content=largest, headers=text), 400)
    assert alice.tasks()["data"] == [task]
    for body in (largest, iter([largest[:1000], largest[1000:]])):
        assert alice(route, task, content=body).status_code == route.status


BAD_TITLES = ["null", "1", '["x"]', "NaN", "1e999", '""', '" \\t\\n"', '"\\ud800"']
BAD_TITLES += ['"qqqq\\u0000"', f'"{"q" * 201}"']
BAD_STATES = ["null", "0", "1", '"yes"', '"true"', "[]", "{}"]
UNREADABLE = [b"\xff", b"[" * 60_000, b'{"x": ' + b"7" * 5000 + b"}"]
BAD_INPUT: list[tuple[list[Route], list[Any], str, list[Any]]] = [
    ([LIST], ["query", "limit"], "limit=%s", ["0", "201", "-1", "x", "", "1.5"]),
    ([LIST], ["query", "offset"], "offset=%s", ["-1", "2147483648", "9" * 30, "x"]),
    ([LIST], ["query", "is_completed"], "is_completed=%s", ["maybe", "", "2", "null"]),
    ([CREATE, UPDATE], ["body", "title"], '{"title": %s}', BAD_TITLES),
    ([COMPLETE], ["body", "is_completed"], "%s", ["{}"]),
    ([UPDATE], ["body"], "%s", ["{}", '{"isCompleted": true}', '{"id": "1"}']),
    ([CREATE, UPDATE], ["body"], "%s", [""]),
    ([UPDATE, COMPLETE], ["body", "is_completed"], '{"is_completed": %s}', BAD_STATES),
    (WITH_BODY, ["body"], "%s", ["[]", '"qqqq"', "1", "null"]),
    (WITH_BODY, ["body", 16], '{"title": %s', ['"qqqq"']),
    (WITH_BODY, [], "", UNREADABLE),  # The answer has no `errors`.
]


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_a_400_that_names_the_place(alice: Person, case: Any) -> None:
    routes, place, form, values = case
    task = alice.task()
    for route, value in [(route, value) for route in routes for value in values]:
        name = "params" if route is LIST else "content"
        answer = alice(route, task, **{name: form % value if form else value})
        errors = problem(answer, 400).get("errors", [])
        assert [error["loc"] for error in errors] == ([place] if place else []), value
        assert "qqqq" not in answer.text
    assert alice.tasks()["data"] == [task]


def test_other_paths_need_no_token_and_no_statement(client: TestClient) -> None:
    tasks, origin = f"/api/{NOBODY}/tasks", {"Origin": PAGE}
    with before_each_statement(Mock(side_effect=ZeroDivisionError)):
        assert client.get("/health").json() == {"status": "ok"}
        for path, status in [("/health", 200), ("/", 307)]:  # as monitors send it
            answer = client.head(path)
            assert (answer.status_code, answer.content) == (status, b"")
        for path in (f"{tasks}/", f"{tasks}/{NOBODY}/", f"{tasks}/a/b", "/api"):
            problem(client.get(path), 404)
        for path in (tasks, "/health"):
            problem(answer := client.request("TRACE", path, headers=origin), 405)
            assert "GET" in answer.headers["allow"] and answer.headers[ALLOWED] == PAGE
            exposed = answer.headers["access-control-expose-headers"].split(", ")
            assert set(exposed) == {"Allow", "Location", "WWW-Authenticate"}


def test_each_location_has_the_prefix_of_a_proxy(client: TestClient) -> None:
    proxy = TestClient(client.app, "http://proxy/v1", root_path="/v1")
    task = (alice := Person(proxy))(CREATE)
    assert task.headers["location"] == f"/v1/api/{alice.id}/tasks/{task.json()['id']}"
    docs = proxy.get("/", follow_redirects=True)
    assert docs.url.path == "/v1/docs" and "/v1/openapi.json" in docs.text
    assert "persistAuthorization" in docs.text


def test_a_page_of_an_allowed_origin_may_send_any_header(start: Any) -> None:
    client = start(CORS_ORIGINS="https://a.example, http://[::1]:5173/,tauri://a")
    origins = ["https://a.example", "http://[::1]:5173", "tauri://a"]
    names = "baggage, sentry-trace"
    asked = {"Access-Control-Request-Headers": names}
    for route, origin in zip(ROUTES, origins * 2, strict=True):
        asked |= {"Access-Control-Request-Method": route.method, "Origin": origin}
        answer = client.options("/health", headers=asked)
        assert (answer.status_code, answer.headers[ALLOWED]) == (200, origin)
        assert answer.headers["access-control-allow-headers"] == names
    refused = client.options("/health", headers=asked | {"Origin": PAGE})
    assert refused.status_code == 400 and ALLOWED not in refused.headers


def test_the_document_describes_the_six_operations(alice: Person) -> None:
    alice(COMPLETE, alice.task())
    document = alice.client.get("/openapi.json").json()
    schemas, paths = document["components"]["schemas"], document["paths"]
    example = schemas["TaskPublic"]["example"]
    for route in ROUTES:
        operation = paths[route.path][route.method.lower()]
        assert (operation["operationId"], operation["tags"]) == (route.name, ["tasks"])
        assert operation["security"] == [{"HTTPBearer": []}]
        assert ("requestBody" in operation) == (route in WITH_BODY)
        (users,) = [p["examples"] for p in operation["parameters"] if "examples" in p]
        assert users["Alice"]["value"] == example["user_id"] != users["Bob"]["value"]
        content = operation["responses"][str(route.status)].get("content")
        name = "TaskPage" if route is LIST else "TaskPublic"
        schema = {"schema": {"$ref": f"#/components/schemas/{name}"}}
        assert content == (None if route is DELETE else {"application/json": schema})
    assert "Authorize" in document["info"]["description"]
    assert set(paths) == {route.path for route in ROUTES}
    assert schemas["TaskUpdate"].keys() == {"title", "description", "type", "anyOf"}
    any_of = [one["required"] for one in schemas["TaskUpdate"]["anyOf"]]
    assert any_of == [["title"], ["is_completed"]]
    page, sent = schemas["TaskPage"]["example"], alice.tasks()
    assert page["data"] == [example]
    texts = [json.dumps(one, sort_keys=True) for one in (page, sent)]
    assert len({re.sub("[0-9a-f]", "0", text) for text in texts}) == 1
    assert set(schemas["TaskPublic"]["required"]) == set(sent["data"][0])
    scheme = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    assert document["components"]["securitySchemes"] == {"HTTPBearer": scheme}
    assert "422" not in json.dumps(document)


def test_the_database_refuses_a_broken_task(alice: Person, db: Database) -> None:
    task, bob = alice.task(), Person(alice.client)
    broken = ["title = ''", f"title = '{'x' * 201}'", "completed_at = created_at"]
    broken += ["is_completed = (completed_at IS NULL)", f"user_id = '{uuid4().hex}'"]
    for change in broken:
        with pytest.raises(Exception, match="(?i)constraint"):
            db.sql(f"UPDATE tasks SET {change} WHERE user_id = {alice.hex}")
    assert (alice.sees(task), bob.task()["user_id"]) == (task, bob.id)
    others = "id, title, is_completed, completed_at, created_at, updated_at"
    own = f"SELECT {bob.hex}, {others} FROM tasks WHERE user_id = {alice.hex}"
    db.sql(f"INSERT INTO tasks (user_id, {others}) {own}")  # with the same id
    db.sql(f"DELETE FROM users WHERE id = {alice.hex}")
    problem(alice(GET, task), 404)
    assert bob.sees(task) == task | {"user_id": bob.id}


def test_constraints_have_names_and_the_pool_30_places(start: Any) -> None:
    alice, engine = Person(start()), sys.modules["app"].engine
    tables: Any = sqlalchemy.inspect(engine)
    columns = {one["name"]: one["type"] for one in tables.get_columns("tasks")}
    assert columns["completed_at"].timezone or not POSTGRES
    key, (index,) = tables.get_pk_constraint("tasks"), tables.get_indexes("tasks")
    assert key["constrained_columns"] == ["user_id", "id"]
    assert index["column_names"] == ["user_id", "created_at", "id"]
    assert not POSTGRES or index["column_sorting"].keys() == {"created_at", "id"}
    rules = [key, index, tables.get_pk_constraint("users")]
    rules += tables.get_foreign_keys("tasks") + tables.get_check_constraints("tasks")
    expected = "pk_tasks pk_users fk_tasks_user_id ix_tasks_user_id_created_at_id"
    expected += " ck_tasks_title_length ck_tasks_completed"
    assert {rule["name"] for rule in rules} == set(expected.split())
    for connection in [engine.pool.connect() for _ in range(30)]:
        connection.close()
    assert engine.pool.status().startswith("Pool size: 10  Connections in pool: 10 ")
    with on("checkin", Mock(side_effect=ZeroDivisionError), Pool):
        problem(alice(LIST), 500)  # given back before the answer, however slow that is


# --- A learner's endpoints, and a database that can't be used -------------------------

PAIR = Route("create_pair", "POST", "/pairs/{user_id}", None, 204)
RENAME = Route("rename", "POST", "/renamed/{user_id}", None, 200)


@pytest.fixture
def learner(start: Any) -> Any:
    """A client of an application to which a learner has added endpoints."""
    client = start()
    from app import AutocommitDep, UserIdDep, app, create_user, transactions
    from models import Task

    @app.post("/pairs/{user_id}", status_code=204)
    def create_pair(user_id: UserIdDep, _: AutocommitDep) -> None:
        with Session(transactions) as session:
            create_user(session, user_id)
            session.add(Task(user_id=user_id, title="x"))
            session.commit()

    @app.post("/renamed/{user_id}")
    def rename(user_id: UserIdDep, session: AutocommitDep, title: str) -> list[Task]:
        tasks = list(session.exec(select(Task).where(Task.user_id == user_id)))
        if not tasks:
            raise HTTPException(499)
        for task in tasks:
            task.title = title
            session.add(task)
        session.commit()
        session.refresh(tasks[0])
        return tasks

    return client


def test_a_learner_can_add_endpoints_below(learner: Any, db: Database) -> None:
    alice, renamed = Person(learner), {"title": "renamed"}
    none = alice(RENAME, params=renamed)
    assert (none.status_code, none.json()["title"]) == (499, "Error")
    with before_each_statement(Mock(side_effect=[None, ZeroDivisionError])):
        problem(alice(PAIR), 500)
    assert db.sql("SELECT * FROM users") == []  # both statements or none
    assert alice(PAIR).status_code == alice(PAIR).status_code == 204
    with before_each_statement(executed := Mock()):
        tasks = alice(RENAME, params=renamed).json()
    statements = [call.args[2].split()[0] for call in executed.call_args_list]
    assert statements == ["SELECT", "UPDATE", "SELECT"]  # The last is the refresh.
    assert alice.tasks()["data"] == sorted(tasks, key=lambda t: t["created_at"])[::-1]
    with before_each_statement(lambda *given: given[1].execute("BEGIN")):
        alice.tasks()
    alice.task("x")  # is not in the transaction that was left open
    assert len(db.sql("SELECT id FROM tasks")) == 3
    paths = learner.get("/openapi.json").json()["paths"]
    assert "503" in paths.pop(PAIR.path)["post"]["responses"]
    assert "422" not in json.dumps(paths.pop(RENAME.path))
    assert paths == json.loads(json.dumps(load().app.openapi()))["paths"]


def test_a_test_can_use_a_database_in_memory() -> None:
    client = load()
    get_session = sys.modules["app"].get_session
    memory = create_engine("sqlite://?check_same_thread=false", poolclass=StaticPool)
    SQLModel.metadata.create_all(memory)
    with Session(memory, expire_on_commit=False) as session:
        client.app.dependency_overrides[get_session] = lambda: session
        event.listen(session, "pending_to_persistent", Mock())  # The session keeps it.
        task = (alice := Person(client)).task()
        for route in (COMPLETE, UPDATE):
            changed = alice(route, task).json()
            session.rollback()  # would undo what was not committed
            assert alice.sees(task) == changed and changed["is_completed"] is True
        assert alice(DELETE, task).content == b"" and alice.tasks()["data"] == []
    memory.dispose()


def test_a_defect_is_logged_without_the_values(learner: Any, db: Database) -> None:
    # This client raises what is logged.
    alice, long = Person(TestClient(learner.app)), {"title": "qqqq" * 51}
    task = alice.task()
    for route, change in [(RENAME, "SELECT 1"), (GET, "DROP TABLE tasks")]:
        db.sql(change)
        with pytest.raises(RuntimeError, match="title_length|tasks") as defect:
            alice(route, task, params=long)
        log = "".join(traceback.format_exception(defect.value))
        assert not re.search(f"qqqq|{alice.id}|{UUID(alice.id).hex}", log)
        assert f"in {route.name}\n" in log
    problem(Person(learner)(LIST), 500)
    with ThreadPoolExecutor(8) as at_once:
        list(at_once.map(lambda _: sys.modules["app"].create_tables(), range(8)))
    assert Person(learner).tasks()["data"] == []


def test_a_connection_that_cannot_be_made_is_a_503(alice: Person, caplog: Any) -> None:
    with on("checkout", Mock(side_effect=sqlalchemy.exc.DisconnectionError), Pool):
        problem(alice(LIST), 503, MAYBE)
    load(DATABASE_URL="postgresql:///x?host=/tmp")  # This one has no user.
    url = "postgres://alice:hidden@h1/x?sslmode=require&keepalives_count=1"
    refuse = Mock(side_effect=psycopg2.OperationalError("connection refused"))
    with on("do_connect", refuse):
        problem(Person(load(DATABASE_URL=url))(LIST), 503, MAYBE)
    assert "connection refused" in caplog.text and "hidden" not in caplog.text
    given = refuse.call_args.args[3]
    expected = {"host": "h1", "user": "alice", "password": "hidden", "dbname": "x"}
    expected |= {"sslmode": "require", "keepalives_count": "1", "connect_timeout": "5"}
    assert expected.items() <= given.items() and "options" not in given
    assert (given["client_encoding"], given["tcp_user_timeout"]) == ("utf8", "9000")
    unanswered = int(given["keepalives_interval"]) * int(given["keepalives_count"])
    assert 0 < int(given["keepalives_idle"]) + unanswered <= 10


@each([*WITH_BODY, DELETE])
def test_a_locked_or_read_only_table_is_a_503(start: Any, db: Any, route: Any) -> None:
    task = (alice := Person(start())).task()
    limited = before_each_statement(lambda *given: given[1].execute(SHORT_WAIT))
    with db.connect(*LOCK), limited:
        problem(alice(route, task), 503, MAYBE)
    with before_each_statement(lambda *given: given[1].execute(READ_ONLY)):
        problem(alice(route, task), 503, MAYBE)
    assert db.sql("SELECT title FROM tasks") == [(task["title"],)]
    assert not POSTGRES or alice(route, task).status_code == route.status


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("command", [UVICORN, ("app.py",)])
def test_a_stop_loses_no_task(serve: Any, db: Any, command: Any, by: Any) -> None:
    workers = 8 if (command, by) == (UVICORN, signal.SIGKILL) else 1
    server = serve(*command, WEB_CONCURRENCY=str(workers))
    server.wait_for("Application startup complete.", times=workers)
    with ThreadPoolExecutor(20) as clients:
        list(clients.map(Person(server.client).task, map(str, range(40))))
    server.stop(by)
    assert not re.search("Traceback|curl", server.log)  # Only the demo prints tokens.
    assert POSTGRES or by == signal.SIGKILL or os.listdir(db.folder) == ["tasks.db"]
    assert db.sql("SELECT count(*) FROM tasks") == [(40,)]
    assert POSTGRES or db.sql("PRAGMA journal_mode") == [("wal",)]


if POSTGRES:

    @each([*ROUTES, PAIR])
    def test_a_lost_connection_is_a_503(learner: Any, db: Any, route: Route) -> None:
        task = (alice := Person(learner)).task()
        for moment in ("before_cursor_execute", "engine_connect"):
            with on(moment, db.close_connections):
                problem(alice(route, task), 503, MAYBE)
        for _ in range(3):  # One that is lost while it is idle is not used.
            db.close_connections()
            assert alice.tasks()["data"] == [task]

    def test_each_form_of_a_url_works(start: Any, db: Database) -> None:
        url = sqlalchemy.make_url(db.url)
        hosts = ["127.0.0.1:1", f"{url.host}:{url.port or 5432}"]  # No one is at 1.
        two = url.set(drivername="postgresql+psycopg2", host=None, port=None)
        two = two.update_query_dict({"host": hosts})
        more = "&sslmode=prefer&channel_binding=prefer&target_session_attrs=read-write"
        for form in (url.set(drivername="postgres"), url, two):
            whole = form.render_as_string(hide_password=False) + more
            assert Person(start(DATABASE_URL=whole)).task("ü")["title"] == "ü"

    def test_each_request_is_one_round_trip(start: Any, db: Database) -> None:
        # The server sends a notice of each statement that arrives.
        report = "%20-cdebug_print_parse%3Don%20-cclient_min_messages%3Dlog"
        notices = Mock()
        with on("connect", lambda c, _: setattr(c, "notices", notices), Pool):
            alice = Person(start(DATABASE_URL=db.url + report))
        task = alice.task()
        for route in ROUTES:
            notices.reset_mock()
            assert alice(route, task).status_code == route.status
            notices.append.assert_called_once()
        notices.reset_mock()
        for _ in range(2):
            with sys.modules["app"].transactions.begin() as connection:
                connection.exec_driver_sql("SELECT 1")
        assert notices.append.call_count == 6  # twice BEGIN, SELECT, COMMIT: no SET


# --- Start ----------------------------------------------------------------------------

BAD_SETTINGS = {
    "JWT_SECRET": [" ", "hidden" + "x" * 25, "-----BEGIN PUBLIC KEY-----\nhidden"],
    "JWT_JWKS_URL": ["file:///etc/passwd", "http://", "auth.example.com/keys"],
    "DATABASE_URL": ["nonsense", "mysql://u:hidden@h/x", "sqlite://h/x", "sqlite://"]
    + ["sqlite:///:memory:", "sqlite:///file:x?uri=true", "sqlite:///x?timeout=a"]
    + ["postgresql+asyncpg://u:hidden@h/x", "postgresql://u:hidden@h:port/x"]
    + ["postgresql://u:p@hidden@h/x", "postgresql://u:p@hid/den@h/x"],
    "CORS_ORIGINS": ["https://*.vercel.app", "localhost:3000", "null", '"https://a.b"']
    + ["https://a.example/app", "https://A.example", f"{PAGE},'https://a.example'"],
    "PORT": ["abc", "0", "65536", "-1", "8000.0"],
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_a_bad_setting_is_refused(capfd: Any, name: str) -> None:
    others: Any = {"JWT_SECRET": ""} if name == "JWT_JWKS_URL" else {}
    both = {"JWT_JWKS_URL": "http://localhost/keys", "JWT_SECRET": SECRET}
    for settings in [others | {name: value} for value in BAD_SETTINGS[name]] + [both]:
        with pytest.raises(SystemExit) as end:
            load(**settings)
        printed, (line,) = (text.splitlines() for text in capfd.readouterr())
        assert list(settings)[-1] in line and "hidden" not in line and not printed
        assert end.value.code == 3  # uvicorn does not try again


def test_a_bad_start_is_one_line_in_the_log_and_is_not_repeated(serve: Any) -> None:
    lost = "postgres://u:hidden@127.0.0.1:1/x?passfile=hidden"
    starts = [("JWT_SECRET", "", "2"), ("DATABASE_URL", lost, "1")]
    starts += [("DATABASE_URL", "sqlite:////nowhere/tasks.db?timeout=7", "1")]
    servers = [serve(*UVICORN, "--workers", n, **{name: v}) for name, v, n in starts]
    for (name, url, workers), server in zip(starts, servers, strict=True):
        assert server.stop() != 0 or workers != "1"  # uvicorn's supervisor: 0
        assert 1 <= len(re.findall(f"(?m)^.*{name}.*$", server.log)) <= int(workers)
        assert "Traceback" not in server.log and "hidden" not in server.log
        assert url is not lost or "@127.0.0.1:1/x\n" in server.log


def test_a_key_set_without_an_audience_is_a_warning(start: Any, caplog: Any) -> None:
    keys, secret = {"JWT_SECRET": "", "JWT_JWKS_URL": "http://localhost/keys"}, "ü" * 16
    for new in ({"JWT_SECRET": secret}, keys | {"JWT_AUDIENCE": "tasks"}, keys):
        assert "WARNING" not in caplog.text
        start(**new)
    assert "JWT_AUDIENCE" in caplog.records[-1].message
    with patch.dict(os.environ, keys), patch("uvicorn.run") as run:
        runpy.run_path(f"{HERE}/app.py", run_name="__main__")
    assert run.call_args.kwargs["port"] == 8000


def test_the_example_needs_a_secret(db: Any, tmp_path: Path, monkeypatch: Any) -> None:
    example = (HERE / ".env.example").read_text()
    assert set(re.findall(r"(?m)^(?:# )?([A-Z_]+)=", example)) == set(SETTINGS)
    (tmp_path / "app.py").write_text((HERE / "app.py").read_text())
    monkeypatch.syspath_prepend(tmp_path)
    for name in SETTINGS:
        monkeypatch.delenv(name)
    filled_in = re.sub("(?m)^JWT_SECRET=.*", f"JWT_SECRET= {SECRET} ", example)
    filled_in = re.sub("(?m)^DATABASE_URL=.*", f"DATABASE_URL={db.url}", filled_in)
    for text, settings in [(example, {}), (filled_in, {"JWT_SECRET": ""})]:
        (tmp_path / ".env").write_text(text)
        with pytest.raises(SystemExit):
            load(**settings)
    with load() as client:
        Person(client).task()
    assert db.sql("SELECT title FROM tasks") == [("Buy milk",)]


def test_the_demo_needs_no_settings(serve: Any, tmp_path: Path) -> None:
    settings = {"DATABASE_URL": "", "JWT_SECRET": "", "WEB_CONCURRENCY": "2"}
    token, upgrade = sign(), {"Connection": "Upgrade", "Upgrade": "websocket"}
    for total, claims in enumerate([{}, {"JWT_ISSUER": "x", "JWT_AUDIENCE": "tasks"}]):
        demo = serve(f"{HERE}/app.py", cwd=tmp_path, **settings, **claims)
        demo.wait_for(f"running on http://127.0.0.1:{demo.port}")
        problem(ask(demo.client, token), 401, "InvalidSignature")  # of another secret
        assert f"Database: {tmp_path / 'tasks.db'}\n" in demo.log
        assert f"http://127.0.0.1:{demo.port}/docs\n" in demo.log
        lines = demo.log.splitlines()
        commands = [shlex.split(line) for line in lines if line.startswith("curl ")]
        for _curl, url, _option, header, *others in commands:
            token = header.split()[-1]
            assert url.split("/")[4] in lines and token in lines
            end = jwt.decode(token, options={"verify_signature": False})["exp"]
            assert 23 < (end - time.time()) / 3600 <= 24
            with httpx2.Client(
                headers=dict([header.split(": ")]), timeout=60
            ) as client:
                if others:
                    client.post(url, json=json.loads(others[-1])).raise_for_status()
                page = client.get(url, headers=upgrade).json()
            assert page["meta"]["total"] == total + bool(others)
        assert len(commands) == len({url for _, url, *_ in commands}) * 2 == 4


# --- Key sets -------------------------------------------------------------------------

USELESS = [b"<html>", b"[]", b'{"keys": []}', b'{"keys": 1}', b"\xff", b"[", b"{}"]
USELESS += [b"[" * 20_000, b"1" * 5000, b'{"keys": [{"kty": "oct"}]}', b" "]
USELESS += [b'{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": ["x"]}]}']
NO_ANSWERS = [OK + body for body in USELESS] + [b"HTTP/1.0 403 x\r\n\r\n", b""]
FIRST, NEW = jwk("first"), jwk("EdDSA")


@pytest.mark.parametrize("no_answer", NO_ANSWERS)
def test_keys_are_looked_up_again(issuer: Any, no_answer: bytes, caplog: Any) -> None:
    for seconds, keys, first, new, look_ups in [
        (0, None, 503, 503, 1),
        (9, None, 503, 503, 1),  # no further attempt for ten seconds
        (2, None, 503, 503, 2),
        (11, [FIRST], 200, 401, 3),
        (29, [FIRST, NEW], 200, 401, 3),  # an unknown key: every 30 seconds at most
        (2, [FIRST, NEW], 200, 200, 4),
        (299, [NEW], 200, 200, 4),  # a known key: after five minutes
        (2, [NEW], 401, 200, 5),
        (301, None, 401, 200, 6),  # The last keys stay.
        (9, None, 401, 200, 6),
        (2, None, 401, 200, 7),
    ]:
        issuer.seconds += seconds
        issuer.publish(*keys or [])
        issuer.reply = issuer.reply if keys else no_answer
        assert (issuer.status("first"), issuer.status("EdDSA")) == (first, new)
        assert issuer.look_ups.qsize() == look_ups
    assert caplog.text.count("JWT_JWKS_URL can't be used") == 4
    assert "Python" not in issuer.look_ups.get()  # Some firewalls refuse it.


def test_a_key_set_may_hold_what_it_likes(issuer: Issuer) -> None:
    keys: list[Any] = [{}, "x", 1, {"kty": "RSA", "kid": "first"}]
    keys += [jwk("first", use="enc"), {"kty": "oct", "k": "eA", "kid": "HS"}]
    keys += [jwk("RS256", alg=alg) for alg in ("none", "XX", ["RS256"], 1)]  # no such
    keys += [jwk("P384", kid="ES256", alg="ES256"), jwk("P384", alg=None)]  # curve
    keys += [jwk("first", kid=kid) for kid in (None, 5)]
    keys += [jwk("RS256", kid="one", alg=f"RS{n}") for n in (384, 512, 256)]
    keys += [jwk(name, kid="same") for name in ("first", "EdDSA", "ES256")]
    keys += [jwk(name, private=True) for name in ("RS256", "ES256", "EdDSA")]
    issuer.publish(*keys, jwk("ES256", kid="bare", alg=None, use=None))
    accepted = [("RS256", "one"), ("RS256", ""), ("ES256", ""), ("EdDSA", "")]
    accepted += [(key_id, "same") for key_id in ("first", "EdDSA", "ES256")]
    for key_id, name in [*accepted, ("ES256", "bare")]:
        assert issuer.status(key_id, name) == 200, (key_id, name)
    assert issuer.status("RS256", "same") == issuer.status("first") == 401
    assert issuer.status("P384") == 401


def test_a_token_that_fits_no_published_key_is_refused(issuer: Issuer) -> None:
    keys = [jwk(name) for name in ("first", "RS256", "ES256", "EdDSA")]
    first: Any = {"kid": "first"}
    tokens = [token for tokens in BAD_TOKENS.values() for token in tokens]
    for key_id, name in [("RS256", "ES256"), ("ES256", "EdDSA"), ("EdDSA", "first")]:
        tokens += [sign(key=KEYS[key_id], header={"kid": name})]
    tokens += [sign(key=("HS256", "x" * 48), header={"kid": "HS"})]
    tokens += [sign(key=KEYS["first"]), sign(key=KEYS["first"], header=first, exp=1)]
    tokens += [forge(first | {"alg": name}) for name in ("none", "EdDSA", "RS256")]
    tokens += [forge({"alg": "EdDSA", "kid": kid}) for kid in (None, [1], "odd")]
    issuer.reply = b""
    problem(ask(issuer.client, forge(first)), 503, "key set")
    problem(ask(issuer.client, "x"), 401)
    issuer.publish(*keys, {"kty": "oct", "kid": "HS", "k": "eHh4" * 16})  # "x" * 48
    issuer.seconds += 11
    tokens += [sign(key=KEYS["RS256"], header={"kid": "RS256"})]
    with ThreadPoolExecutor(20) as clients:  # Together they make one look-up.
        answers = list(clients.map(partial(ask, issuer.client), tokens * 2))
    assert answers.pop().status_code == answers.pop(len(tokens) - 1).status_code == 200
    for answer in answers:
        problem(answer, 401)
    assert (issuer.status("first"), issuer.look_ups.qsize()) == (200, 2)


def test_a_look_up_has_five_seconds_and_blocks_no_one_else(issuer: Issuer) -> None:
    assert issuer.status("first") == 200 and issuer.look_ups.get(timeout=60)
    issuer.is_fast.clear()
    issuer.publish(FIRST, NEW)
    issuer.seconds += 31
    with ThreadPoolExecutor(1) as waiting:
        unknown = waiting.submit(issuer.status, "EdDSA")
        assert issuer.look_ups.get(timeout=60)
        assert issuer.status("first") == 200
        assert issuer.client.get("/health").status_code == 200
        assert not unknown.done()
        assert unknown.result() == 401


@pytest.fixture(scope="module", autouse=True)
def crowd(locked: Database) -> Iterator[Any]:
    """Send 45 requests before the first test, while the tasks are locked."""
    with Server(*UVICORN, DATABASE_URL=locked.url) as server:
        task = (alice := Person(server.client)).task()
        with ThreadPoolExecutor(45) as clients, locked.connect(*LOCK) as lock:
            requests = [clients.submit(alice, route, task) for route in WITH_BODY * 15]
            yield alice, requests, lock


def test_at_most_ten_requests_wait_for_a_lock(crowd: Any) -> None:
    alice, requests, lock = crowd
    for request in islice(as_completed(requests, timeout=60), 35):
        problem(request.result(), 503, MAYBE)
    assert alice.client.get("/health").status_code == 200
    lock.execute("COMMIT")
    statuses = [request.result().status_code for request in requests]
    assert statuses.count(503) == 35 or not POSTGRES  # SQLite waits five seconds.
    assert alice.task()  # Service returns.
