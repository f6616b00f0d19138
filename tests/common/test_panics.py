"""What is no Exception, and what ends the program."""

import pytest

from edgewise.common.panics import as_exception, contained


class PanicException(BaseException):
    """As pyo3 raises it."""


def test_an_exception_stays_what_it_is():
    error = ValueError("x")
    assert as_exception(error) is error
    assert contained(error) is error


def test_a_panic_becomes_an_exception_that_names_it():
    panic = PanicException("index out of bounds")
    for wrapped in (as_exception(panic), contained(panic)):
        assert isinstance(wrapped, RuntimeError)
        assert str(wrapped) == "PanicException: index out of bounds"
        assert wrapped.__cause__ is panic


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_the_program_is_let_through(kind):
    with pytest.raises(kind):
        contained(kind())
    assert isinstance(as_exception(kind()), RuntimeError)
