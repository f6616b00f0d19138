"""The package's front: its names, each loaded when it is used."""

import pytest

import edgewise.exporter


@pytest.mark.parametrize("name", edgewise.exporter.__all__)
def test_every_name_it_offers_is_there(name):
    assert getattr(edgewise.exporter, name) is getattr(edgewise.exporter, name)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'edgewise\.exporter' has no attribute 'exprot'"):
        _ = edgewise.exporter.exprot
