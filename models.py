"""The tables, and the bodies of requests and responses.

The auth system owns the users; a row in `users` says that a user has created a task here.
Times are aware datetimes in UTC. SQLModel adds the time zone that SQLite does not store.
"""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID, uuid4

from pydantic import MISSING, StrictBool, StringConstraints
from sqlmodel import CheckConstraint, Field, Index, SQLModel, col

# Constraint names, for migrations. https://alembic.sqlalchemy.org/en/latest/naming.html
SQLModel.metadata.naming_convention = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}

# --- Tables -----------------------------------------------------------------------


class User(SQLModel, table=True):
    """A user who has created a task. `id` is the subject of the user's tokens."""

    __tablename__ = "users"

    id: UUID = Field(primary_key=True)
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


class Task(SQLModel, table=True):
    """A task. Its primary key is a pair: the id of its owner and its own id."""

    __tablename__ = "tasks"
    __table_args__ = (
        CheckConstraint("length(title) BETWEEN 1 AND 200", name="title_length"),
        CheckConstraint("is_completed = (completed_at IS NOT NULL)", name="completed"),
    )

    user_id: UUID = Field(primary_key=True, foreign_key="users.id", ondelete="CASCADE")
    id: UUID = Field(primary_key=True, default_factory=uuid4)
    title: str
    is_completed: bool = False
    completed_at: datetime | None = None
    created_at: datetime
    updated_at: datetime


# The list is read from this index, newest first.
NEWEST_FIRST = col(Task.created_at).desc(), col(Task.id).desc()
Index("ix_tasks_user_id_created_at_id", col(Task.user_id), *NEWEST_FIRST)

# --- Bodies of requests -----------------------------------------------------------


class TaskCreate(SQLModel):
    """The body that creates a task. The white space around the title is removed."""

    model_config = {"str_strip_whitespace": True}

    # No NUL: PostgreSQL can't store it. Not only white space: the document says so, too.
    title: Annotated[str, StringConstraints(pattern=r"^[^\x00]*[^\s\x00][^\x00]*$")] = (
        Field(min_length=1, max_length=200, schema_extra={"examples": ["Buy milk"]})
    )


class TaskUpdate(TaskCreate):
    """The body that updates a task. Without `is_completed`, the state stays as it is."""

    # true, false or absent. `bool | None` would also accept null.
    is_completed: StrictBool | MISSING = MISSING


class TaskComplete(SQLModel):
    """The body that says whether a task is completed."""

    is_completed: StrictBool


# --- Bodies of responses ----------------------------------------------------------

EXAMPLE: Any = {
    "id": "7b9e1f0a-5c64-4f0e-9d3e-2f6f8a1c0b5d",
    "user_id": "11111111-1111-4111-8111-111111111111",
    "title": "Buy milk",
    "is_completed": True,
    "completed_at": "2026-11-21T10:00:00.654321Z",
    "created_at": "2026-11-21T09:30:00.123456Z",
    "updated_at": "2026-11-21T10:00:00.654321Z",
}
PAGE_EXAMPLE: Any = {"data": [EXAMPLE], "meta": {"total": 1, "limit": 50, "offset": 0}}


class TaskPublic(SQLModel):
    """A task."""

    model_config = {"json_schema_extra": {"example": EXAMPLE}}

    # Not inherited from Task: its defaults would make fields optional in the document.
    id: UUID
    user_id: UUID
    title: str
    is_completed: bool
    completed_at: datetime | None
    created_at: datetime
    updated_at: datetime


class PageMeta(SQLModel):
    """The place of a page in the list. `total` counts the tasks of all pages."""

    total: int
    limit: int
    offset: int


class TaskPage(SQLModel):
    """A page of a user's tasks, newest first."""

    model_config = {"json_schema_extra": {"example": PAGE_EXAMPLE}}

    data: list[TaskPublic]
    meta: PageMeta


class InputError(SQLModel):
    """An error in the input: where it is, and what is wrong."""

    loc: list[str | int]
    msg: str


class Problem(SQLModel):
    """An error (RFC 9457). `detail` is a sentence for a person; a 400 has `errors`."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[InputError] | MISSING = MISSING
