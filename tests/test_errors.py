import pytest

from tf4ctr.errors import InputError, check_whole, did_you_mean


@pytest.mark.parametrize("value", [-1, 1.0, "3", True, None])
def test_what_is_no_whole_number_is_refused(value):
    check_whole("rows", 0, 0)
    with pytest.raises(InputError, match=f"rows is {value!r}: expected a whole number from 0 on"):
        check_whole("rows", value, 0)


def test_near_names_are_suggested():
    assert did_you_mean("alhpa", ["alpha", "gamma", "c"]) == "did you mean 'alpha'?"


def test_all_names_are_listed_if_none_is_near():
    assert did_you_mean("zzz", ["b", "a"]) == "choose from: a, b"
