import pytest

from qtl_utils.results.claims import Claims, read_claims


def test_claims_come_back_in_order_with_what_was_found(tmp_path):
    for notebook in ("02_b", "01_a"):
        claims = Claims(notebook)
        claims.expect("water is wet", True, "it is")
        claims.expect("None is some", False, "None")
        claims.save(tmp_path)
    found = read_claims(tmp_path, ["01_a", "02_b", "03_failed"])
    assert found["notebook"].tolist() == ["01_a", "01_a", "02_b", "02_b"]
    assert found["confirmed"].tolist() == [True, False] * 2
    assert found["found"].tolist() == ["it is", "None"] * 2


def test_a_claim_is_made_once():
    claims = Claims("01_a")
    claims.expect("water is wet", True, "it is")
    with pytest.raises(ValueError, match="twice"):
        claims.expect("water is wet", False, "it is not")


def test_a_study_without_claims_has_an_empty_table(tmp_path):
    assert read_claims(tmp_path, ["01_a"]).empty
