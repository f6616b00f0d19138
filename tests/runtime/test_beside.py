import threading

import pytest

from edgewise.runtime.beside import Beside


def test_work_goes_on_beside_the_block():
    meanwhile = threading.Event()

    def work():
        assert meanwhile.wait(10)
        return threading.current_thread()

    with Beside(work) as beside:
        meanwhile.set()
    assert beside.result() is not threading.current_thread()


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_what_the_work_raises_comes_with_its_result(kind):
    def work():
        raise kind("the work's")

    with Beside(work) as beside:
        pass
    with pytest.raises(kind, match="the work's"):
        beside.result()


def test_an_error_of_the_block_waits_for_the_work():
    go_on, done = threading.Event(), []

    def work():
        assert go_on.wait(10)
        done.append(True)

    def fail():
        threading.Timer(0.02, go_on.set).start()
        raise ValueError("the block's")

    with pytest.raises(ValueError, match="the block's"), Beside(work):
        fail()
    assert done == [True]
