"""The two tables, and what requests and answers carry.

The auth system owns the users; a row in `users` only says that somebody has had a task
here. The owner is part of a task's key, so a look-up by the key names the owner. Times are
UTC and are read with their zone, also from SQLite, which keeps none: SQLModel's doing.
"""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID, uuid4

from pydantic import MISSING, StrictBool, StringConstraints
from pydantic.config import JsonDict
from sqlmodel import CheckConstraint, Field, Index, PrimaryKeyConstraint, SQLModel

# A later migration can only change a constraint that has a name.
SQLModel.metadata.naming_convention = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


class User(SQLModel, table=True):
    """Somebody who has had a task here."""

    __tablename__ = "users"

    id: UUID = Field(primary_key=True)
    created_at: datetime = Field(default_factory=now)


class TaskBase(SQLModel):
    """What is known of every task that is stored."""

    id: UUID
    user_id: UUID
    title: str
    is_completed: bool
    completed_at: datetime | None
    created_at: datetime
    updated_at: datetime


class Task(TaskBase, table=True):
    """A task as it is stored, with its keys and defaults."""

    __tablename__ = "tasks"
    __table_args__ = (
        PrimaryKeyConstraint("user_id", "id"),
        CheckConstraint("length(title) BETWEEN 1 AND 200", "title_length"),
        CheckConstraint("is_completed = (completed_at IS NOT NULL)", "completed_at"),
    )

    id: UUID = Field(default_factory=uuid4)
    user_id: UUID = Field(foreign_key="users.id", ondelete="CASCADE")
    is_completed: bool = False


tasks = SQLModel.metadata.tables["tasks"]
NEWEST_FIRST = (tasks.c.created_at.desc(), tasks.c.id.desc())
# An index belongs to the table of its columns.
Index("ix_tasks_user_id_created_at_id", tasks.c.user_id, *NEWEST_FIRST)

# 1 to 200 characters without the white space around them. No NUL: PostgreSQL can't store
# it. At least one character that JavaScript, Python and Unicode all take for no white
# space, so that the pattern means the same to whoever checks it.
Title = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00]*[^\s\x00\x1c-\x1f\x85\ufeff][^\x00]*$",
    ),
]


class TaskCreate(SQLModel):
    """The body that makes a task."""

    title: Title = Field(schema_extra={"examples": ["Buy milk"]})


class TaskUpdate(TaskCreate):
    """The body that changes a task; `is_completed` left out stays as it is."""

    is_completed: StrictBool | MISSING = MISSING


class TaskComplete(SQLModel):
    """The body that says whether a task is completed."""

    is_completed: StrictBool


EXAMPLE: JsonDict = {
    "id": "7b9e1f0a-5c64-4f0e-9d3e-2f6f8a1c0b5d",
    "user_id": "11111111-1111-4111-8111-111111111111",
    "title": "Buy milk",
    "is_completed": True,
    "completed_at": "2026-11-21T10:00:00.654321Z",
    "created_at": "2026-11-21T09:30:00.123456Z",
    "updated_at": "2026-11-21T10:00:00.654321Z",
}


class TaskPublic(TaskBase):
    """A task as it is answered."""

    model_config = {"json_schema_extra": {"example": EXAMPLE}}


class PageMeta(SQLModel):
    """Which page it is; `total` counts the tasks of all pages."""

    total: int
    limit: int
    offset: int


class TaskPage(SQLModel):
    """A page of a user's tasks, newest first."""

    model_config = {
        "json_schema_extra": {
            "example": {
                "data": [EXAMPLE],
                "meta": {"total": 1, "limit": 50, "offset": 0},
            }
        }
    }

    data: list[TaskPublic]
    meta: PageMeta


class Problem(SQLModel):
    """The one form of an error (RFC 9457); `detail` is a sentence for a person."""

    type: str
    title: str
    status: int
    detail: str


class InputError(SQLModel):
    """One thing that is wrong with the input, and where."""

    loc: list[str | int]
    msg: str


class InvalidInput(Problem):
    """The form of a 400."""

    errors: list[InputError]
