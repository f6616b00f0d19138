import pytest

from edgewise.runtime import versions
from edgewise.runtime.bundle import BundleError
from edgewise.runtime.versions import check_minimum_versions

INSTALLED = {"alpha": "1.22.0", "beta": "0.9.0rc1+cpu", "onnxruntime-gpu": "1.24.1"}


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    monkeypatch.setattr(versions, "installed_version", INSTALLED.get)


@pytest.mark.parametrize(
    "minimums",
    [
        {},
        {"alpha": "1.22"},
        {"alpha": "1.22.0.0"},
        {"alpha": "1.9"},
        {"beta": "0.9"},
        {"onnxruntime": "1.24"},
    ],
)
def test_new_enough(minimums):
    check_minimum_versions(minimums)


@pytest.mark.parametrize(
    ("minimums", "match"),
    [
        ({"alpha": "1.22.1"}, r"alpha 1\.22\.1 \(here: 1\.22\.0\): pip install 'alpha>=1\.22\.1'"),
        ({"alpha": "1.100"}, "here: 1.22.0"),
        ({"alpha": "2"}, "here: 1.22.0"),
        ({"gamma": "1"}, "here: none"),
        ({"onnxruntime": "1.25"}, "here: 1.24.1"),
        ({"alpha": "newest"}, "'newest' is no version"),
    ],
)
def test_too_old_or_missing(minimums, match):
    with pytest.raises(BundleError, match=match):
        check_minimum_versions(minimums)


def test_all_stand_in_one_error():
    with pytest.raises(BundleError) as caught:
        check_minimum_versions({"alpha": "9", "beta": "0.1", "gamma": "1"})
    assert "alpha 9 (here: 1.22.0), gamma 1 (here: none)" in str(caught.value)
    assert "pip install 'alpha>=9' 'gamma>=1'" in str(caught.value)
