"""What the Task API promises, over its public interface and on a real database.

    python -m pytest                                         on a temporary SQLite file
    TEST_DATABASE_URL=postgresql://… python -m pytest        on PostgreSQL, in a schema
                                                             of its own that is dropped

What DATABASE_URL names is never touched. Where the promise is about processes, a real
uvicorn runs. Alice and Bob are two users of the same auth system.
"""

import ast
import importlib.util
import json
import os
import re
import select
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
from contextlib import ExitStack, contextmanager
from datetime import datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID, uuid4

import httpx2
import jwt
import psycopg2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from fastapi.testclient import TestClient
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

pytestmark = pytest.mark.filterwarnings("error")

# --- The database and the application under test ------------------------------------

HERE = Path(__file__).parent
POSTGRES = os.environ.get("TEST_DATABASE_URL", "")
SCHEMA = f"test_{uuid4().hex}"
FOLDER = tempfile.TemporaryDirectory(prefix="task-api-")
SECRET = "a secret of the tests, long enough for HS256"

if POSTGRES:
    separator = "&" if "?" in POSTGRES else "?"
    DATABASE_URL = f"{POSTGRES}{separator}options=-csearch_path%3D{SCHEMA}"
else:
    DATABASE_URL = f"sqlite:///{FOLDER.name}/test.db"

ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("JWT_JWKS_URL", "JWT_ISSUER", "JWT_AUDIENCE", "CORS_ORIGINS")
} | {"DATABASE_URL": DATABASE_URL, "JWT_SECRET": SECRET}
