"""Progress bars say what they wait for, and never end the work."""

import sys

from maml_tf.system.progress import Bar


def test_a_bar_says_that_it_compiles_until_the_first_step(capsys):
    def shown():
        return capsys.readouterr().err.split("\r")[-1]

    bar = Bar(total=3, until_first="compiling", mininterval=0, disable=False)
    assert shown().endswith("compiling]")
    bar.update(1)
    assert "1/3" in (line := shown()) and "compiling" not in line
    bar.set_postfix_str("loss 1")
    bar.update(1)
    assert "loss 1" in shown()
    bar.close()


def test_so_does_a_bar_of_things_to_go_through(capsys):
    seen = []
    for value in Bar(range(3), until_first="compiling", mininterval=0, disable=False):
        seen.append(value)
        assert "compiling" in capsys.readouterr().err or value
    last = capsys.readouterr().err.split("\r")[-1]
    assert seen == [0, 1, 2] and "3/3" in last and "compiling" not in last


def test_without_a_screen_nothing_is_shown(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert list(Bar([1, 2], until_first="compiling", disable=False)) == [1, 2]
