"""Tables as Excel and Parquet files, read back by other libraries; and what the commands do with them."""

import importlib
from pathlib import Path

import pytest
from PIL import Image
from test_tables import analysis

from sdk.cli import main
from sdk.errors import DependencyError, UsageError
from sdk.table_files import open_table
from sdk.tables import COLUMNS

PHOTO = Path(__file__).parents[1] / "sdk/assets/pictures/astronaut.jpg"
ALIGNED = ("--faces", "aligned", "--task", "emotion", "--max-tokens", "2")


def written(path):
    with open_table(path) as table:
        table.add(analysis(source="=HYPERLINK(1)"))
        table.add(analysis(count=1))
    return path


def test_excel_holds_every_row_and_no_formula(tmp_path):
    pytest.importorskip("pandas")
    pytest.importorskip("xlsxwriter")
    openpyxl = pytest.importorskip("openpyxl")
    sheet = openpyxl.load_workbook(written(tmp_path / "faces.xlsx")).active
    header, *rows = sheet.iter_rows(values_only=True)
    assert header == COLUMNS
    assert [row[0] for row in rows] == ["=HYPERLINK(1)", "=HYPERLINK(1)", "a.png"]
    assert [cell.data_type for cell in next(iter(sheet.iter_cols(min_row=2)))] == ["s", "s", "s"], "no formula"
    assert [row[header.index("x2")] for row in rows] == [60.5] * 3


def test_parquet_holds_every_row_with_its_type(tmp_path):
    pytest.importorskip("pandas")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(written(tmp_path / "faces.parquet"))
    assert tuple(table.column_names) == COLUMNS
    assert table.column("face_id").to_pylist() == [0, 1, 0]
    assert table.column("emotion").to_pylist() == ["happiness"] * 3
    with open_table(tmp_path / "none.parquet"):
        pass
    none = parquet.read_table(tmp_path / "none.parquet")
    assert none.schema.types == table.schema.types, "types depend on the columns alone"
    types = {name: str(kind) for name, kind in zip(table.schema.names, table.schema.types, strict=True)}
    assert (types["x1"], types["frame"], types["AU1"], types["AU1_score"]) == ("double", "int64", "int64", "double")


@pytest.mark.parametrize("name", ["faces.xlsx", "faces.parquet"])
def test_a_failure_keeps_what_there_is(tmp_path, name):
    pytest.importorskip("pandas")
    pytest.importorskip("xlsxwriter" if name.endswith("xlsx") else "pyarrow")
    path = tmp_path / name
    path.write_bytes(b"earlier")

    def interrupted(*analyses):
        with open_table(path) as table:
            for each in analyses:
                table.add(each)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"earlier"
    with pytest.raises(KeyboardInterrupt):
        interrupted(analysis())
    assert path.read_bytes() != b"earlier"
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_other_formats_and_missing_packages_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="expected the name of a table"):
        open_table(tmp_path / "faces.ods")

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(DependencyError, match=r"emola-edge\[tables\]"):
        open_table(tmp_path / "faces.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_photo_and_a_folder_print_alike(tmp_path, capsys):
    """Nothing on stdout, and the same row."""
    folder = tmp_path / "faces"
    folder.mkdir()
    with Image.open(PHOTO) as picture:
        picture.crop((140, 40, 310, 210)).save(folder / "a.png")
    found = []
    for source in (folder / "a.png", folder):
        assert main(["analyze", str(source), *ALIGNED, "--csv", str(tmp_path / "faces.csv")]) == 0
        assert capsys.readouterr().out == ""
        found.append((tmp_path / "faces.csv").read_text())
    assert found[0] == found[1]


def test_drawings_do_not_go_into_the_folder_that_is_read(tmp_path, capsys):
    folder = tmp_path / "faces"
    folder.mkdir()
    (folder / "a.png").write_bytes(PHOTO.read_bytes())
    (tmp_path / "link").symlink_to(folder)
    for place in (folder, folder / "drawn", tmp_path / "link" / "drawn"):
        assert main(["analyze", str(folder), *ALIGNED, "--save", str(place)]) == 2
        assert "which is analysed; choose a folder beside it" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["a.png"]
