"""Search in per-sample rows."""

import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expunge.errors import DataError
from expunge.view import samples


@pytest.fixture
def path(tmp_path):
    rows = {
        "id": ["a", "b", "c"],
        "question": ["Who wrote Émile?", "Where is it?", None],
        "generations": [["In Bern", "In Rome"], None, ["wrote in bern"]],
        "score": [0.5, float("nan"), 3.0],
        "empty": pa.nulls(3),
    }
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet", row_group_size=2)
    return tmp_path / "rows.parquet"


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("", [1, 2, 3]),
        ("WROTE", [1, 3]),
        ("wrote bern", [1, 3]),  # each word in any column
        ("wrote rome", [1]),
        ("émile", [1]),
        ("where bern", []),
        ("%", []),
        (".*", []),  # not a pattern
    ],
)
def test_all_words_match_in_any_text_column(path, query, rows):
    page = samples.search(path, query, 0, 10)
    assert [row["row"] for row in page.rows] == rows
    assert (page.total, page.matches) == (3, len(rows))


def test_pages_and_values_as_text(path):
    page = samples.search(path, "", 1, 1)
    assert (page.matches, page.start) == (3, 1)
    assert page.rows == [{"row": 2, "id": "b", "question": "Where is it?", "score": "not a number"}]
    assert samples.search(path, "", 2, 5).rows[0]["generations"] == ["wrote in bern"]
    assert samples.search(path, "", 2, 5).rows[0]["score"] == "3"
    assert samples.search(path, "", 99, 5).rows == []


def test_a_changed_file_is_searched_again(path):
    assert samples.search(path, "zurich", 0, 5).matches == 0
    pq.write_table(pa.table({"question": ["In Zurich"]}), path)
    assert samples.search(path, "zurich", 0, 5).matches == 1


def test_a_damaged_file_is_an_error(path):
    path.write_bytes(b"no parquet")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        samples.search(path, "", 0, 5)


def test_pandas_is_not_imported(path):
    """It would cost half a second and 60 MB."""
    code = (
        "import sys, pathlib; from expunge.view import samples;"
        "assert samples.search(pathlib.Path(sys.argv[1]), 'bern', 0, 5).matches == 2;"
        "assert 'pandas' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
