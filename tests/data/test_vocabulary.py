from collections import Counter

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from tf4ctr.data import vocabulary

values = st.lists(st.one_of(st.none(), st.text("ab01é ", max_size=3)), min_size=1, max_size=50)


@given(train=values, later=values, min_count=st.integers(1, 3), offset=st.integers(0, 1000))
def test_rows_are_padding_then_sorted_known_values_then_unknown(train, later, min_count, offset):
    frame = pl.DataFrame({"f": train}, schema={"f": pl.String})
    known = vocabulary.fit(frame.lazy(), "f", min_count).collect().to_series()
    counts = Counter(value for value in train if value is not None)
    expected = sorted(value for value, count in counts.items() if count >= min_count)
    assert known.to_list() == expected
    assert vocabulary.size(known) == len(expected) + 2

    encoded = pl.DataFrame({"f": later}, schema={"f": pl.String}).select(vocabulary.encode("f", known, offset)).to_series()
    row_of = {value: row for row, value in enumerate(expected, 1)}
    assert encoded.to_list() == [offset + row_of.get(value, len(expected) + 1) for value in later]
    assert encoded.dtype == pl.Int32


def test_round_trip(tmp_path):
    known = pl.Series("site", ["a,b", 'quo"te', "é\n"])
    vocabulary.save(known, tmp_path / "vocabulary")
    assert vocabulary.load("site", tmp_path / "vocabulary").equals(known)
