from tf4ctr.inference.findings import (
    AllMissing,
    AllUnknown,
    Findings,
    shared_findings,
    unknown_table,
    unknown_warnings,
)


def test_the_warning_shows_two_values_of_each_side():
    fields = [AllUnknown("user", ["u0", "x" * 50], ["0", "1"]), AllUnknown("item", ["3"], [])]
    assert unknown_warnings(Findings({}, fields)) == [
        f"field 'user': all its values are out of vocabulary. The input has 'u0', '{'x' * 40}'; the vocabulary has"
        " '0', '1'. Check that both write the values in the same form",
        "field 'item': all its values are out of vocabulary. The input has '3'; the vocabulary has no values."
        " Check that both write the values in the same form",
    ]


def test_a_missing_number_has_a_warning_and_a_column_of_the_table():
    missing = [AllMissing("price", "eur", []), AllMissing("age", "age", ["old", "x" * 50])]
    findings = Findings({"user": 0.25}, [], {"price": 1.0, "age": 1.0, "clicks": 0.5}, missing)
    advice = "Check that the column is the right one, and that its values are numbers"
    assert unknown_warnings(findings) == [
        f"field 'price': it is missing in all rows. The input has no values in column 'eur'. {advice}",
        f"field 'age': it is missing in all rows. The input has 'old', '{'x' * 40}' in column 'age'. {advice}",
    ]
    table = unknown_table(findings)
    assert [column.header for column in table.columns] == ["field", "out of vocabulary", "missing"]
    assert [list(column.cells) for column in table.columns] == [
        ["user", "price", "age", "clicks"],
        ["25.00%", "", "", ""],
        ["", "100.00%", "100.00%", "50.00%"],
    ]


def test_findings_that_several_runs_have_are_shown_once():
    one, other = Findings({"user": 0.5}, [AllUnknown("user", ["a"], ["b"])]), Findings({"user": 0.25})
    assert shared_findings([one]) == shared_findings([one, one._replace()]) == [("", one)]
    assert shared_findings([one, other, one]) == [("run_1, run_3", one), ("run_2", other)]
    assert unknown_table(other, "run_2").title == "run_2"
