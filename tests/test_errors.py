from tf4ctr.errors import did_you_mean


def test_near_names_are_suggested():
    assert did_you_mean("alhpa", ["alpha", "gamma", "c"]) == "did you mean 'alpha'?"


def test_all_names_are_listed_if_none_is_near():
    assert did_you_mean("zzz", ["b", "a"]) == "choose from: a, b"
