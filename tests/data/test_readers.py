import gzip

import polars as pl
import pytest

from conftest import need_shared
from tf4ctr.data import text_readers
from tf4ctr.data.raw_files import RawFiles
from tf4ctr.data.readers import READERS, as_text
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
    assert READERS["csv"].bad_rows(path, COLUMNS) == [
        (3, "2 cells, the header has 3"),
        (5, "4 cells, the header has 3"),
    ]


@pytest.mark.parametrize("header", ["label,user,item", "label,user,more,item", "more,item,label,user,item2"])
def test_csv_skips_lines_without_any_value_and_no_others(tmp_path, header):
    """Also if only some of the columns are read; the other ones decide then."""
    names = header.split(",")
    empty = ["", "," * (len(names) - 1), ",", '"",""', "\r"]
    full = [",".join(cell if name in COLUMNS else "" for name, cell in zip(names, "abcde", strict=False))]
    other = [",".join("x" if name == other else "" for name in names) for other in names if other not in COLUMNS]
    lines = [*empty, *full, *empty, *other, *empty, *full, *empty]
    for path in (tmp_path / "a.csv", tmp_path / "b.csv"):
        path.write_text("\n".join([header, *lines]) + "\n")
    found = READERS["csv"].rows([tmp_path / "a.csv", tmp_path / "b.csv"], COLUMNS)
    row = tuple(dict(zip(names, "abcde", strict=False))[name] for name in COLUMNS)
    missing = [(None,) * 3] * len(other)
    assert found.select(COLUMNS).collect(engine="streaming").rows() == [row, *missing, row] * 2
    assert found.select(pl.len()).collect().item() == 2 * (2 + len(other))
    assert found.head(1).select("user").collect().rows() == [row[1:2]]
    assert found.filter(pl.col("item").is_null()).collect().select(COLUMNS).rows() == missing * 2
    assert READERS["csv"].bad_rows(tmp_path / "a.csv", COLUMNS) == []
    raw = RawFiles("csv", {}, {"all": [tmp_path / "a.csv"]})
    expected = [number for number, line in enumerate(lines, 2) if line not in empty]
    assert [raw.line_of(tmp_path / "a.csv", row) for row in range(2 + len(other))] == expected


@pytest.mark.parametrize("quote", ['"', None])
def test_csv_a_line_of_blanks_or_of_too_many_separators_is_not_empty(tmp_path, quote):
    path = tmp_path / "a.csv"
    path.write_text("label|user|more|item\n1|a|x|b\n|||\n  \n||||\n")
    options = {"separator": "|", "quote": quote}
    assert READERS["csv"].bad_rows(path, COLUMNS, **options) == [
        (4, "1 cells, the header has 4"),
        (5, "5 cells, the header has 4"),
    ]


def test_a_regular_file_is_told_from_one_with_a_short_line(tmp_path, monkeypatch):
    """In pieces of any size; False is the answer if the lines must be counted."""
    path = tmp_path / "a.csv"
    lines = ["label,user,item", "1,é,", "0,,c", ",,"]
    for piece, end in ((1, "\n"), (7, "\r\n"), (1000, "")):
        monkeypatch.setattr(text_readers, "PIECE", piece)
        path.write_text("\n".join(lines) + end)
        assert text_readers._is_regular(path, 3, ",", '"')
        for line in ("1,b", "1,b,c,d", '1,"b",c', ""):
            path.write_text("\n".join([*lines, line, "1,b,"]) + end)
            assert not text_readers._is_regular(path, 3, ",", '"')
        path.write_text("\n".join([*lines, "1,b", "1,b,c,d"]))  # as many separators as in a regular file
        assert len(READERS["csv"].bad_rows(path, COLUMNS)) == 2


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
    columns = [
        "label",
        "user",
        "item",
        "daytime",
        "weekday",
        "isweekend",
        "homework",
        "cost",
        "weather",
        "country",
        "city",
    ]
    first, second = (READERS[form].rows([folder / f"test.{form}"], columns).collect() for form in ("csv", "libsvm"))
    assert first.equals(second)


def test_csv_reads_several_files_plain_and_gzipped(tmp_path):
    (tmp_path / "a.csv").write_text("label,user,item\n1,a,b\n")
    with gzip.open(tmp_path / "b.gz", "wt") as file:
        file.write("label,user,item\n0,c,d\n")
    for paths in ([tmp_path / "a.csv"], [tmp_path / "b.gz"], [tmp_path / "a.csv", tmp_path / "b.gz"]):
        found = READERS["csv"].rows(paths, COLUMNS).select(COLUMNS).collect().rows()
        assert found == [
            row
            for path, row in zip("ab", [("1", "a", "b"), ("0", "c", "d")], strict=True)
            if any(path == p.name[0] for p in paths)
        ]


def test_csv_files_with_their_columns_in_another_order_are_read_by_name(tmp_path):
    (tmp_path / "a.csv").write_text("label,user,item\n1,a,b\n0,c\n")
    (tmp_path / "b.csv").write_text("item,more,label,user\nb,x,1,a\nd,x,0,c\n")
    (tmp_path / "c.csv").write_text("label,user,item\n0,e,f\n")
    rows = READERS["csv"].rows([tmp_path / f"{name}.csv" for name in "abc"], COLUMNS).collect()
    assert rows.select(COLUMNS).rows() == [
        ("1", "a", "b"),
        ("0", "c", None),
        ("1", "a", "b"),
        ("0", "c", "d"),
        ("0", "e", "f"),
    ]
    assert rows["__short"].to_list() == [False, True, False, False, False]
    (tmp_path / "c.csv").write_text("label,user,itme\n0,e,f\n")
    with pytest.raises(InputError, match=r"c\.csv: no column 'item' in its header \(did you mean 'itme'\?\)"):
        READERS["csv"].rows([tmp_path / f"{name}.csv" for name in "abc"], COLUMNS)


def test_csv_without_a_header_takes_the_names_it_is_told(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("1\tu\t\ti\n0\t\tx\t\n")
    options = {"separator": "\t", "header": ["label", "user", "other", "item"]}
    assert READERS["csv"].rows([path], COLUMNS, **options).select(COLUMNS).collect().rows() == [
        ("1", "u", "i"),
        ("0", None, None),
    ]
    path.write_text("1\tu\t\ti\n0\tx\n")
    assert READERS["csv"].bad_rows(path, COLUMNS, **options) == [(2, "2 cells, the header has 4")]


def test_csv_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    (tmp_path / "a.csv").write_text("\ufefflabel,user,item\n1,a,b\n")
    assert rows("csv", tmp_path / "a.csv") == [("1", "a", "b")]


def test_csv_a_column_named_twice_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("label,user,item,user\n1,a,b,c\n")
    with pytest.raises(InputError, match="its header names column 'user' 2 times"):
        rows("csv", tmp_path / "a.csv")


def test_parquet_keeps_its_types(tmp_path):
    for name in "ab":
        pl.DataFrame({"label": [1], "user": [7], "item": [name]}).write_parquet(tmp_path / f"{name}.parquet")
    found = READERS["parquet"].rows(sorted(tmp_path.glob("*.parquet")), COLUMNS).select(COLUMNS).collect().rows()
    assert found == [(1, 7, "a"), (1, 7, "b")]


def test_parquet_with_a_struct_is_refused_and_a_list_is_read(tmp_path):
    pl.DataFrame({"label": [1], "user": [["a"]], "item": ["x"]}).write_parquet(tmp_path / "a.parquet")
    assert READERS["parquet"].rows([tmp_path / "a.parquet"], COLUMNS).collect()["user"].to_list() == [["a"]]
    pl.DataFrame({"label": [1], "user": [{"id": 7}], "item": ["x"]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"column 'user' is Struct.*, expected text, numbers, or a list of them"):
        rows("parquet", tmp_path / "a.parquet")


def test_parquet_files_must_agree_on_what_is_a_list(tmp_path):
    pl.DataFrame({"label": [1], "user": [["a"]], "item": ["x"]}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"label": [1.0], "user": ["a"], "item": [3]}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet: column 'user' is String, in a\.parquet it is List\(String\)"):
        READERS["parquet"].rows([tmp_path / "a.parquet", tmp_path / "b.parquet"], COLUMNS)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pl.Series([3.0, -2.0, 0.0, None, float("nan"), 2.5, 1e300]), ["3", "-2", "0", None, None, "2.5", "1e+300"]),
        (pl.Series([3.0, 2.5], dtype=pl.Float32), ["3", "2.5"]),
        (pl.Series([True, None, False]), ["true", None, "false"]),
        (pl.Series(["3.0", "x"]), ["3.0", "x"]),
        (pl.Series([2**63 - 1, -1]), ["9223372036854775807", "-1"]),
        (pl.Series(["1.00", "2.50"]).cast(pl.Decimal(10, 2)), ["1", "2.5"]),
        (pl.Series(["a", "b"], dtype=pl.Categorical), ["a", "b"]),
        (pl.Series([[3.0, None], None, []], dtype=pl.List(pl.Float64)), [["3", None], None, []]),
        (pl.Series([[3, 4]], dtype=pl.Array(pl.Int64, 2)), [["3", "4"]]),
    ],
    ids=["floats", "float32", "truth", "text", "integers", "decimals", "categories", "lists", "arrays"],
)
def test_a_column_of_any_type_becomes_text(values, texts):
    frame = pl.DataFrame({"x": values})
    assert frame.select(as_text(pl.col("x"), frame.schema["x"])).to_series().to_list() == texts


def test_grouplens_joins_users_and_likes_from_four_on(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::10::5::9\n2::11::3::9\n1::12::4::9\n")
    (tmp_path / "users.dat").write_text("1::F::25::7::12345\n2::M::18::4::54321\n")
    columns = ["label", "UserID", "MovieID", "Gender", "Age", "Occupation"]
    found = READERS["grouplens"].rows([tmp_path / "ratings.dat"], columns).collect()
    assert found.select(columns).rows() == [
        ("1", "1", "10", "F", "25", "7"),
        ("0", "2", "11", "M", "18", "4"),
        ("1", "1", "12", "F", "25", "7"),
    ]
    assert not found["__short"].any()
    (tmp_path / "ratings.dat").write_text("1::10::5::9\n2::11\n")
    assert READERS["grouplens"].rows([tmp_path / "ratings.dat"], columns).collect()["__short"].to_list() == [
        False,
        True,
    ]
    assert [line for line, _ in READERS["grouplens"].bad_rows(tmp_path / "ratings.dat", columns)] == [2]


def test_kkbox_joins_its_files_and_keeps_every_row_once(tmp_path):
    (tmp_path / "train.csv").write_text(
        "msno,song_id,source_system_tab,source_screen_name,source_type,target\nu1,s1,explore,Explore,online,1\nu2,s9,,,,0\nu1,s2,x,y,z,0\n"
    )
    (tmp_path / "songs.csv").write_text(
        "song_id,song_length,genre_ids,artist_name,composer,lyricist,language\n"
        's1,1,465|1259,"A, B| C",,,3.0\ns2,1,,D,,,\ns1,1,999,again,,,1.0\n'
    )
    (tmp_path / "members.csv").write_text("msno,city,bd,gender,registered_via,a,b\nu1,13,27,female,9,1,2\n")
    (tmp_path / "song_extra_info.csv").write_text("song_id,name,isrc\ns1,x,TWUM7\n")
    columns = ["label", "msno", "genre_ids", "artist_name", "isrc", "bd"]
    assert READERS["kkbox"].rows([tmp_path / "train.csv"], columns).select(columns).collect().rows() == [
        ("1", "u1", "465|1259", "A, B| C", "TWUM7", "27"),
        ("0", "u2", None, None, None, None),
        ("0", "u1", None, "D", None, "27"),
    ]


USERS = "7|24|M|technician|85711\n8|53|F|other|T8H1N\n"
FLAGS = {"plain": "0|" * 18 + "0", "two": "0|0|0|1|0|1|" + "0|" * 12 + "0", "unknown": "1|" + "0|" * 17 + "0"}
FILMS = [
    f"1|Toy Story (1995)|01-Jan-1995||http://a|{FLAGS['two']}",
    f"2|Caf\u00e9 \u0085 (1971)|4-Feb-1971||http://b|{FLAGS['plain']}",
    f"3|unknown||||{FLAGS['unknown']}",
]


@pytest.fixture
def movielens_100k(tmp_path):
    (tmp_path / "u.data").write_text("7\t1\t5\t881250949\n8\t3\t2\t12\n9\t2\t4\t13\n7\t2\t1\t14\n")
    (tmp_path / "u.user").write_text(USERS)
    (tmp_path / "u.item").write_bytes("\n".join(FILMS).encode("latin-1"))
    return tmp_path


def test_movielens_100k_joins_users_and_films_in_the_order_of_the_ratings(movielens_100k):
    columns = ["user", "item", "rating", "timestamp", "age", "gender", "occupation", "zip", "year", "genres"]
    found = READERS["grouplens_100k"].rows([movielens_100k / "u.data"], columns).collect(engine="streaming")
    assert found.select(columns).rows() == [
        ("7", "1", "5", "881250949", "24", "M", "technician", "85711", "1995", "Animation|Comedy"),
        ("8", "3", "2", "12", "53", "F", "other", "T8H1N", None, "unknown"),
        ("9", "2", "4", "13", None, None, None, None, "1971", None),
        ("7", "2", "1", "14", "24", "M", "technician", "85711", "1971", None),
    ]
    assert not found["__short"].any()
    titles = READERS["grouplens_100k"].rows([movielens_100k / "u.data"], ["title"]).collect()["title"].to_list()
    assert titles == ["Toy Story (1995)", "unknown", "Caf\u00e9 \u0085 (1971)", "Caf\u00e9 \u0085 (1971)"]


def test_movielens_100k_names_the_lines_that_are_no_ratings(movielens_100k):
    path = movielens_100k / "u.data"
    path.write_text("7\t1\t5\t12\n\n8\t3\n7 1 5 12\n7\t1\tx\t12\n")
    found = READERS["grouplens_100k"].rows([path], ["user"]).collect()
    assert found.rows() == [("7", False), ("8", True), ("7 1 5 12", True), ("7", False)]
    assert [line for line, _ in READERS["grouplens_100k"].bad_rows(path, ["user"])] == [3, 4, 5]


def test_movielens_100k_a_film_of_another_number_of_cells_is_refused(movielens_100k):
    (movielens_100k / "u.item").write_text(f"{FILMS[0]}\n2|Title | with a bar (1971)\n")
    with pytest.raises(InputError, match=r"u\.item, line 2: 3 cells, expected 24"):
        READERS["grouplens_100k"].rows([movielens_100k / "u.data"], ["user"])


def test_movielens_100k_as_published():
    path = need_shared("movielens_100k") / "u.data"
    columns = ["user", "item", "rating", "timestamp", "age", "gender", "genres", "year"]
    found = READERS["grouplens_100k"].rows([path], columns).collect()
    assert len(found) == 100_000
    assert found.select(pl.col(columns).n_unique()).row(0)[:3] == (943, 1682, 5)
    assert found["rating"].cast(int).mean() == pytest.approx(3.52986)
    assert (found["timestamp"].cast(int).min(), found["timestamp"].cast(int).max()) == (874724710, 893286638)
    assert found.row(0) == ("196", "242", "3", "881250949", "49", "M", "Comedy", "1997", False)
    missing = dict(zip(found.columns, found.null_count().row(0), strict=True))
    assert missing.pop("year") == 9  # ratings of the film without a release date
    assert not any(missing.values())
    assert READERS["grouplens_100k"].bad_rows(path, columns) == []


def test_grouplens_has_the_moments(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::10::5::978300760\n2::11::3::978302109\n")
    (tmp_path / "users.dat").write_text("1::F::25::7::12345\n")
    found = READERS["grouplens"].rows([tmp_path / "ratings.dat"], ["Timestamp", "Gender"]).collect()
    assert found.rows() == [("978300760", "F", False), ("978302109", None, False)]


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet", "arrow", "ndjson"])
def test_a_name_with_brackets_is_that_of_one_file(tmp_path, kind):
    folder, reader = tmp_path / "[shop]", kind.partition(".")[0]
    folder.mkdir()
    for name, item in ((f"t[1].{kind}", "x"), (f"t1.{kind}", "y")):
        frame = pl.DataFrame({"label": ["1", "0"], "user": ["a", "b"], "item": [item, None]})
        if kind == "csv.gz":
            (folder / name).write_bytes(gzip.compress(frame.write_csv().encode()))
        else:
            getattr(frame, {"arrow": "write_ipc"}.get(kind, f"write_{kind}"))(folder / name)
    assert rows(reader, folder / f"t[1].{kind}") == [("1", "a", "x"), ("0", "b", None)]
    assert READERS[reader].bad_rows(folder / f"t[1].{kind}", COLUMNS) == []


def test_an_empty_cell_in_quotes_is_missing_too(tmp_path):
    (tmp_path / "a.csv").write_text('"label","user","item"\n"1","","a"\n"0","u",""\n')
    assert rows("csv", tmp_path / "a.csv") == [("1", None, "a"), ("0", "u", None)]
    assert READERS["csv"].bad_rows(tmp_path / "a.csv", COLUMNS) == []


def test_a_header_has_the_quotes_of_its_layout(tmp_path):
    (tmp_path / "a.csv").write_text("'label';'user';'item'\n'1';'a;b';'c'\n")
    options = {"separator": ";", "quote": "'"}
    read = READERS["csv"].rows([tmp_path / "a.csv"], COLUMNS, **options).select(COLUMNS)
    assert read.collect().rows() == [("1", "a;b", "c")]


def test_a_line_break_in_a_cell_is_read_or_explained(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('label,user,item\n1,"a\nb",c\n')
    assert rows("csv", path) == [("1", "a\nb", "c")]
    (first, second) = READERS["csv"].bad_rows(path, COLUMNS)
    assert (first.line, second.line) == (2, 3)
    assert "if a cell has a line break, write the rows as parquet or ndjson" in first.reason


def test_decimals_are_exact(tmp_path):
    ids = ["12345678901234567891", "12345678901234567892", None]
    prices = ["1.50", "100.00", "0.00"]
    for texts, dtype, expected in ((ids, pl.Decimal(20, 0), ids), (prices, pl.Decimal(9, 2), ["1.5", "100", "0"])):
        frame = pl.DataFrame({"x": pl.Series(texts).cast(dtype)})
        assert frame.select(as_text(pl.col("x"), dtype)).to_series().to_list() == expected


def test_moments_with_a_time_zone_are_in_utc():
    """Also in the hour that a clock shows twice, when summer time ends."""
    moments = pl.Series(["2024-10-27 00:50:00", "2024-10-27 01:10:00"]).str.to_datetime(time_zone="UTC")
    local = moments.dt.convert_time_zone("Europe/Berlin")
    assert local.dt.to_string("%H:%M").to_list() == ["02:50", "02:10"]
    shown = pl.DataFrame({"x": local}).select(as_text(pl.col("x"), local.dtype)).to_series()
    assert [text[:19] for text in shown] == ["2024-10-27 00:50:00", "2024-10-27 01:10:00"]
