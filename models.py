"""The tables, and the models of requests and responses.

The auth system owns the users. A user's row here is created with the user's first task.
Times are aware datetimes in UTC. SQLite stores no time zone; SQLModel restores it.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Self
from uuid import UUID, uuid4

from pydantic import MISSING, StrictBool, StringConstraints, model_validator
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
    """A user of the auth system. `id` is the subject (`sub`) of the user's tokens."""

    __tablename__ = "users"
    id: UUID = Field(primary_key=True)
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


class Task(SQLModel, table=True):
    """A task. Its primary key is (user_id, id): a key always names the owner, too."""

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
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    updated_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


# The list's order, and its index, which belongs to Task because the columns do.
NEWEST_FIRST = col(Task.created_at).desc(), col(Task.id).desc()
Index("ix_tasks_user_id_created_at_id", col(Task.user_id), *NEWEST_FIRST)

# --- Requests ---------------------------------------------------------------------
# No NUL, which PostgreSQL can't store, and one non-space, in the JSON schema, too.
TITLE_PATTERN = r"^[^\x00]*[^\s\x00][^\x00]*$"
TITLE_RULES = StringConstraints(
    strip_whitespace=True, min_length=1, max_length=200, pattern=TITLE_PATTERN
)
Title = Annotated[str, TITLE_RULES, Field(schema_extra={"examples": ["Buy milk"]})]


class TaskCreate(SQLModel):
    """The body that creates a task."""

    title: Title


def require_a_member(schema: dict[str, Any]) -> None:
    """Say in a JSON schema that at least one member is required."""
    # Each choice has the members' types: generated clients need them there.
    typed = {"type": "object", "properties": schema.pop("properties")}
    schema["anyOf"] = [typed | {"required": [name]} for name in typed["properties"]]


class TaskUpdate(SQLModel):
    """The body that updates a task. What it leaves out stays as it is."""

    model_config = {"json_schema_extra": require_a_member}
    # MISSING is the default of an absent member. With None, `null` would be accepted.
    title: Title | MISSING = MISSING
    is_completed: StrictBool | MISSING = MISSING

    @model_validator(mode="after")
    def check_members(self) -> Self:
        """Refuse a body that changes nothing, such as one with a misspelled name."""
        if not self.model_dump():  # leaves out what is MISSING
            names = " or ".join(type(self).model_fields)
            raise ValueError(f"the body must have {names}")
        return self


class TaskComplete(SQLModel):
    """The body that says whether a task is completed."""

    is_completed: StrictBool


# --- Responses --------------------------------------------------------------------
EXAMPLE: Any = {
    "id": "7b9e1f0a-5c64-4f0e-9d3e-2f6f8a1c0b5d",
    "user_id": "a11ce000-0000-4000-8000-000000000001",
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
    # Not inherited: Task's defaults would make members optional in the document.
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
    """An error (RFC 9457). `detail` is a sentence for a person."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[InputError] | MISSING = MISSING
