"""The smoke study says the same on emulated processors, with other thread counts and with other seeds."""

import pytest

from qtl_utils.results.portability import CASES, HERE, agrees, run_case
from qtl_utils.results.verify import verify

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The folder of the smoke study as this processor computes it, and where the other cases go."""
    root = tmp_path_factory.mktemp("portability")
    code, folder = run_case("smoke", HERE, root)
    assert code == 0
    return folder, root


@pytest.mark.parametrize("name", [name for name in CASES if name != HERE])
def test_the_study_ends_with_its_report_and_says_the_same(here, name):
    reference, root = here
    code, folder = run_case("smoke", name, root)
    assert (folder / "report" / "index.html").is_file()
    verdict = verify(folder, reference)
    assert agrees(name, code, verdict), str(verdict)
