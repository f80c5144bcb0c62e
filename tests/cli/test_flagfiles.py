"""Flagfiles from any editor, and hostile ones."""

import os

import pytest
from helpers import make_settings

from maml_tf.cli import flags
from maml_tf.cli.main import run
from maml_tf.cli.original import from_flags
from maml_tf.experiments.identity import to_flags

PLAIN = "# The sinusoid.\n\n--seed=3\n--logdir=my runs/a=b\n// more\n--stop_grad\n--noprogress\n"
GIVEN = {"seed": 3, "logdir": "my runs/a=b", "stop_grad": True, "progress": False}


def parsed(path, contents):
    path.write_bytes(contents)
    given, _, words = flags.parse([f"--flagfile={path}"])
    assert not words
    return given


def error_of(path, capsys):
    assert run([f"--flagfile={path}"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("maml-tf: ")
    return line


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-be"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(encoding, end, tmp_path):
    mark = "\ufeff" if encoding.endswith("e") else ""
    text = mark + PLAIN.replace("\n", end) + "--run_name=é"
    assert parsed(tmp_path / "a.flags", text.encode(encoding)) == {**GIVEN, "run_name": "é"}


@pytest.mark.parametrize(
    "line",
    ["--seed=3", "-seed=3", "--seed 3", "seed 3", "seed=3", "seed = 3", "--seed = 3", "  seed\t3 "],
)
def test_spellings(line, tmp_path):
    assert parsed(tmp_path / "a.flags", line.encode()) == {"seed": 3}


@pytest.mark.parametrize("line", ["log False", "--log=False", "nolog", "--nolog", "log = false"])
def test_spellings_of_true_and_false(line, tmp_path):
    assert parsed(tmp_path / "a.flags", line.encode()) == {"log": False}


@pytest.mark.parametrize("line", ["logdir = my runs", "logdir my runs", "--logdir=my runs"])
def test_a_value_with_a_space(line, tmp_path):
    assert parsed(tmp_path / "a.flags", line.encode()) == {"logdir": "my runs"}


@pytest.mark.parametrize(
    "line, value",
    [
        ('--logdir="my logs"', "my logs"),
        ("--logdir='my logs'", "my logs"),
        ('logdir "my logs" ', "my logs"),
        ('logdir = "lg --seed=3 # x"', "lg --seed=3 # x"),
        ("--logdir='a \"b\" c'", 'a "b" c'),
        ('--logdir=""', ""),
        ("--logdir=Anna's logs", "Anna's logs"),
        ("--logdir=the 90's of Anna's", "the 90's of Anna's"),
        ("--logdir=a#b/c//d", "a#b/c//d"),
        ("--logdir=lg --unknown and -x - --", "lg --unknown and -x - --"),
        ("--logdir=the seed --log-files", "the seed --log-files"),
        ("--logdir=--seed=3", "--seed=3"),
    ],
)
def test_one_pair_of_quotes_is_no_part_of_a_value(line, value, tmp_path):
    assert parsed(tmp_path / "a.flags", line.encode()) == {"logdir": value}


def test_quotes_around_what_is_no_text(tmp_path):
    (tmp_path / "b c.flags").write_text("seed='3'\n--update_lr=\"0.5\"\n")
    given = parsed(tmp_path / "a.flags", b"flagfile='b c.flags'\n--resume='False'\n")
    assert given == {"seed": 3, "step_size": 0.5, "resume": False}


ANOTHER = "has another flag behind its value ("
COMMENT = "has a comment behind its value ("


@pytest.mark.parametrize(
    "line, told",
    [
        ("--logdir=lg --seed=3", f"--logdir {ANOTHER}lg --seed=3); give --seed a line of its own"),
        ("--logdir lg -seed=3", ANOTHER),
        ("logdir=lg seed=3", ANOTHER),
        ("logdir = lg seed = 3", ANOTHER),
        ("--logdir=lg\t--seed 3", ANOTHER),
        ("--logdir --seed=3", ANOTHER),
        ("--logdir= --stop_grad", ANOTHER),
        ("--logdir=lg --nolog", "give --nolog a line of its own"),
        ('--logdir="lg" --run_name="x"', ANOTHER),
        ("--logdir=lg --flagfile=b.flags", ANOTHER),
        ("--flagfile=b.flags --seed=3", f"--flagfile {ANOTHER}"),
        ("--seed=3 --logdir=lg", f"--seed {ANOTHER}"),
        ("--stop_grad --seed=3", f"--stop_grad {ANOTHER}"),
        ("--run_name=abc   # comment", f"--run_name {COMMENT}abc # comment); give the comment a"),
        ('--run_name="abc"   # "comment"', COMMENT),
        ("--run_name=Anna's # Bob's", COMMENT),
        ("--run_name=abc // comment", COMMENT),
        ("--seed=3 # three", f"--seed {COMMENT}"),
        ("--to= # nothing", f"--to {COMMENT}"),
        ("--stop_grad # first order", f"--stop_grad {COMMENT}"),
        ("--flagfile=b.flags # more", f"--flagfile {COMMENT}"),
        ('--logdir="my logs', "has quotes around a part of its value"),
        ('--logdir="my" logs', "put one pair around the whole value, or none."),
    ],
)
def test_what_stands_behind_a_value_is_refused(line, told, tmp_path, capsys):
    (tmp_path / "b.flags").write_text("")
    (tmp_path / "a.flags").write_text(line)
    assert told in error_of(tmp_path / "a.flags", capsys)


@pytest.mark.parametrize(
    "text",
    [
        *("my logs", "lg --seed=3", "lg -seed=3", "lg seed=3", "lg # x", "lg // x", " lg ", "# x"),
        *('"lg"', "'lg'", '"lg', "Anna's # x", 'a "b" # c', 'a "b # c"', "--seed=3", "a=b#c"),
        *("a\u00a0# b", "lg\u3000--seed=3", "\u00a0lg"),
    ],
)
def test_a_run_s_own_flags_repeat_it_whatever_its_directories_are_called(text, tmp_path):
    config = make_settings(logdir=text, to=text, data_dir=text)
    given = parsed(tmp_path / "a.flags", to_flags(config).encode())
    assert make_settings(**given) == config == from_flags(to_flags(config))


@pytest.mark.parametrize("value", ["no", "yes", "2", "-1", ""])
def test_neither_true_nor_false(value, tmp_path, capsys):
    (tmp_path / "a.flags").write_text(f"--resume={value}")
    line = error_of(tmp_path / "a.flags", capsys)
    assert line.endswith(f"line 1: --resume={value}: write True or False.")
    assert run([f"--resume={value}"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"--resume={value}: write True or False" in line and "(" not in line.split("True")[0]


def test_an_empty_value_and_a_negative_one(tmp_path):
    given = parsed(tmp_path / "a.flags", b"--to=\nclip -1\n--init = \n")
    assert given == {"to": "", "clip": -1.0, "init": ""}


@pytest.mark.parametrize(
    "contents, told",
    [
        (b"--seed=3\n--sead=3\n", "line 2: there is no flag --sead; write --seed=value."),
        (b"qqqqqqqq 1", "line 1: there is no flag --qqqqqqqq; maml-tf --help lists the flags."),
        (b"--seed=3\n\n--seed", "line 3: --seed has no value; write --seed=value."),
        (b"--seed=x", "line 1: --seed=x: write a whole number"),
        (b"--log=perhaps", "line 1: --log=perhaps: "),
        (b"--nolog=True", "line 1 gives --nolog a value; write --log=False."),
        (b"\xe2\x80\x94seed=3", "line 1 is no flag (\u2014seed=3); write --name=value."),
        (b"logs/run1", "line 1 is no flag (logs/run1); write --name=value."),
        (b"--", "line 1 is no flag (--); write --name=value."),
        (b"--seed=3\r\n--logdir=\xff\n", "line 2 is not UTF-8; save the file as UTF-8."),
        (b"\xff\xfe-", "line 1 is not UTF-8"),
        ("--seed=3".encode("utf-16-le"), "line 1 is not plain text; save the file as UTF-8."),
        (b"--flagfile=\n", "line 1 includes no file; write --flagfile=FILE"),
        (b"--flagfile\n", "line 1 includes no file; write --flagfile=FILE"),
        (b"--flagfile=a.flags\n", "a.flags includes itself; remove its line"),
        (b"seed=1\nflagfile nowhere.flags\n", "a.flags, line 2: There is no flagfile "),
        (b"--flagfile=.\n", "is not a regular file; name a flagfile."),
        (b"#" * 1_000_001, "is longer than any flagfile"),
    ],
)
def test_faults_are_named_with_file_line_and_mend(contents, told, tmp_path, capsys):
    (tmp_path / "a.flags").write_bytes(contents)
    line = error_of(tmp_path / "a.flags", capsys)
    assert told in line and str(tmp_path) in line


def test_a_loop_of_two(tmp_path, capsys):
    (tmp_path / "a.flags").write_text("--flagfile=b.flags\n")
    (tmp_path / "b.flags").write_text("--flagfile=../" + tmp_path.name + "/a.flags\n")
    assert "a.flags includes itself" in error_of(tmp_path / "a.flags", capsys)


def test_a_file_may_be_included_twice(tmp_path):
    (tmp_path / "b.flags").write_text("--seed=3\n")
    assert parsed(tmp_path / "a.flags", b"flagfile b.flags\n--flagfile=b.flags\n") == {"seed": 3}


def test_what_is_no_file(tmp_path, capsys):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    assert "is not a regular file" in error_of(tmp_path / "fifo", capsys)
    assert "is not a regular file" in error_of(tmp_path, capsys)
    assert "There is no flagfile" in error_of(tmp_path / "broken", capsys)
    assert "--flagfile= names no file" in error_of("", capsys)
    assert "is not a regular file" in error_of("/dev/zero", capsys)
    assert "too long" in error_of("n" * 5000, capsys)


def test_a_link_to_itself_is_no_flagfile(tmp_path, capsys):
    (tmp_path / "loop.flags").symlink_to("loop.flags")
    assert run(["evaluate", f"--flagfile={tmp_path / 'loop.flags'}"]) == 1
    err = capsys.readouterr().err
    assert "There is no flagfile" in err and "Traceback" not in err
