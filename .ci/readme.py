"""Check what the README and requirements.txt say about the program.

Paste the README's blocks into a copy of the program, add a field, and run the README's
test and two more. Then compare the imports with the pins. Works on SQLite, or on the
PostgreSQL of TEST_DATABASE_URL. Exits with 1 if something does not work.
"""

import importlib.metadata
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent.parent
TESTS = """
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


def paste_and_test() -> None:
    """Run the tests of the README's second table, and of its field."""
    names = ("models.py", "app.py", "test_app.py")
    files = {name: (HERE / name).read_text() for name in names}
    if "class Project" in files["models.py"]:
        return  # Somebody has pasted the blocks already.
    files["models.py"] += "\nfrom sqlmodel import ForeignKeyConstraint\n"
    readme = (HERE / "README.md").read_text()
    blocks = re.findall(r"```python\n# (\w+\.py).*\n([^`]*)```", readme)
    assert [name for name, _ in blocks] == list(names)
    for name, block in blocks:
        before, mark, after = files[name].partition("\n# --- Start")
        files[name] = f"{before}\n\n{block}\n{mark}{after}"
    for old, new in FIELDS:
        both = f"    {old}\n    {new}\n"
        files["models.py"] = files["models.py"].replace(f"    {old}\n", both, 1)
    files["models.py"] = f"from datetime import date\n{files['models.py']}"
    files["test_app.py"] += TESTS
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / name).write_text(text)
        selected = ["-q", "-k", "project or comment or due_date"]
        pytest = [sys.executable, "-m", "pytest", *selected]
        result = subprocess.run(pytest, cwd=folder, stdout=-1, text=True, check=False)
    assert result.returncode == 0 and "3 passed" in result.stdout, result.stdout


def compare_pins() -> None:
    """Check that each package that is imported is pinned at the installed version."""
    source = (HERE / "app.py").read_text() + (HERE / "models.py").read_text()
    packages = set(re.findall(r"(?m)^(?:from|import) (\w+)", source))
    owners = importlib.metadata.packages_distributions()
    pin = re.compile(r"(?m)^([\w-]+)(?:\[.*\])?==(\S+)$")
    pins = dict(pin.findall((HERE / "requirements.txt").read_text().lower()))
    for package in packages - sys.stdlib_module_names - {"models"}:
        (distribution,) = set(owners[package])
        installed = importlib.metadata.version(distribution)
        assert pins.get(distribution.lower()) == installed, distribution


paste_and_test()
compare_pins()
