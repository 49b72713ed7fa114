import pytest

from conftest import need_shared
from tf4ctr.data.readers import READERS
from tf4ctr.errors import InputError

COLUMNS = ["label", "user", "item"]


def rows(reader, path):
    return READERS[reader].rows([path], COLUMNS).select(COLUMNS).collect().rows()


def test_csv_reads_text_and_empty_cells_as_missing(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'user,label,item\r\nu1,1,"x,y"\r\n,0,z\r\n')
    assert rows("csv", path) == [("1", "u1", "x,y"), ("0", None, "z")]
    assert READERS["csv"].bad_rows(path, COLUMNS) == []


def test_csv_names_the_column_that_is_not_there(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("label,users,item\n1,a,b\n")
    with pytest.raises(InputError, match=r"a\.csv: no column 'user' in its header \(did you mean 'users'\?\)"):
        rows("csv", path)


def test_csv_empty_file(tmp_path):
    (tmp_path / "a.csv").touch()
    with pytest.raises(InputError, match="is empty: expected a header"):
        rows("csv", tmp_path / "a.csv")


def test_csv_finds_lines_of_another_length(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('label,user,item\n1,a,b\n0,c\n1,"d,e",f\n0,g,h,i\n')
    assert READERS["csv"].bad_rows(path, COLUMNS) == [(3, "2 cells, the header has 3"), (5, "4 cells, the header has 3")]


def test_libsvm_reads_one_id_a_field(tmp_path):
    path = tmp_path / "a.libsvm"
    path.write_text("1 12:1 7:1\n0 3:1 8:1.0\n")
    assert rows("libsvm", path) == [("1", "12", "7"), ("0", "3", "8")]
    assert READERS["libsvm"].bad_rows(path, COLUMNS) == []


def test_libsvm_finds_what_is_no_row_of_it(tmp_path):
    path = tmp_path / "a.libsvm"
    path.write_text("1 12:1 7:1\n0 3:1\n1 2:0.5 3:1\n1 4:1 5:1 6:1\n")
    assert READERS["libsvm"].rows([path], COLUMNS).collect()["__short"].to_list() == [False, True, True, True]
    assert [line for line, _ in READERS["libsvm"].bad_rows(path, COLUMNS)] == [2, 3, 4]


def test_parquet_that_is_cut_short_says_so(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InputError, match=r"a\.parquet is not a readable parquet file"):
        rows("parquet", path)


def test_both_forms_of_frappe_hold_the_same_rows():
    folder = need_shared("frappe")
    columns = ["label", "user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city"]
    first, second = (READERS[form].rows([folder / f"test.{form}"], columns).collect() for form in ("csv", "libsvm"))
    assert first.equals(second)
