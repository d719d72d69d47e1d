"""What the Task API promises, over its public interface and on a real database.

    python -m pytest                                      on a temporary SQLite file
    TEST_DATABASE_URL=postgresql://… python -m pytest     on PostgreSQL, in a schema of
                                                          its own, dropped afterwards

What DATABASE_URL names is never touched. A promise about processes is tested on a real
uvicorn. Alice and Bob are two users of one auth system.
"""

import asyncio
import atexit
import importlib.util
import json
import os
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import jwt
import psycopg2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from fastapi.testclient import TestClient
from sqlalchemy import (
    Column,
    Date,
    MetaData,
    Table,
    UniqueConstraint,
    event,
    inspect,
    make_url,
    text,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import QueuePool
from sqlmodel import Session, SQLModel

pytestmark = pytest.mark.filterwarnings("error")

# --- The database and the application -------------------------------------------------

HERE = Path(__file__).parent
FOLDER = tempfile.TemporaryDirectory(prefix="task-api-")
SECRET = "a secret of the tests, with more than 32 bytes"
POSTGRES = os.environ.get("TEST_DATABASE_URL", "")
SCHEMA = f"test_{uuid4().hex}"
DATABASE_URL = f"sqlite:///{FOLDER.name}/tasks.db"


def on_postgres(statement: str) -> list[tuple[Any, ...]]:
    """Execute a statement on the test server, beside the application."""
    with closing(psycopg2.connect(POSTGRES.replace("+psycopg2", ""))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


if POSTGRES:
    on_postgres(f"CREATE SCHEMA {SCHEMA}")
    separator = "&" if "?" in POSTGRES else "?"
    DATABASE_URL = f"{POSTGRES}{separator}options=-csearch_path%3D{SCHEMA}&application_name={SCHEMA}"

OTHER_SETTINGS = ("JWT_JWKS_URL", "JWT_ISSUER", "JWT_AUDIENCE", "CORS_ORIGINS")
for setting in OTHER_SETTINGS:
    os.environ.pop(setting, None)
os.environ |= {"DATABASE_URL": DATABASE_URL, "JWT_SECRET": SECRET}

import app as api
import models


@atexit.register
def leave_nothing_behind() -> None:
    """Drop the schema; also where no test was selected."""
    api.engine.dispose()
    if POSTGRES:
        on_postgres(f"DROP SCHEMA {SCHEMA} CASCADE")
    FOLDER.cleanup()


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(api.app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def with_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Any]]:
    """Return a function that loads the application with other settings."""
    engines = []

    def load(**settings: str) -> Any:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        spec = importlib.util.spec_from_file_location("app_again", HERE / "app.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        engines.append(module.engine)
        return module

    yield load
    for engine in engines:
        engine.dispose()


# --- Alice and Bob ----------------------------------------------------------------


def token(**claims: Any) -> str:
    """Return a token as the auth system signs it; a claim that is None is left out."""
    claims = {"exp": time.time() + 600} | claims
    given = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(given, SECRET)


class Person:
    """A user of the auth system, at their client."""

    def __init__(self, client: httpx2.Client, **claims: Any) -> None:
        self.client, self.id = client, str(uuid4())
        self.path = f"/api/{self.id}/tasks"
        self.token = token(sub=self.id, **claims)

    def __call__(self, method: str, path: str = "", **options: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self.token}"} | options.pop("headers", {})
        path = path if path.startswith("/api") else f"{self.path}{path}"
        return self.client.request(method, path, headers=headers, **options)

    def task(self, title: str = "Buy milk") -> Any:
        """Make a task and return it."""
        answer = self("POST", json={"title": title})
        assert answer.status_code == 201
        return answer.json()

    def tasks(self, **query: Any) -> Any:
        """Return a page of the person's tasks."""
        answer = self("GET", params=query)
        assert answer.status_code == 200
        return answer.json()

    def sees(self, task: Any) -> Any:
        """Return the task as it is now, or None where it is gone."""
        answer = self("GET", f"/{task['id']}")
        return answer.json() if answer.status_code == 200 else None


@pytest.fixture
def alice(client: TestClient) -> Person:
    return Person(client)


@pytest.fixture
def bob(client: TestClient) -> Person:
    return Person(client)


def assert_problem(answer: httpx2.Response, status: int) -> Any:
    """Check that an answer is an error in the one form, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    members = {"type", "title", "status", "detail"} | (
        {"errors"} if status == 400 else set()
    )
    assert set(body) == members
    assert body["type"] == "about:blank"
    assert body["title"] == HTTPStatus(status).phrase
    assert body["status"] == status
    assert body["detail"] != body["title"] and body["detail"].endswith((".", ">."))
    if status == 400:
        assert body["errors"]
        assert all(set(error) == {"loc", "msg"} for error in body["errors"])
    return body


ROUTES = [
    ("GET", "", None),
    ("POST", "", {"title": "Buy oat milk"}),
    ("GET", "/{task}", None),
    ("PUT", "/{task}", {"title": "Buy oat milk", "is_completed": True}),
    ("DELETE", "/{task}", None),
    ("PATCH", "/{task}/complete", None),
]
on_every_route = pytest.mark.parametrize(("method", "path", "body"), ROUTES)
on_every_task_route = pytest.mark.parametrize(("method", "path", "body"), ROUTES[2:])

# --- Who gets in --------------------------------------------------------------------


@on_every_route
def test_nobody_gets_in_without_a_token(
    alice: Person, method: str, path: str, body: Any
) -> None:
    task = alice.task()
    url = alice.path + path.format(task=task["id"])
    answer = alice.client.request(method, url, json=body)
    assert_problem(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert alice.tasks()["data"] == [task]


@on_every_route
def test_a_token_opens_no_path_of_another_user(
    alice: Person, bob: Person, method: str, path: str, body: Any
) -> None:
    task = alice.task()
    answer = bob(method, alice.path + path.format(task=task["id"]), json=body)
    assert_problem(answer, 403)
    assert alice.tasks()["data"] == [task]


@on_every_task_route
def test_anothers_task_and_no_task_are_the_same_404(
    alice: Person, bob: Person, method: str, path: str, body: Any
) -> None:
    task = alice.task()
    foreign = bob(method, path.format(task=task["id"]), json=body)
    absent = bob(method, path.format(task=uuid4()), json=body)
    assert assert_problem(foreign, 404) == assert_problem(absent, 404)
    assert alice.tasks()["data"] == [task]


@on_every_route
def test_the_token_is_looked_at_before_the_path_and_the_body(
    client: TestClient, method: str, path: str, body: Any
) -> None:
    url = "/api/nobody/tasks" + path.format(task="nothing")
    assert_problem(client.request(method, url, json={"title": 1}), 401)


NOBODY = "11111111-1111-4111-8111-111111111111"
REFUSED_CLAIMS: list[tuple[dict[str, Any], str]] = [
    ({"exp": None}, "lacks a required claim."),
    ({"sub": None}, "lacks a required claim."),
    ({"exp": 1}, "has expired."),
    ({"exp": -1}, "has expired."),
    ({"exp": time.time() - 31}, "has expired."),
    ({"nbf": time.time() + 3600}, "is not valid yet."),
    ({"iat": time.time() + 3600}, "is not valid yet."),
    ({"exp": "soon"}, "is not a valid one of the auth system."),
    ({"exp": [1]}, "is not a valid one of the auth system."),
    ({"exp": float("nan")}, "is not a valid one of the auth system."),
    ({"exp": float("inf")}, "is not a valid one of the auth system."),
    ({"nbf": "soon"}, "is not a valid one of the auth system."),
    ({"iat": {}}, "is not a valid one of the auth system."),
    ({"jti": 1}, "is not a valid one of the auth system."),
    ({"sub": 1}, "has a sub that is not a UUID."),
    ({"sub": [NOBODY]}, "has a sub that is not a UUID."),
    ({"sub": ""}, "has a sub that is not a UUID."),
    ({"sub": "alice"}, "has a sub that is not a UUID."),
    ({"sub": "0x" + "1" * 30}, "has a sub that is not a UUID."),
    ({"sub": f"{{{NOBODY}}}"}, "has a sub that is not a UUID."),
    ({"sub": f"{NOBODY}\n"}, "has a sub that is not a UUID."),
]


@pytest.mark.parametrize(("claims", "reason"), REFUSED_CLAIMS)
def test_a_token_with_bad_claims_is_refused_with_the_reason(
    client: TestClient, claims: dict[str, Any], reason: str
) -> None:
    headers = {"Authorization": f"Bearer {token(**{'sub': NOBODY} | claims)}"}
    answer = client.get(f"/api/{NOBODY}/tasks", headers=headers)
    detail = assert_problem(answer, 401)["detail"]
    assert detail == f"The token {reason}"
    assert answer.headers["www-authenticate"] == (
        f'Bearer error="invalid_token", error_description="{detail}"'
    )


GOOD_CLAIMS: list[dict[str, Any]] = [
    {"exp": time.time() + 3600, "nbf": time.time(), "iat": time.time()},
    {"iss": "https://any.example", "aud": ["any", "audience"]},
    {"sub": NOBODY.upper()},
    {"roles": ["x" * 12_135]},  # not quite 16 KiB
]


@pytest.mark.parametrize("claims", GOOD_CLAIMS)
def test_a_good_token_gets_in(client: TestClient, claims: dict[str, Any]) -> None:
    headers = {"Authorization": f"Bearer {token(**{'sub': NOBODY} | claims)}"}
    assert client.get(f"/api/{NOBODY}/tasks", headers=headers).status_code == 200


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
def test_clocks_may_differ_by_30_seconds(client: TestClient, claim: str) -> None:
    tolerated = time.time() + (-15 if claim == "exp" else 15)
    headers = {"Authorization": f"Bearer {token(sub=NOBODY, **{claim: tolerated})}"}
    assert client.get(f"/api/{NOBODY}/tasks", headers=headers).status_code == 200


def test_a_token_that_was_let_in_is_refused_once_it_expires(client: TestClient) -> None:
    headers = {"Authorization": f"Bearer {token(sub=NOBODY, exp=time.time() - 28)}"}
    answer = client.get(f"/api/{NOBODY}/tasks", headers=headers)
    assert answer.status_code == 200
    deadline = time.monotonic() + 10
    while answer.status_code == 200 and time.monotonic() < deadline:
        answer = client.get(f"/api/{NOBODY}/tasks", headers=headers)
    assert assert_problem(answer, 401)["detail"] == "The token has expired."


def unsigned(header: Any, claims: Any = None) -> bytes:
    """Return a token that nobody signed."""
    claims = {"sub": NOBODY, "exp": time.time() + 60} if claims is None else claims
    parts = [json.dumps(part).encode() for part in (header, claims)] + [b"signature"]
    return b".".join(jwt.utils.base64url_encode(part) for part in parts)


GOOD = token(sub=NOBODY).encode()
BAD_AUTHORIZATION = [
    b"Basic YWxpY2U6c2VjcmV0",
    b"Bearer",
    b"Bearer ",
    b"Token " + GOOD,
    GOOD,
]
BAD_TOKENS = [
    b"x",
    b"..",
    b"a.b.c",
    b"\xff\xfe\xe9",
    b"x" * 10_000,
    GOOD[:-4] + b"AAAA",
    GOOD + b".",
    GOOD + b" " + GOOD,
    jwt.encode({"sub": NOBODY, "exp": time.time() + 60}, SECRET[::-1]).encode(),
    jwt.encode({"sub": NOBODY, "exp": time.time() + 60}, SECRET * 2, "HS512").encode(),
    token(sub=NOBODY, pad="x" * 12_153).encode(),  # just more than 16 KiB
    unsigned({"alg": "none"}),
    unsigned({"alg": "HS256"}),
    unsigned({"alg": "RS256"}),
    unsigned({"alg": ["HS256"]}),
    unsigned({"alg": None}),
    unsigned({}),
    unsigned([]),
    unsigned(None),
    unsigned("x"),
    unsigned({"alg": "HS256", "crit": ["exp"]}),
    unsigned({"alg": "HS256", "crit": 1}),
    unsigned({"alg": "HS256", "b64": False}),
    unsigned({"alg": "HS256", "b64": False, "crit": ["b64"]}),
    unsigned({"alg": "HS256", "jku": "http://localhost/keys", "kid": "1"}),
    unsigned({"alg": "HS256", "kid": 1}),
    unsigned({"alg": "HS256", "kid": None}),
    unsigned({"alg": "HS256", "kid": ["x"]}),
    unsigned({"alg": "HS256"}, [1]),
    unsigned({"alg": "HS256"}, "x"),
    jwt.encode({"sub": NOBODY, "exp": "@"}, SECRET).replace("@", "1e999").encode(),
    jwt.api_jws.encode(b"[1]", SECRET).encode(),
    jwt.api_jws.encode(b"[" * 5000, SECRET).encode(),
    jwt.api_jws.encode(b"\xff", SECRET).encode(),
    jwt.api_jws.encode(
        b'{"sub": "' + NOBODY.encode() + b'", "exp": 1e999}', SECRET
    ).encode(),
    jwt.api_jws.encode(b'{"exp": 1' + b"0" * 5000 + b"}", SECRET).encode(),
]


@pytest.mark.parametrize("value", BAD_AUTHORIZATION)
def test_another_scheme_is_no_token(client: TestClient, value: bytes) -> None:
    answer = client.get(f"/api/{NOBODY}/tasks", headers={b"Authorization": value})
    assert_problem(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("value", BAD_TOKENS)
def test_an_unreadable_or_forged_token_is_refused(
    client: TestClient, value: bytes
) -> None:
    headers = {b"Authorization": b"Bearer " + value}
    answer = client.get(f"/api/{NOBODY}/tasks", headers=headers)
    assert "is not a valid one" in assert_problem(answer, 401)["detail"]
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


# --- List -----------------------------------------------------------------------------


def test_a_new_user_has_no_tasks(alice: Person) -> None:
    assert alice.tasks() == {"data": [], "meta": {"total": 0, "limit": 50, "offset": 0}}


def test_the_list_has_the_users_own_tasks_newest_first(
    alice: Person, bob: Person
) -> None:
    first, second = alice.task("first"), alice.task("second")
    bob.task("Bob's")
    assert alice.tasks()["data"] == [second, first]
    assert alice.tasks()["meta"]["total"] == 2


def test_tasks_of_one_moment_are_listed_by_their_ids(
    alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = models.now()
    monkeypatch.setattr(api, "now", lambda: moment)
    tasks = [alice.task() for _ in range(5)]
    assert alice.tasks()["data"] == sorted(tasks, key=lambda t: t["id"], reverse=True)


def test_a_page_is_a_window_and_its_total_counts_all(alice: Person) -> None:
    newest_first = [alice.task(str(n)) for n in range(5)][::-1]
    for limit, offset in [(1, 0), (2, 1), (2, 4), (200, 0), (3, 5), (1, 2**31 - 1)]:
        page = alice.tasks(limit=limit, offset=offset)
        assert page["data"] == newest_first[offset : offset + limit]
        assert page["meta"] == {"total": 5, "limit": limit, "offset": offset}


def test_a_page_has_50_tasks_where_the_query_does_not_say(alice: Person) -> None:
    for n in range(51):
        alice.task(str(n))
    assert [task["title"] for task in alice.tasks()["data"]] == [
        str(n) for n in range(50, 0, -1)
    ]


def test_the_filter_narrows_the_page_and_the_total(alice: Person) -> None:
    open_task, done = alice.task("open"), alice.task("done")
    done = alice("PATCH", f"/{done['id']}/complete").json()
    page = alice.tasks(is_completed="true")
    assert (page["data"], page["meta"]["total"]) == ([done], 1)
    page = alice.tasks(is_completed="false")
    assert (page["data"], page["meta"]["total"]) == ([open_task], 1)
    page = alice.tasks(is_completed="true", offset=1)
    assert (page["data"], page["meta"]["total"]) == ([], 1)


BAD_QUERIES = ["limit=0", "limit=201", "limit=-1", "limit=x", "limit=", "limit=1.5"]
BAD_QUERIES += ["offset=-1", "offset=2147483648", "offset=9" + "9" * 30, "offset=x"]
BAD_QUERIES += ["is_completed=maybe", "is_completed=", "is_completed=2"]


@pytest.mark.parametrize("query", BAD_QUERIES)
def test_a_bad_query_is_a_400_that_names_the_parameter(
    alice: Person, query: str
) -> None:
    (error,) = assert_problem(alice("GET", f"?{query}"), 400)["errors"]
    assert error["loc"] == ["query", query.partition("=")[0]]


# --- Create ---------------------------------------------------------------------------


def test_a_new_task_is_open_and_belongs_to_its_maker(alice: Person) -> None:
    before = models.now()
    answer = alice("POST", json={"title": "Buy milk"})
    after = models.now()
    assert answer.status_code == 201
    task = answer.json()
    assert list(task) == list(models.TaskPublic.model_fields)
    assert UUID(task["id"]).version == 4
    assert task["user_id"] == alice.id
    assert task["title"] == "Buy milk"
    assert task["is_completed"] is False
    assert task["completed_at"] is None
    assert task["created_at"] == task["updated_at"]
    assert task["created_at"].endswith("Z")
    assert before <= datetime.fromisoformat(task["created_at"]) <= after
    assert answer.headers["location"] == f"{alice.path}/{task['id']}"
    assert alice("GET", answer.headers["location"]).json() == task


GOOD_TITLES = {
    "x": "x",
    "x" * 200: "x" * 200,
    " \t\n x y \u3000": "x y",
    "\U0001f95b" * 200: "\U0001f95b" * 200,
    "'; DROP TABLE tasks; -- %s :name": "'; DROP TABLE tasks; -- %s :name",
}


@pytest.mark.parametrize(("sent", "kept"), GOOD_TITLES.items())
def test_a_title_loses_the_white_space_around_it(
    alice: Person, sent: str, kept: str
) -> None:
    task = alice.task(sent)
    assert task["title"] == kept
    assert alice.sees(task) == task


def test_the_server_owns_all_but_the_title(alice: Person, bob: Person) -> None:
    own = {"id": str(uuid4()), "user_id": bob.id, "created_at": "2000-01-01T00:00:00Z"}
    body = {"title": "x", "is_completed": True, "extra": {}} | own
    task = alice("POST", json=body).json()
    assert task["user_id"] == alice.id
    assert task["id"] != own["id"]
    assert not task["is_completed"]
    assert not task["created_at"].startswith("2000")
    task = alice("PUT", f"/{task['id']}", json=body).json()
    assert (task["user_id"], task["id"] != own["id"]) == (alice.id, True)


BAD_BODIES: dict[bytes, list[str | int]] = {
    b"{}": ["body", "title"],
    b'{"title": null}': ["body", "title"],
    b'{"title": 1}': ["body", "title"],
    b'{"title": ["x"]}': ["body", "title"],
    b'{"title": NaN}': ["body", "title"],
    b'{"title": 1e999}': ["body", "title"],
    b'{"title": ""}': ["body", "title"],
    b'{"title": " \\t\\n"}': ["body", "title"],
    b'{"title": "' + b"q" * 201 + b'"}': ["body", "title"],
    b'{"title": "qq\\u0000qq"}': ["body", "title"],
    b'{"title": "\\u0000"}': ["body", "title"],
    b'{"title": "\\ud800"}': ["body", "title"],
    b"[]": ["body"],
    b'"qqqq"': ["body"],
    b"1": ["body"],
    b"": ["body"],
    b"{": ["body", 1],
    b'{"title": "qqqq"': ["body", 16],
    b"\xff": ["body"],
    b"[" * 60_000: ["body"],
    b'{"a":' * 10_000: ["body"],
    b'{"title": "x", "n": ' + b"7" * 5000 + b"}": ["body"],
}


@pytest.mark.parametrize("body", BAD_BODIES)
@pytest.mark.parametrize(("method", "path"), [("POST", ""), ("PUT", "/{task}")])
def test_a_bad_body_is_a_400_that_names_the_place_but_repeats_nothing(
    alice: Person, method: str, path: str, body: bytes
) -> None:
    task = alice.task()
    headers = {"Content-Type": "application/json"}
    url = path.format(task=task["id"])
    answer = alice(method, url, content=body, headers=headers)
    (error,) = assert_problem(answer, 400)["errors"]
    assert error["loc"] == BAD_BODIES[body]
    assert "qqqq" not in answer.text
    assert alice.tasks()["data"] == [task]


def test_a_body_that_is_no_text_is_told_so(alice: Person) -> None:
    headers = {"Content-Type": "application/json"}
    answer = alice("POST", content=b"\xff", headers=headers)
    errors = assert_problem(answer, 400)["errors"]
    assert errors == [{"loc": ["body"], "msg": "It can't be read"}]


def test_a_body_that_does_not_say_that_it_is_json_is_a_400(alice: Person) -> None:
    for headers in ({}, {"Content-Type": "text/plain"}):
        answer = alice("POST", content=b'{"title": "x"}', headers=headers)
        assert_problem(answer, 400)


def test_ten_first_tasks_at_once_make_one_user(alice: Person) -> None:
    all_have_no_user = threading.Barrier(10, timeout=60)

    def wait(*statement: Any) -> None:
        if statement[2].startswith("INSERT INTO users"):
            all_have_no_user.wait()

    event.listen(api.engine, "before_cursor_execute", wait)
    with ThreadPoolExecutor(10) as clients:
        tasks = list(clients.map(alice.task, map(str, range(10))))
    event.remove(api.engine, "before_cursor_execute", wait)
    assert alice.tasks()["meta"]["total"] == len({task["id"] for task in tasks}) == 10


# --- Get, update, delete --------------------------------------------------------------


def test_a_task_is_found_by_its_id(alice: Person) -> None:
    task, _other = alice.task("this"), alice.task("other")
    answer = alice("GET", f"/{task['id']}")
    assert (answer.status_code, answer.json()) == (200, task)


def test_an_update_changes_the_title_and_leaves_the_state(alice: Person) -> None:
    task, other = alice.task(), alice.task("other")
    for path in ("", "/complete"):
        if path:
            task = alice("PATCH", f"/{task['id']}{path}").json()
        answer = alice("PUT", f"/{task['id']}", json={"title": " Buy oat milk "})
        assert answer.status_code == 200
        updated = answer.json()
        assert updated["updated_at"] > task["updated_at"]
        expected = task | {"title": "Buy oat milk", "updated_at": updated["updated_at"]}
        assert updated == expected
        assert alice.sees(task) == updated
        assert alice.sees(other) == other
        task = updated


def test_an_update_can_complete_a_task_and_take_that_back(alice: Person) -> None:
    task = alice.task()
    body = {"title": "Buy milk", "is_completed": True}
    done = alice("PUT", f"/{task['id']}", json=body).json()
    assert done["is_completed"] is True
    assert done["completed_at"] == done["updated_at"] > task["updated_at"]
    again = alice("PUT", f"/{task['id']}", json=body).json()
    assert again["completed_at"] == done["completed_at"]
    assert again["updated_at"] > done["updated_at"]
    body["is_completed"] = False
    undone = alice("PUT", f"/{task['id']}", json=body).json()
    assert (undone["is_completed"], undone["completed_at"]) == (False, None)
    assert alice.sees(task) == undone


BAD_STATES: list[object] = [None, 0, 1, "yes", "true", [], {}]


@pytest.mark.parametrize("state", BAD_STATES)
def test_a_state_is_a_boolean_and_nothing_else(alice: Person, state: object) -> None:
    task = alice.task()
    for method, path in [("PUT", ""), ("PATCH", "/complete")]:
        body = {"title": "x", "is_completed": state}
        answer = alice(method, f"/{task['id']}{path}", json=body)
        (error,) = assert_problem(answer, 400)["errors"]
        assert error["loc"] == ["body", "is_completed"]
    assert alice.sees(task) == task


def test_a_deleted_task_is_gone(alice: Person) -> None:
    task, other = alice.task(), alice.task("other")
    answer = alice("DELETE", f"/{task['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert_problem(alice("GET", f"/{task['id']}"), 404)
    assert_problem(alice("DELETE", f"/{task['id']}"), 404)
    assert alice.tasks()["data"] == [other]


# --- Complete -------------------------------------------------------------------------


def test_complete_turns_the_state_round(alice: Person) -> None:
    task, other = alice.task(), alice.task("other")
    answer = alice("PATCH", f"/{task['id']}/complete")
    assert answer.status_code == 200
    done = answer.json()
    time_done = done["updated_at"]
    assert time_done > task["updated_at"]
    changed = {"is_completed": True, "completed_at": time_done, "updated_at": time_done}
    assert done == task | changed
    assert alice.sees(task) == done
    undone = alice("PATCH", f"/{task['id']}/complete").json()
    assert undone == task | {"updated_at": undone["updated_at"]}
    assert undone["updated_at"] > time_done
    assert alice.sees(other) == other


def test_complete_with_a_body_can_be_repeated(alice: Person) -> None:
    task = alice.task()
    for state in (True, True, False, False):
        body = {"is_completed": state}
        answer = alice("PATCH", f"/{task['id']}/complete", json=body)
        assert answer.json()["is_completed"] is state
        if state:
            task = task if task["completed_at"] else answer.json()
            assert answer.json()["completed_at"] == task["completed_at"]
        else:
            assert answer.json()["completed_at"] is None


def test_complete_with_an_empty_object_changes_nothing(alice: Person) -> None:
    task = alice.task()
    assert_problem(alice("PATCH", f"/{task['id']}/complete", json={}), 400)
    assert alice.sees(task) == task


def test_of_a_hundred_simultaneous_toggles_none_is_lost(alice: Person) -> None:
    task = alice.task()
    with ThreadPoolExecutor(20) as clients:
        answers = clients.map(
            lambda _: alice("PATCH", f"/{task['id']}/complete"), range(101)
        )
        states = [answer.json()["is_completed"] for answer in answers]
    assert states.count(True) == states.count(False) + 1
    assert alice.sees(task)["is_completed"] is True


# --- Errors ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/nothing", "/nothing/", "//complete"])
def test_a_path_that_is_no_uuid_is_a_400_or_no_path(alice: Person, path: str) -> None:
    expected = 400 if path == "/nothing" else 404
    assert_problem(alice("GET", path), expected)


@on_every_task_route
def test_an_id_that_is_no_uuid_is_a_400(
    alice: Person, method: str, path: str, body: Any
) -> None:
    answer = alice(method, path.format(task="qqqq"), json=body)
    (error,) = assert_problem(answer, 400)["errors"]
    no_uuid = "Input should be a valid UUID"
    assert error == {"loc": ["path", "task_id"], "msg": no_uuid}
    answer = alice(method, f"/api/qqqq/tasks{path.format(task=uuid4())}", json=body)
    (error,) = assert_problem(answer, 400)["errors"]
    assert error == {"loc": ["path", "user_id"], "msg": no_uuid}


def test_a_trailing_slash_is_an_unknown_path(alice: Person) -> None:
    task = alice.task()
    for path in ("/", f"/{task['id']}/", f"/{task['id']}/complete/"):
        assert_problem(alice("GET", path), 404)
    assert_problem(alice("GET", "/api"), 404)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/api/{user}/tasks", "GET, POST"),
        ("/api/{user}/tasks/{user}", "DELETE, GET, PUT"),
        ("/api/{user}/tasks/{user}/complete", "PATCH"),
        ("/health", "GET"),
        ("/docs", "GET, HEAD"),
    ],
)
def test_a_405_names_every_method_of_the_path(
    client: TestClient, path: str, allowed: str
) -> None:
    answer = client.request("TRACE", path.format(user=uuid4()))
    assert_problem(answer, 405)
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("size", [64 * 1024, 64 * 1024 + 1])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_may_have_64_kib(alice: Person, size: int, chunked: bool) -> None:
    body = b'{"title": "x", "y": "' + b"y" * (size - 23) + b'"}'
    headers = {"Content-Type": "application/json"}
    chunks = iter([body[:1000], body[1000:]])
    answer = alice("POST", content=chunks if chunked else body, headers=headers)
    if size == 64 * 1024:
        assert answer.status_code == 201
    else:
        assert_problem(answer, 413)
        assert alice.tasks()["data"] == []


@pytest.fixture
def defect(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a defect with a secret")

    monkeypatch.setattr(api, "execute", broken)


@pytest.mark.usefixtures("defect")
def test_a_defect_is_a_500_with_its_traceback_in_the_log_only(
    alice: Person, caplog: pytest.LogCaptureFixture
) -> None:
    answer = alice("GET")
    assert_problem(answer, 500)
    assert "secret" not in answer.text
    (record,) = caplog.records
    assert record.exc_info and record.exc_info[0] is ZeroDivisionError
    assert alice.path in record.getMessage()


def test_what_the_database_refuses_for_no_known_reason_is_a_defect(
    alice: Person, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(api, "GET", text("SELECT * FROM nothing"))
    assert_problem(alice("GET", f"/{uuid4()}"), 500)
    assert caplog.records[-1].exc_info
    monkeypatch.setattr(api, "CREATE", text("INSERT INTO users (id) VALUES (NULL)"))
    assert_problem(alice("POST", json={"title": "x"}), 500)


PAGE = "http://localhost:3000"


@pytest.mark.parametrize(
    ("status", "method", "path", "options"),
    [
        (200, "GET", "", {}),
        (201, "POST", "", {"json": {"title": "x"}}),
        (400, "POST", "", {"json": {}}),
        (401, "GET", "", {"headers": {"Authorization": ""}}),
        (403, "GET", f"/api/{NOBODY}/tasks", {}),
        (404, "GET", f"/{NOBODY}", {}),
        (404, "GET", "/api", {}),
        (405, "PUT", "", {}),
        (413, "POST", "", {"content": b"x" * 70_000}),
    ],
)
def test_a_page_of_an_allowed_origin_can_read_every_answer(
    alice: Person, status: int, method: str, path: str, options: Any
) -> None:
    options["headers"] = {"Origin": PAGE} | options.get("headers", {})
    answer = alice(method, path, **options)
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == PAGE
    exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
    assert {"allow", "location", "retry-after", "www-authenticate"} == set(exposed)
    options["headers"]["Origin"] = "http://elsewhere.example"
    answer = alice(method, path, **options)
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.usefixtures("defect")
def test_a_page_of_an_allowed_origin_can_read_a_500(alice: Person) -> None:
    answer = alice("GET", headers={"Origin": PAGE})
    assert answer.status_code == 500
    assert answer.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
def test_a_browser_is_told_what_a_page_may_send(
    client: TestClient, method: str
) -> None:
    headers = {
        "Origin": PAGE,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    answer = client.options(f"/api/{NOBODY}/tasks", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize(
    ("header", "value", "named", "readable_by"),
    [
        ("Origin", "http://elsewhere.example", "origin", None),
        ("Access-Control-Request-Method", "TRACE", "method", PAGE),
        ("Access-Control-Request-Headers", "x-other", "headers", PAGE),
    ],
)
def test_a_browser_is_told_what_is_not_allowed(
    client: TestClient, header: str, value: str, named: str, readable_by: str | None
) -> None:
    headers = {"Origin": PAGE, "Access-Control-Request-Method": "GET"} | {header: value}
    answer = client.options(f"/api/{NOBODY}/tasks", headers=headers)
    (error,) = assert_problem(answer, 400)["errors"]
    assert error == {"loc": ["header"], "msg": f"Disallowed CORS {named}"}
    assert answer.headers.get("access-control-allow-origin") == readable_by
    assert answer.headers["vary"].startswith("Origin")
    assert answer.headers.get_list("content-length") == [str(len(answer.content))]


# --- Health and the document ----------------------------------------------------------


def test_health_asks_neither_for_a_token_nor_for_the_database(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "engine", None)
    monkeypatch.setattr(api, "execute", None)
    answer = client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


DOCUMENTED = {
    "list_tasks": {200, 400, 401, 403, 413, 500, 503},
    "create_task": {201, 400, 401, 403, 413, 500, 503},
    "get_task": {200, 400, 401, 403, 404, 413, 500, 503},
    "update_task": {200, 400, 401, 403, 404, 413, 500, 503},
    "delete_task": {204, 400, 401, 403, 404, 413, 500, 503},
    "complete_task": {200, 400, 401, 403, 404, 413, 500, 503},
}


def test_the_document_describes_six_operations_and_all_their_answers(
    client: TestClient,
) -> None:
    document = client.get("/openapi.json").json()
    operations = {
        operation["operationId"]: operation
        for path in document["paths"].values()
        for operation in path.values()
    }
    schemas = document["components"]["schemas"]
    assert document["info"] == {"title": "Task API", "version": "1.0.0"}
    assert set(document["paths"]) == {
        "/api/{user_id}/tasks",
        "/api/{user_id}/tasks/{task_id}",
        "/api/{user_id}/tasks/{task_id}/complete",
    }
    for name, operation in operations.items():
        answers = operation["responses"]
        assert {int(status) for status in answers} == DOCUMENTED[name]
        assert operation["security"] == [{"HTTPBearer": []}]
        assert operation["description"]
        assert operation["tags"] == ["tasks"]
        for parameter in operation["parameters"]:
            is_id = parameter["name"] in ("user_id", "task_id")
            assert parameter["schema"].get("format") == ("uuid" if is_id else None)
        for status, answer in answers.items():
            if status == "204":
                assert "content" not in answer
                continue
            error = status >= "400"
            ((media_type, content),) = answer["content"].items()
            assert media_type == f"application/{'problem+' if error else ''}json"
            schema = content["schema"]["$ref"].rpartition("/")[2]
            example = content.get("example") or schemas[schema]["example"]
            assert set(example) == set(schemas[schema]["properties"])
            if error:
                assert schema == ("InvalidInput" if status == "400" else "Problem")
                assert example["status"] == int(status)
    assert set(operations) == set(DOCUMENTED)
    assert document["components"]["securitySchemes"]["HTTPBearer"] == {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
    }
    assert not [name for name in schemas if "Validation" in name]


def test_the_examples_of_the_document_are_valid(client: TestClient) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    title = schemas["TaskCreate"]["properties"]["title"]
    assert models.TaskCreate(title=title["examples"][0])
    assert (title["minLength"], title["maxLength"]) == (1, 200)
    page = models.TaskPage.model_validate(schemas["TaskPage"]["example"])
    assert page.data[0].is_completed and page.data[0].completed_at
    assert page.meta == models.PageMeta(total=1, limit=50, offset=0)
    task = models.TaskPublic.model_validate(schemas["TaskPublic"]["example"])
    assert page.data == [task]


def test_the_documentation_page_is_served(client: TestClient) -> None:
    assert client.get("/docs").status_code == 200


# --- The database ---------------------------------------------------------------------


def test_every_request_is_one_statement(alice: Person) -> None:
    alice.task()
    statements: list[str] = []

    def count(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(api.engine, "before_cursor_execute", count)
    try:
        task = alice.task()
        alice.tasks(offset=100)
        alice("GET", f"/{task['id']}")
        alice("PUT", f"/{task['id']}", json={"title": "x"})
        alice("PATCH", f"/{task['id']}/complete")
        alice("DELETE", f"/{task['id']}")
    finally:
        event.remove(api.engine, "before_cursor_execute", count)
    verbs = [statement.split()[0] for statement in statements]
    assert verbs == ["INSERT", "SELECT", "SELECT", "UPDATE", "UPDATE", "DELETE"]
    assert all("user_id" in statement for statement in statements)


@pytest.mark.parametrize(
    "change",
    [
        "title = ''",
        f"title = '{'x' * 201}'",
        "is_completed = (completed_at IS NULL)",
        "completed_at = created_at",
        f"user_id = '{NOBODY if POSTGRES else NOBODY.replace('-', '')}'",
    ],
)
def test_the_database_itself_refuses_a_broken_task(alice: Person, change: str) -> None:
    task = alice.task()
    statement = text(f"UPDATE tasks SET {change} WHERE title = 'Buy milk'")
    with api.engine.connect() as connection, pytest.raises(IntegrityError):
        connection.execute(statement)
    assert alice.sees(task) == task


def test_a_deleted_user_takes_their_tasks_along(alice: Person, bob: Person) -> None:
    gone, kept = alice.task(), bob.task()
    users = SQLModel.metadata.tables["users"]
    with api.engine.connect() as connection:
        deleted = users.delete().where(users.c.id == UUID(alice.id))
        connection.execute(deleted)
    assert alice.sees(gone) is None
    assert bob.sees(kept) == kept


def test_two_users_can_have_a_task_of_one_id(alice: Person, bob: Person) -> None:
    task = alice.task()
    bob.task()
    values = task | {"id": UUID(task["id"]), "user_id": UUID(bob.id), "title": "Bob's"}
    times = {"created_at": models.now(), "updated_at": models.now()}
    with api.engine.connect() as connection:
        connection.execute(models.tasks.insert(), values | times)
    assert alice("DELETE", f"/{task['id']}").status_code == 204
    assert bob.sees(task)["title"] == "Bob's"


def test_every_constraint_and_index_has_its_name() -> None:
    tables = inspect(api.engine)
    schema = SCHEMA if POSTGRES else None
    checks = {c["name"] for c in tables.get_check_constraints("tasks", schema)}
    assert checks == {"ck_tasks_title_length", "ck_tasks_completed_at"}
    key = tables.get_pk_constraint("tasks", schema)
    assert key["name"] == "pk_tasks"
    assert key["constrained_columns"] == ["user_id", "id"]
    assert tables.get_pk_constraint("users", schema)["name"] == "pk_users"
    (foreign_key,) = tables.get_foreign_keys("tasks", schema)
    assert foreign_key["name"] == "fk_tasks_user_id"
    indexes = {index["name"] for index in tables.get_indexes("tasks", schema)}
    assert indexes == {"ix_tasks_user_id_created_at_id"}


def test_an_indexed_and_a_unique_field_of_yours_have_names_too() -> None:
    metadata = MetaData(naming_convention=SQLModel.metadata.naming_convention)
    column = Column("due_date", Date, index=True)
    table = Table("yours", metadata, column, UniqueConstraint("due_date"))
    assert {index.name for index in table.indexes} == {"ix_yours_due_date"}
    assert "uq_yours_due_date" in {rule.name for rule in table.constraints}


def test_the_list_is_read_from_its_index_in_order(alice: Person) -> None:
    for n in range(30):
        alice.task(str(n))
    values = {"owner": UUID(alice.id), "completed": None, "limit": 20, "offset": 0}
    with api.engine.connect() as connection:
        if POSTGRES:  # a small table is read faster without an index
            connection.exec_driver_sql("ANALYZE tasks")
            connection.exec_driver_sql("SET enable_seqscan = off")
            connection.exec_driver_sql("SET enable_bitmapscan = off")
        explain = "EXPLAIN" if POSTGRES else "EXPLAIN QUERY PLAN"
        statement = api.LIST.prefix_with("/**/")  # EXPLAIN goes before all of it

        @event.listens_for(connection, "before_cursor_execute", retval=True)
        def ask_for_the_plan(_c: Any, _k: Any, sql: str, given: Any, *_: Any) -> Any:
            return f"{explain} {sql}", given

        plan = str(connection.execute(statement, values).cursor.fetchall())
        connection.invalidate()
    assert "ix_tasks_user_id_created_at_id" in plan
    assert "Sort" not in plan and "TEMP B-TREE" not in plan
    # No filter was asked for, and none misleads the planner.
    assert "Filter" not in plan


# --- Real servers ---------------------------------------------------------------------


class Server:
    """A real uvicorn; `log` is what it said so far, `url` where it serves."""

    def __init__(self, *command: str, cwd: str | Path = HERE, **settings: str) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **settings}
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=cwd,
            env={name: value for name, value in environment.items() if value},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.log, self.changed = "", threading.Condition()
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self) -> None:
        """Collect what the process says, until it ends."""
        assert self.process.stdout
        with self.process.stdout as lines:
            for line in lines:
                with self.changed:
                    self.log += line
                    self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def wait_for(self, words: str, times: int = 1) -> None:
        """Return when the process has said the words so often."""
        with self.changed:
            assert self.changed.wait_for(
                lambda: self.log.count(words) >= times or not self.reader.is_alive(),
                timeout=60,
            )
            assert self.log.count(words) >= times, self.log

    @property
    def url(self) -> str:
        found = re.search(r"running on (http://\S+)", self.log)
        assert found, self.log
        return found[1]

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """Stop the process and wait for its end."""
        self.process.send_signal(with_signal)
        self.process.wait(timeout=60)
        self.reader.join(timeout=60)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Return a function that starts servers, which end with the test."""
    servers: list[Server] = []

    def start(*options: str, **settings: str) -> Server:
        command = ("-m", "uvicorn", "app:app", "--port", "0", *options)
        servers.append(Server(*command, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.stop(signal.SIGKILL)


@pytest.fixture
def visit() -> Iterator[Callable[[Server], Person]]:
    """Return a function that makes somebody who speaks with a real server."""
    with ExitStack() as clients:

        def person(server: Server) -> Person:
            server.wait_for("Uvicorn running on")
            client = httpx2.Client(base_url=server.url, timeout=60)
            return Person(clients.enter_context(client))

        yield person


REFUSALS: list[tuple[dict[str, str], str]] = [
    ({"JWT_SECRET": ""}, "JWT_SECRET"),
    ({"JWT_JWKS_URL": "http://localhost/keys"}, "JWT_JWKS_URL"),
    ({"JWT_SECRET": "x" * 31}, "32"),
    ({"JWT_SECRET": '{"kty": "oct", "k": "AAAAAAAAAAAAAAAAAAAA"}'}, "JWT_SECRET"),
    ({"JWT_SECRET": "", "JWT_JWKS_URL": "file:///etc/passwd"}, "JWT_JWKS_URL"),
    ({"JWT_SECRET": "", "JWT_JWKS_URL": "http://[::1"}, "JWT_JWKS_URL"),
    ({"JWT_SECRET": "", "JWT_JWKS_URL": "https://"}, "JWT_JWKS_URL"),
    ({"JWT_SECRET": "", "JWT_JWKS_URL": "http://h:99999/keys"}, "JWT_JWKS_URL"),
    ({"DATABASE_URL": "nonsense"}, "DATABASE_URL"),
    ({"DATABASE_URL": "mysql://u:hidden@localhost/x"}, "DATABASE_URL"),
    ({"DATABASE_URL": "postgresql+asyncpg://u:hidden@localhost/x"}, "DATABASE_URL"),
    ({"DATABASE_URL": "postgresql://u:hidden@localhost:port/x"}, "DATABASE_URL"),
    ({"DATABASE_URL": "postgresql://u:hidden@127.0.0.1:1/x"}, "refused"),
    ({"DATABASE_URL": "postgres://u:hidden@127.0.0.1:1/x"}, "refused"),
    ({"DATABASE_URL": "postgresql://u@127.0.0.1:1/x?nonsense=1"}, "nonsense"),
    ({"DATABASE_URL": "postgresql://h/x?connection_factory=x"}, "DATABASE_URL"),
    ({"DATABASE_URL": "sqlite://"}, "DATABASE_URL"),
    ({"DATABASE_URL": "sqlite:///:memory:"}, "DATABASE_URL"),
    ({"DATABASE_URL": "sqlite:///file::memory:?uri=true"}, "DATABASE_URL"),
    ({"DATABASE_URL": "sqlite://host/tasks.db"}, "DATABASE_URL"),
    ({"DATABASE_URL": "sqlite:///tasks.db?timeout=soon"}, "DATABASE_URL"),
    ({"DATABASE_URL": "sqlite:///%00.db"}, "DATABASE_URL"),
    ({"DATABASE_URL": "sqlite:////nowhere/tasks.db"}, "DATABASE_URL"),
]
if POSTGRES:
    REFUSALS.append(({"DATABASE_URL": f"{DATABASE_URL}&cursor_factory=x"}, "callable"))


@pytest.mark.parametrize(("settings", "named"), REFUSALS)
def test_a_start_that_is_refused_says_in_one_line_what_to_set(
    with_settings: Callable[..., Any],
    capfd: pytest.CaptureFixture[str],
    settings: dict[str, str],
    named: str,
) -> None:
    with pytest.raises(SystemExit) as end:
        with_settings(**settings)
    assert end.value.code
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("Can't start: ")
    assert named in line
    assert "hidden" not in line


@pytest.mark.parametrize(("settings", "named"), [REFUSALS[0], REFUSALS[-1]])
def test_a_refused_start_ends_uvicorn_with_that_line(
    serve: Callable[..., Server], settings: dict[str, str], named: str
) -> None:
    server = serve(**settings)
    assert server.process.wait(timeout=60) != 0
    server.reader.join()
    (line,) = server.log.splitlines()
    assert line.startswith("Can't start: ") and named in line


def example_settings() -> dict[str, str]:
    """Return what .env.example sets."""
    lines = (HERE / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))


def test_a_database_in_memory_is_refused_by_its_mode_too(
    with_settings: Callable[..., Any],
) -> None:
    with pytest.warns(DeprecationWarning), pytest.raises(SystemExit):
        with_settings(DATABASE_URL="sqlite:///file:x?mode=memory&uri=true")


def test_the_tasks_are_in_a_file_where_nothing_else_is_set(
    with_settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with_settings(DATABASE_URL="")
    assert (tmp_path / "tasks.db").exists()


def test_the_pool_keeps_a_connection_for_each_thread() -> None:
    assert isinstance(api.engine.pool, QueuePool)
    assert api.engine.pool.size() == api.POOL_SIZE == 10


def test_a_secret_of_32_bytes_is_enough(with_settings: Callable[..., Any]) -> None:
    assert with_settings(JWT_SECRET="x" * 32).app


def test_the_unchanged_example_is_refused(serve: Callable[..., Server]) -> None:
    settings = dict.fromkeys(example_settings(), "")
    server = serve("--env-file", ".env.example", **settings)
    assert server.process.wait(timeout=60) != 0
    server.reader.join()
    assert server.log.splitlines()[-1].startswith("Can't start: ")
    assert "JWT_SECRET" in server.log
    assert "Traceback" not in server.log


def test_the_example_explains_every_setting_that_there_is() -> None:
    used = set(
        re.findall(r"environ(?:\.get\(|\[)[\"'](\w+)", (HERE / "app.py").read_text())
    )
    explained = set(
        re.findall(r"^#? ?(\w+)=", (HERE / ".env.example").read_text(), re.MULTILINE)
    )
    assert used == explained


def test_a_worker_that_cannot_start_is_not_started_again(
    serve: Callable[..., Server],
) -> None:
    server = serve("--workers", "2", DATABASE_URL="postgresql://u@127.0.0.1:1/x")
    server.process.wait(timeout=60)
    server.reader.join()
    assert 1 <= server.log.count("Can't start: ") <= 2


@pytest.fixture
def empty_database() -> Iterator[str]:
    """Return the URL of a database that has no tables yet."""
    name = f"empty_{uuid4().hex}"
    if not POSTGRES:
        yield f"sqlite:///{FOLDER.name}/{name}.db"
        return
    on_postgres(f"CREATE SCHEMA {name}")
    yield DATABASE_URL.replace(SCHEMA, name)
    on_postgres(f"DROP SCHEMA {name} CASCADE")


def test_four_workers_start_at_once_on_an_empty_database_and_share_it(
    serve: Callable[..., Server], visit: Callable[[Server], Person], empty_database: str
) -> None:
    server = serve("--workers", "4", DATABASE_URL=empty_database)
    server.wait_for("Application startup complete.", times=4)
    alice = visit(server)
    with ThreadPoolExecutor(20) as clients:
        tasks = list(clients.map(alice.task, map(str, range(40))))
    assert alice.tasks()["meta"]["total"] == len(tasks)
    server.stop()
    assert "Traceback" not in server.log


def test_a_task_is_there_after_the_process_was_killed(
    serve: Callable[..., Server], visit: Callable[[Server], Person], empty_database: str
) -> None:
    server = serve(DATABASE_URL=empty_database)
    alice = visit(server)
    task = alice.task()
    server.stop(signal.SIGKILL)
    server = serve(DATABASE_URL=empty_database)
    alice.client = visit(server).client
    assert alice.sees(task) == task


def test_a_request_in_flight_is_answered_before_the_process_ends(
    serve: Callable[..., Server],
    visit: Callable[[Server], Person],
) -> None:
    server = serve("--log-level", "debug")
    alice, stopped = visit(server), threading.Event()

    def slow_body() -> Iterator[bytes]:
        yield b'{"title": '
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("Waiting for connections to close")
        stopped.set()
        yield b'"Buy milk"}'

    headers = {"Content-Type": "application/json"}
    answer = alice("POST", content=slow_body(), headers=headers)
    assert answer.status_code == 201
    assert stopped.is_set()
    server.process.wait(timeout=60)
    server.reader.join()
    assert "Traceback" not in server.log


@pytest.mark.parametrize("zeros", ["", "0" * 5000])
def test_an_announced_body_that_is_too_large_is_refused_before_it_comes(
    serve: Callable[..., Server], visit: Callable[[Server], Person], zeros: str
) -> None:
    server = serve()
    alice = visit(server)
    address = make_url(server.url)
    with socket.create_connection((address.host, address.port), timeout=60) as line:
        request = f"POST {alice.path} HTTP/1.1\r\nAuthorization: Bearer {alice.token}"
        length = f"Content-Length: {zeros}65537"
        line.sendall(f"{request}\r\nHost: x\r\n{length}\r\n\r\n".encode())
        assert line.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_the_demo_prints_lines_that_work_and_keeps_the_tasks(
    empty_database: str,
) -> None:
    tasks = []
    for secret, workers in [("", "1"), (SECRET, "2")]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        server = Server(
            *("app.py", "--port", port, "--workers", workers),
            JWT_SECRET=secret,
            JWT_ISSUER="https://auth.example",
            JWT_AUDIENCE="tasks",
            DATABASE_URL=empty_database,
        )
        try:
            server.wait_for("Application startup complete.", times=int(workers))
            lines = re.findall(r"^(curl .*)$", server.log, re.MULTILINE)
            assert len(lines) == 2
            assert f"http://127.0.0.1:{port}/docs\n" in server.log
            for line in lines:
                demo_token = shlex.split(line)[-1].split()[-1]
                claims = jwt.decode(demo_token, options={"verify_signature": False})
                assert 0 < claims["exp"] - time.time() - 23 * 3600 <= 3600  # for a day
                create = [*shlex.split(line), "-H", "Content-Type: application/json"]
                create += ["-d", '{"title": "Buy milk"}']
                made = subprocess.run(create, capture_output=True, check=True).stdout
                tasks.append(json.loads(made))
                shown = subprocess.run(
                    shlex.split(line), capture_output=True, check=True
                ).stdout
                mine = [t for t in tasks if t["user_id"] == tasks[-1]["user_id"]]
                assert json.loads(shown)["data"] == mine[::-1]
        finally:
            server.stop()
    assert len({task["user_id"] for task in tasks}) == 2
    assert len(tasks) == 4


def test_the_demo_is_refused_where_it_cannot_sign() -> None:
    settings = {"JWT_SECRET": "", "JWT_JWKS_URL": "http://localhost/keys"}
    server = Server("app.py", **settings)
    assert server.process.wait(timeout=60) != 0
    server.reader.join()
    (line,) = server.log.splitlines()
    assert line.startswith("Can't start: ") and "JWT_JWKS_URL" in line


# --- A database that is lost ----------------------------------------------------------


def test_who_waits_too_long_gets_a_503(
    alice: Person, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert api.PATIENCE < 30
    task, may_answer = alice.task(), threading.Event()

    def wait(*_: object) -> None:
        may_answer.wait(5)

    event.listen(api.engine, "before_cursor_execute", wait)
    monkeypatch.setattr(api, "PATIENCE", 0.05)
    answers = [alice("GET") for _ in range(12)]  # more than there are threads
    event.remove(api.engine, "before_cursor_execute", wait)
    may_answer.set()
    monkeypatch.undo()
    for answer in answers:
        assert_problem(answer, 503)
        assert int(answer.headers["retry-after"]) > 0
    assert "0.05 s" in caplog.text
    assert alice.tasks()["data"] == [task]


def test_nobody_is_hung_up_on_who_does_not_wait_for_a_server() -> None:
    with Session(api.engine) as session:
        api.hang_up(session)
        assert not session.in_transaction()
        if not POSTGRES:  # SQLite's wait ends by itself
            session.connection()
            api.hang_up(session)
            assert session.bind


if POSTGRES:

    def close_all_connections() -> None:
        """Return when the server has closed every connection of the application."""
        on_postgres(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            f" WHERE application_name = '{SCHEMA}'"
        )

    def test_a_connection_that_the_server_closed_meets_no_request(
        alice: Person,
    ) -> None:
        for _ in range(3):
            close_all_connections()
            for _ in range(5):
                alice.task()  # is not repeated, other than a read

    def test_a_read_that_meets_a_closed_connection_is_repeated_and_a_write_is_not(
        alice: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        api.engine.dispose()  # from here on there is one connection
        task = alice.task()
        monkeypatch.setattr(api.dialect, "do_ping", lambda _: True)  # it came too late
        close_all_connections()
        assert alice.sees(task) == task
        close_all_connections()
        assert_problem(alice("PATCH", f"/{task['id']}/complete"), 503)
        assert alice.sees(task) == task

    def test_a_start_waits_for_one_that_makes_the_tables(
        serve: Callable[..., Server], empty_database: str
    ) -> None:
        waiting = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        tables = (
            f"SELECT to_regclass('{empty_database.split('_path%3D')[1][:38]}.tasks')"
        )
        with closing(psycopg2.connect(POSTGRES.replace("+psycopg2", ""))) as other:
            other.cursor().execute("SELECT pg_advisory_lock(7265)")
            server = serve(DATABASE_URL=empty_database)
            deadline = time.monotonic() + 60
            while not on_postgres(waiting) and time.monotonic() < deadline:
                pass
            assert on_postgres(tables) == [(None,)]
        server.wait_for("Uvicorn running on")

    class Link:
        """A TCP link to the test server that can be cut, or swallow what is asked."""

        def __init__(self) -> None:
            self.listener = socket.create_server(("127.0.0.1", 0))
            port = self.listener.getsockname()[1]
            url = make_url(DATABASE_URL).set(host="127.0.0.1", port=port)
            self.url = url.render_as_string(hide_password=False)
            self.sockets: list[socket.socket] = []
            self.open = True
            self.swallows = False
            self.questions = 0
            threading.Thread(target=self.accept, daemon=True).start()

        def accept(self) -> None:
            while True:
                client, _ = self.listener.accept()
                if not self.open:
                    client.close()
                    continue
                parsed = psycopg2.extensions.parse_dsn(POSTGRES)
                server = socket.create_connection(
                    (parsed["host"], int(parsed.get("port", 5432)))
                )
                self.sockets += [client, server]
                for ends in [(client, server, True), (server, client, False)]:
                    threading.Thread(target=self.pump, args=ends, daemon=True).start()

        def pump(
            self, source: socket.socket, target: socket.socket, asks: bool
        ) -> None:
            try:
                while data := source.recv(65536):
                    self.questions += asks
                    if not (asks and self.swallows):
                        target.sendall(data)
            except OSError:
                pass
            target.close()

        def cut(self) -> None:
            self.open = False
            for end in self.sockets:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    @pytest.fixture
    def link() -> Iterator[Link]:
        link = Link()
        yield link
        link.cut()

    def test_every_request_is_one_round_trip(
        with_settings: Callable[..., Any], link: Link
    ) -> None:
        with TestClient(with_settings(DATABASE_URL=link.url).app) as client:
            Person(client).tasks()  # connects
            alice = Person(client)

            def asked(method: str, path: str = "", **options: Any) -> int:
                before = link.questions
                assert alice(method, path, **options).status_code < 500
                return link.questions - before

            assert asked("POST", json={"title": "x"}) == 3  # a user's first task
            task = alice.task()
            for method, path, body in ROUTES:
                assert asked(method, path.format(task=task["id"]), json=body) == 1

    def test_a_server_that_lives_but_never_answers_gets_a_new_connection(
        with_settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, link: Link
    ) -> None:
        module = with_settings(DATABASE_URL=link.url)
        monkeypatch.setattr(module, "threads", ThreadPoolExecutor(1))
        with TestClient(module.app) as client:
            alice = Person(client)
            task = alice.task()
            asked = link.questions
            link.swallows = True
            monkeypatch.setattr(module, "PATIENCE", 0.05)
            assert_problem(alice("GET"), 503)
            module.threads.submit(int).result(timeout=60)  # the thread is free again
            assert link.questions == asked + 1
            link.swallows = False
            monkeypatch.setattr(module, "PATIENCE", 25)
            assert alice.tasks()["data"] == [task]

    def test_a_silent_network_is_noticed() -> None:
        with api.engine.connect() as connection:
            driver: Any = connection.connection.dbapi_connection
        given = driver.info.dsn_parameters
        assert int(given["connect_timeout"]) <= 10
        idle, interval, count = (
            int(given[f"keepalives_{name}"]) for name in ("idle", "interval", "count")
        )
        assert idle + interval * count <= 10
        assert int(given["tcp_user_timeout"]) <= 10_000

    def test_a_lost_database_is_a_503_until_it_is_back(
        serve: Callable[..., Server],
        visit: Callable[[Server], Person],
        link: Link,
    ) -> None:
        server = serve(DATABASE_URL=link.url)
        alice = visit(server)
        task = alice.task()
        link.cut()
        for method, path, body in ROUTES:
            answer = alice(method, path.format(task=task["id"]), json=body)
            assert_problem(answer, 503)
            assert int(answer.headers["retry-after"]) > 0
        assert alice.client.get("/health").status_code == 200
        link.open = True
        assert alice.tasks()["data"] == [task]
        assert "The database is lost: " in server.log
        assert "Traceback" not in server.log

else:

    def test_a_locked_database_is_a_503_until_it_is_free(
        serve: Callable[..., Server],
        visit: Callable[[Server], Person],
    ) -> None:
        server = serve(DATABASE_URL=f"{DATABASE_URL}?timeout=0.1")
        alice = visit(server)
        task = alice.task()
        with api.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            answer = alice("POST", json={"title": "x"})
            assert_problem(answer, 503)
            assert int(answer.headers["retry-after"]) > 0
            assert alice.tasks()["data"] == [task]
            connection.exec_driver_sql("ROLLBACK")
        alice.task()
        assert "The database is lost: database is locked" in server.log
        assert "Traceback" not in server.log

    def test_a_connection_beside_a_writer_leaves_the_file_as_it_is(
        with_settings: Callable[..., Any], empty_database: str
    ) -> None:
        module = with_settings(DATABASE_URL=empty_database)
        module.engine.dispose()
        file = make_url(empty_database).database or ""
        with closing(sqlite3.connect(file)) as writer, TestClient(module.app) as client:
            writer.execute("PRAGMA journal_mode = DELETE")
            writer.execute("BEGIN IMMEDIATE")
            assert Person(client).tasks()["data"] == []

    def test_sqlite_keeps_foreign_keys_and_a_write_ahead_log() -> None:
        with api.engine.connect() as connection:
            for pragma, value in [("foreign_keys", 1), ("journal_mode", "wal")]:
                asked = connection.exec_driver_sql(f"PRAGMA {pragma}")
                assert asked.scalar() == value
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 20000


# --- Key sets -------------------------------------------------------------------------


class Issuer:
    """An auth system that publishes a key set over HTTP."""

    def __init__(self) -> None:
        self.private: dict[str, tuple[str, Any]] = {}
        self.look_ups, self.reply, self.status = 0, b"", 200
        self.may_answer = threading.Event()
        self.may_answer.set()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.look_ups += 1
                issuer.may_answer.wait(60)
                reply = issuer.reply or issuer.key_set()
                self.send_response(issuer.status)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(
            target=self.server.serve_forever, args=(0.01,), daemon=True
        ).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks"

    def publish(self, key_id: str, algorithm: str) -> None:
        """Make a key and publish its public half."""
        makers: dict[str, Callable[[], Any]] = {
            "RS256": lambda: rsa.generate_private_key(65537, 2048),
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
        }
        self.private[key_id] = (algorithm, makers[algorithm]())

    def key_set(self) -> bytes:
        keys = []
        for key_id, (algorithm, private) in self.private.items():
            encoder: Any = jwt.get_algorithm_by_name(algorithm)
            public = json.loads(encoder.to_jwk(private.public_key()))
            keys.append(public | {"kid": key_id, "alg": algorithm, "use": "sig"})
        return json.dumps({"keys": keys}).encode()

    def token(self, key_id: str, header: Any = None, **claims: Any) -> str:
        """Return a token that the key has signed."""
        claims = {"sub": NOBODY, "exp": time.time() + 60} | claims
        algorithm, private = self.private[key_id]
        return jwt.encode(claims, private, algorithm, header or {"kid": key_id})


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    issuer.publish("first", "EdDSA")
    yield issuer
    issuer.may_answer.set()
    issuer.server.shutdown()
    issuer.server.server_close()


class Clock:
    """A clock that the test sets."""

    seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


class KeySetClient:
    """The application with a key set, asked for one user's tasks."""

    def __init__(self, module: Any, client: TestClient) -> None:
        self.client, self.clock = client, Clock()
        module.monotonic = self.clock

    def __call__(self, token: str | bytes) -> httpx2.Response:
        value = token.encode() if isinstance(token, str) else token
        headers = {b"Authorization": b"Bearer " + value}
        return self.client.get(f"/api/{NOBODY}/tasks", headers=headers)


@pytest.fixture
def ask(issuer: Issuer, with_settings: Callable[..., Any]) -> Iterator[KeySetClient]:
    module = with_settings(JWT_SECRET="", JWT_JWKS_URL=issuer.url)
    with TestClient(module.app, raise_server_exceptions=False) as client:
        yield KeySetClient(module, client)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_token_of_a_published_key_gets_in(
    issuer: Issuer, ask: KeySetClient, algorithm: str
) -> None:
    issuer.publish("key", algorithm)
    assert ask(issuer.token("key")).status_code == 200


def test_the_url_of_a_key_set_may_have_any_characters(
    issuer: Issuer, with_settings: Callable[..., Any]
) -> None:
    module = with_settings(JWT_SECRET="", JWT_JWKS_URL=f"{issuer.url}/clés?of=[all]")
    with TestClient(module.app) as client:
        assert KeySetClient(module, client)(issuer.token("first")).status_code == 200


def test_a_token_that_fits_no_published_key_is_refused(
    issuer: Issuer, ask: KeySetClient
) -> None:
    for algorithm in ("RS256", "ES256", "EdDSA"):
        issuer.publish(algorithm, algorithm)
    pem = issuer.private["RS256"][1].public_key()
    public = jwt.algorithms.RSAAlgorithm.to_jwk(pem)
    forged: list[str | bytes] = [
        issuer.token("RS256", {"kid": "ES256"}),
        issuer.token("ES256", {"kid": "EdDSA"}),
        issuer.token("EdDSA", {"kid": "first"}),
        issuer.token("first", {"other": "header"}),
        jwt.encode(
            {"sub": NOBODY, "exp": time.time() + 60}, SECRET, headers={"kid": "first"}
        ),
        jwt.api_jws.encode(
            json.dumps({"sub": NOBODY}).encode(),
            public[:64] * 2,
            headers={"kid": "RS256"},
        ),
        unsigned({"alg": "none", "kid": "first"}),
        unsigned({"alg": "EdDSA", "kid": "first"}),
        unsigned({"alg": "RS256", "kid": "first"}),
        unsigned({"alg": "EdDSA", "kid": None}),
        unsigned({"alg": "EdDSA", "kid": [1]}),
        unsigned({"alg": "EdDSA", "kid": "first", "jwk": {}, "crit": ["jwk"]}),
        unsigned({"alg": "ES256", "kid": "odd"}),
    ]
    odd = ec.generate_private_key(ec.SECP384R1())  # which is no curve of ES256
    issuer.private["odd"] = ("ES256", odd)
    for value in forged + BAD_TOKENS:
        assert_problem(ask(value), 401)
    assert issuer.look_ups <= 2
    bad_claims = issuer.token("first", sub="alice")
    assert "not a UUID" in assert_problem(ask(bad_claims), 401)["detail"]


def test_steady_traffic_makes_no_look_ups(issuer: Issuer, ask: KeySetClient) -> None:
    for _ in range(20):
        assert ask(issuer.token("first")).status_code == 200
        ask.clock.seconds += 10
    assert issuer.look_ups == 1


def test_a_new_key_is_found_within_45_seconds(
    issuer: Issuer, ask: KeySetClient
) -> None:
    assert ask(issuer.token("first")).status_code == 200
    issuer.publish("second", "ES256")
    ask.clock.seconds += 45
    assert ask(issuer.token("second")).status_code == 200
    assert ask(issuer.token("first")).status_code == 200
    assert issuer.look_ups == 2


def test_a_withdrawn_key_is_refused_after_five_minutes(
    issuer: Issuer, ask: KeySetClient
) -> None:
    old = issuer.token("first")
    assert ask(old).status_code == 200
    del issuer.private["first"]
    issuer.publish("second", "EdDSA")
    ask.clock.seconds += 301
    ask(old)  # makes the look-up, without waiting for it
    assert ask(issuer.token("second")).status_code == 200
    assert_problem(ask(old), 401)


def test_a_stream_of_unknown_key_ids_is_no_stream_of_look_ups(
    issuer: Issuer, ask: KeySetClient
) -> None:
    with ThreadPoolExecutor(20) as clients:
        tokens = [issuer.token("first", {"kid": str(n)}) for n in range(100)]
        answers = list(clients.map(ask, tokens))
    assert {answer.status_code for answer in answers} == {401}
    assert issuer.look_ups == 1


def test_all_the_first_requests_wait_for_one_look_up(
    issuer: Issuer, ask: KeySetClient
) -> None:
    with ThreadPoolExecutor(20) as clients:
        answers = list(clients.map(ask, [issuer.token("first")] * 20))
    assert {answer.status_code for answer in answers} == {200}
    assert issuer.look_ups == 1


def test_a_look_up_blocks_no_other_request(issuer: Issuer, ask: KeySetClient) -> None:
    assert ask(issuer.token("first")).status_code == 200
    issuer.publish("second", "EdDSA")
    issuer.may_answer.clear()
    ask.clock.seconds += 301
    assert ask(issuer.token("first")).status_code == 200
    with ThreadPoolExecutor(1) as waiting:
        slow = waiting.submit(ask, issuer.token("second"))
        assert ask(issuer.token("first")).status_code == 200
        assert ask.client.get("/health").status_code == 200
        assert not slow.done()
        issuer.may_answer.set()
        assert slow.result().status_code == 200
    assert issuer.look_ups == 2


NO_KEY_SETS = [b"<html>", b"[]", b'{"keys": []}', b'{"keys": 1}', b"\xff", b"["]
NO_KEY_SETS += [b"[" * 100_000, b"1" * 5000, b'{"keys": [{"kty": "oct"}]}', b" "]
NO_KEY_SETS += [b'{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": ["x"]}]}']


@pytest.mark.parametrize("reply", NO_KEY_SETS)
def test_without_a_key_set_a_token_is_a_503_and_a_bad_one_still_a_401(
    issuer: Issuer,
    ask: KeySetClient,
    reply: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    issuer.reply = reply
    answer = ask(issuer.token("first"))
    assert_problem(answer, 503)
    assert "JWT_JWKS_URL gave no key set" in caplog.text
    assert int(answer.headers["retry-after"]) > 0
    for value in ("x", "a.b.c", unsigned({"alg": "EdDSA"})):
        assert_problem(ask(value), 401)
    assert_problem(ask(issuer.token("first")), 503)
    assert issuer.look_ups == 1
    issuer.reply = b""
    ask.clock.seconds += 11
    assert ask(issuer.token("first")).status_code == 200


def test_a_cached_key_serves_while_the_issuer_is_down(
    issuer: Issuer, ask: KeySetClient
) -> None:
    assert ask(issuer.token("first")).status_code == 200
    issuer.status = 500
    issuer.publish("second", "EdDSA")
    ask.clock.seconds += 301
    for _ in range(3):
        assert ask(issuer.token("first")).status_code == 200
    assert_problem(ask(issuer.token("second")), 503)  # waits for the look-up
    assert issuer.look_ups == 2
    issuer.server.server_close()
    ask.clock.seconds += 11
    assert_problem(ask(issuer.token("second")), 503)
    assert ask(issuer.token("first")).status_code == 200


def test_a_slow_issuer_is_given_up(
    issuer: Issuer, ask: KeySetClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeouts: list[float] = []
    wait_for = asyncio.wait_for

    def impatient(awaitable: Any, timeout: float) -> Any:
        timeouts.append(timeout)
        return wait_for(awaitable, 0.01)

    monkeypatch.setattr(asyncio, "wait_for", impatient)
    issuer.may_answer.clear()
    assert_problem(ask(issuer.token("first")), 503)
    assert timeouts == [5]
    issuer.may_answer.set()


@pytest.mark.parametrize(
    ("claims", "refused"),
    [
        ({"iss": "https://auth.example", "aud": "tasks"}, ""),
        ({"iss": "https://auth.example", "aud": ["other", "tasks"]}, ""),
        ({"iss": "https://auth.example"}, "lacks a required claim."),
        ({"aud": "tasks"}, "lacks a required claim."),
        ({"iss": "https://auth.example/", "aud": "tasks"}, "is from another issuer."),
        ({"iss": "https://auth.example", "aud": "other"}, "is for another audience."),
        ({"iss": "https://auth.example", "aud": ["other"]}, "is for another audience."),
        ({"iss": "https://auth.example", "aud": 1}, "is for another audience."),
    ],
)
def test_issuer_and_audience_are_checked_where_they_are_set(
    with_settings: Callable[..., Any], claims: dict[str, Any], refused: str
) -> None:
    settings = {"JWT_ISSUER": "https://auth.example", "JWT_AUDIENCE": "tasks"}
    module = with_settings(**settings)
    headers = {"Authorization": f"Bearer {token(sub=NOBODY, **claims)}"}
    with TestClient(module.app) as client:
        answer = client.get(f"/api/{NOBODY}/tasks", headers=headers)
    if refused:
        assert assert_problem(answer, 401)["detail"] == f"The token {refused}"
    else:
        assert answer.status_code == 200


def test_cors_origins_are_those_that_are_set(
    with_settings: Callable[..., Any],
) -> None:
    module = with_settings(CORS_ORIGINS="https://a.example, https://b.example/")
    with TestClient(module.app) as client:
        for origin in ("https://a.example", "https://b.example", PAGE):
            answer = client.get("/health", headers={"Origin": origin})
            allowed = answer.headers.get("access-control-allow-origin")
            assert allowed == (origin if origin != PAGE else None)
