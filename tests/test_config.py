import dataclasses

import pytest
from helpers import write_result

from maml_tf.experiments.identity import contradictions, directory_name, from_flags, to_flags
from maml_tf.experiments.settings import METHODS, NO_INNER_STEPS, Config
from maml_tf.results import files as result_files

PRETRAINED = {"pretrain_iterations": 5, "metatrain_iterations": 0}
NAVIGATION = {"datasource": "navigation_2d"}
CHEETAH = {"datasource": "cheetah_velocity"}
GYMNASIUM = {"datasource": "gymnasium", "environment": "my_module:Line-v0"}
OMNIGLOT = {"datasource": "omniglot", "update_batch_size": 1, "meta_batch_size": 32}


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"datasource": "mnist"}, "--datasource must be one of sinusoid, omniglot, miniimagenet"),
        ({"num_classes": 0}, "--num_classes must be from 1 to 1000000; got 0"),
        ({"update_batch_size": -3}, "--update_batch_size must be from 1 to"),
        ({"queries": 0}, "--queries must be from 1 to 1000000, or -1 for the default"),
        ({"num_updates": -1}, "--num_updates must be from 0 to"),
        ({"update_lr": 0.0}, "--update_lr must be above 0"),
        ({"update_lr": float("nan")}, "--update_lr must be above 0"),
        ({"meta_lr": -1.0}, "--meta_lr must be above 0"),
        ({"head_stddev": -0.1}, "--head_stddev must be from 0 to 1e\\+30, or -1 for the default"),
        ({"head_stddev": float("nan")}, "--head_stddev must be from 0"),
        ({"clip": 0.0}, "--clip must be above 0 to 1e\\+30, or -1"),
        ({"norm": "batchnorm"}, "--norm must be one of batch_norm, layer_norm, None"),
        ({**OMNIGLOT, "baseline": "oracle"}, "Drop --baseline"),
        ({**OMNIGLOT, "method": "oracle"}, "Drop --baseline"),
        ({**OMNIGLOT, "inputs": "half"}, "--inputs=half is for sinusoids"),
        ({**OMNIGLOT, "method": "multitask"}, "use it with --datasource=sinusoid"),
        ({"method": "mamal"}, "--method must be one of auto, maml, fomaml"),
        ({"method": "context", "stop_grad": True}, "contradicts --stop_grad, which is fomaml"),
        ({"method": "maml", "stop_grad": True}, "contradicts --stop_grad, which is fomaml"),
        ({"method": "maml", **PRETRAINED}, "--method=maml contradicts --pretrain_iterations"),
        ({"method": "oracle", **PRETRAINED}, "which is pretrained; drop one"),
        ({"method": "pretrained", "baseline": "oracle"}, "contradicts --baseline=oracle"),
        ({"method": "pretrained", "pretrain_iterations": 5}, "drop --pretrain_iterations"),
        ({"method": "random", "learn_step_size": True}, "drop --learn_step_size"),
        ({"learn_step_size": True, "tune_step_size": "True"}, "--learn_step_size learned"),
        ({"method": "context", "adapt": "head"}, "drop --adapt"),
        ({"method": "multitask_l2", "distribute": "mirrored"}, "drop --distribute"),
        ({"method": "multitask", "l2": 0.1}, "has no penalty; drop --l2"),
        ({"method": "multitask_l2", "l2": -0.5}, "--l2 must be from 0 to 1e\\+30, or -1"),
        ({"method": "nearest_neighbour"}, "use it with --datasource=omniglot or miniimagenet"),
        (
            {**OMNIGLOT, "method": "nearest_neighbour", "tune_step_size": "True"},
            "drop --tune_step_size",
        ),
        ({**OMNIGLOT, "method": "nearest_neighbour", **PRETRAINED}, "which is pretrained; drop"),
        ({"datasource": "miniimagenet", "conv": False}, "--conv=False is for Omniglot"),
        (
            {**NAVIGATION, "horizon": 0},
            "--horizon must be from 1 to 1000000, or -1 for the default; got 0",
        ),
        ({**NAVIGATION, "max_kl": 0.0}, "--max_kl must be above 0"),
        ({**NAVIGATION, "discount": 1.01}, "--discount must be from 0 to 1; got 1.01"),
        ({**NAVIGATION, "gae_lambda": float("nan")}, "--gae_lambda must be from 0 to 1"),
        ({**NAVIGATION, "curvature_share": 0.0}, "--curvature_share must be above 0 to 1"),
        ({**NAVIGATION, "curvature": "kfac"}, "--curvature must be one of fisher, hessian"),
        ({**NAVIGATION, "method": "multitask"}, "use it with --datasource=sinusoid"),
        ({**NAVIGATION, "inputs": "half"}, "--inputs=half is for sinusoids"),
        ({**NAVIGATION, "baseline": "oracle"}, "use --method=oracle"),
        ({**NAVIGATION, "distribute": "mirrored"}, "drop --distribute"),
        ({**NAVIGATION, "batch_statistics": "inductive"}, "drop --batch_statistics"),
        ({**NAVIGATION, "dynamics": "gymnasium"}, "--dynamics is for cheetah_velocity"),
        ({**CHEETAH, "squared_reward": True}, "--squared_reward is for --datasource=navigation_2d"),
        ({**CHEETAH, "environment": "Line-v0"}, "drop --environment"),
        ({"environment": "Line-v0"}, "drop --environment"),
        ({"datasource": "gymnasium"}, "needs --environment=Id-v0"),
        ({**CHEETAH, "log_every": 0}, "--log_every must be from 1 to 1000000000000, or -1"),
        ({**CHEETAH, "test_steps": -2}, "--test_steps must be from 0 to 10000, or -1"),
    ],
)
def test_impossible_settings_are_refused_with_the_mend(settings, message):
    with pytest.raises(ValueError, match=message):
        Config(**settings)


NUMBERS = [f for f in dataclasses.fields(Config) if type(f.default) in (int, float)]


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.name)
def test_every_number_has_a_range_and_nothing_outside_it_is_taken(field):
    within = field.metadata["within"]
    assert field.default in within and within.least <= within.most
    assert within.most <= (1e30 if isinstance(field.default, float) else 10**12)
    kind = type(field.default)
    outside = [kind(within.most) * 2, -2, -(10**9), 10**400]
    outside += [kind(within.least)] if within.above else []
    outside += [] if within.derived or within.least < 0 else [-1]
    outside += [float(text) for text in ("nan", "inf", "-inf")]
    for value in outside:
        with pytest.raises(ValueError, match=f"^--{field.name} must be [^\n]*$"):
            Config(**{field.name: value})
    with pytest.raises(ValueError, match=f"^--{field.name} must be a"):
        Config(**{field.name: str(field.default)})
    with pytest.raises(ValueError, match=f"^--{field.name} must be a"):
        Config(**{field.name: True})


def test_the_ends_of_a_range_are_taken():
    config = Config(seed=2**32 - 1, fps=50, intra_op_threads=1024, test_iter=0, discount=0.0)
    assert from_flags(to_flags(config)) == config
    assert Config(train_update_lr=-1.0).trained().update_lr == Config().update_lr
    with pytest.raises(ValueError, match="--update_lr must be above 0 to 1e\\+30; got -1"):
        Config(update_lr=-1.0)  # it is derived from nothing


def test_a_meta_step_that_fits_no_memory_is_refused():
    with pytest.raises(ValueError, match="lower --meta_batch_size or --update_batch_size"):
        Config(meta_batch_size=10**6, update_batch_size=10**6)
    with pytest.raises(ValueError, match="1000 tasks of 20000000 examples is too large"):
        Config(datasource="omniglot", meta_batch_size=1000, num_classes=10**6, update_batch_size=10)


TEXTS = [f.name for f in dataclasses.fields(Config) if isinstance(f.default, str)]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("bad", ["\n", "\0", "\r", "\x1b[2J", "\x85", "\u2028", "\udcff"])
def test_a_text_that_would_break_the_flagfile_is_refused(name, bad):
    with pytest.raises(ValueError, match=f"--{name} must be one line of plain text") as error:
        Config(**{name: f"logs{bad}--seed=3"})
    assert str(error.value).isprintable()


@pytest.mark.parametrize("good", ["\u00a0", "\U0001f469\u200d\U0001f52c", "\u3000", "\ue000"])
def test_a_text_of_other_characters_is_taken(good):
    assert Config(run_name=f"a{good}b").run_name == f"a{good}b"


OVERLOOKED = [".hid", "a.old1", "a.old23", "@eaDir", "@tmp", "#recycle", "~$x", "x~", "Lost+Found"]


@pytest.mark.parametrize(
    "name", [*OVERLOOKED, "x", "@x", "#x", "a.old", "a.old1b", "a.oldx", "é a"]
)
def test_a_run_whose_results_would_not_be_found_is_refused(name, tmp_path):
    path = tmp_path / name / "results" / "test_1shot_stepsize0.4.json"
    write_result(path)
    if name in OVERLOOKED:
        with pytest.raises(ValueError, match="would be overlooked .* choose another --run_name"):
            directory_name(Config(run_name=name))
        with pytest.raises(FileNotFoundError):
            result_files.find([tmp_path])
    else:
        assert directory_name(Config(run_name=name)) == name
        assert result_files.find([tmp_path]) == [path]
    assert result_files.find([tmp_path / name]) == [path]


@pytest.mark.parametrize("release", ["a.old1", "a~", "a"])
def test_a_run_named_after_any_release_is_found(release, tmp_path):
    name = directory_name(Config(init=f"models/{release}"))
    assert f".init_{release}" in name
    write_result(tmp_path / name / "results" / "test_1shot_stepsize0.4.json")
    assert len(result_files.find([tmp_path])) == 1


def test_other_texts_are_read_back():
    config = Config(logdir="my runs/é 日本\u3000[1]", data_dir=" a=b # c ", run_name="x")
    assert from_flags(to_flags(config)) == config


@pytest.mark.parametrize("change", [lambda t: "\ufeff" + t, lambda t: t.replace("\n", "\r\n")])
def test_flags_text_that_an_editor_saved(change):
    config = Config(seed=3, logdir="a b")
    assert from_flags(change(to_flags(config))) == config


@pytest.mark.parametrize(
    "line, fault",
    [
        ("--seed=", "--seed= is no whole number"),
        ("--seed=1.0", "--seed=1.0 is no whole number"),
        ("--update_lr=0,1", "--update_lr=0,1 is no number"),
        ("--log=Tru", "--log=Tru is neither True nor False"),
    ],
)
def test_damaged_flags_text_is_named(line, fault):
    with pytest.raises(ValueError, match=fault):
        from_flags(f"--num_updates=2\n{line}\n")


def config_of(method, **settings):
    """Settings that allow the method."""
    images = {"datasource": "omniglot"} if method == "nearest_neighbour" else {}
    return Config(method=method, **images, **settings)


def test_flags_text_repeats_the_settings():
    config = Config(**OMNIGLOT, stop_grad=True, update_lr=0.4, to="a b=c")
    assert from_flags(to_flags(config)) == config


def test_settings_of_another_version_are_left_out():
    assert from_flags("--seed=3\n--from_the_future=1\n") == Config(seed=3)


OTHER = {
    "datasource": "omniglot",
    "baseline": "oracle",
    "adapt": "head",
    "norm": "None",
    "loss_reduction": "mean",
    "environment": "Other-v0",
    "dynamics": "gymnasium",
    "curvature": "hessian",
    "inner_loss": "likelihood_ratio",
}
SHARES = ("discount", "gae_lambda", "curvature_share")


def other_value(field):
    """A legal value that is not the default."""
    if isinstance(field.default, bool):
        return not field.default
    if field.name in SHARES:
        return field.default / 2
    return OTHER[field.name] if isinstance(field.default, str) else field.default + 7


IDENTITY = [field for field in dataclasses.fields(Config) if field.metadata["names_run"]]


@pytest.mark.parametrize("name, value", [(f.name, other_value(f)) for f in IDENTITY])
def test_what_changes_what_is_learned_changes_the_directory(name, value):
    """Also a guard: a new field that names a run must show in the name."""
    base = {"method": "multitask_l2"} if name == "l2" else {}
    if name in [f.name for f in IDENTITY if "sinusoid" not in f.metadata["of"]]:
        base = {"environment": GYMNASIUM, "dynamics": CHEETAH}.get(name, NAVIGATION)
    plain, changed = Config(**base), Config(**{**base, name: value})
    assert directory_name(changed) != directory_name(plain)
    assert contradictions(plain, changed)


def test_no_two_methods_share_a_directory():
    methods = [method for method in METHODS if method != "nearest_neighbour"]
    names = {directory_name(Config(method=method)) for method in methods}
    assert len(names) == len(methods)
    assert all(name.startswith("sinusoid_5shot.") for name in names)


@pytest.mark.parametrize(
    "flags, method",
    [
        ({}, "maml"),
        ({"stop_grad": True}, "fomaml"),
        (PRETRAINED, "pretrained"),
        ({**PRETRAINED, "stop_grad": True}, "pretrained"),
        ({**PRETRAINED, "baseline": "oracle"}, "oracle"),
        ({"baseline": "oracle"}, "maml"),
        ({"pretrain_iterations": 5}, "maml"),
    ],
)
def test_the_originals_flags_say_the_method(flags, method):
    config = Config(**flags)
    assert config.method == method
    assert config.inner_steps == (0 if method in ("pretrained", "oracle") else 1)
    assert from_flags(to_flags(config)) == config


@pytest.mark.parametrize(
    "explicit, original",
    [
        ({"method": "fomaml"}, {"stop_grad": True}),
        ({"method": "pretrained", "metatrain_iterations": 5}, PRETRAINED),
        ({"method": "oracle", "metatrain_iterations": 5}, {**PRETRAINED, "baseline": "oracle"}),
    ],
)
def test_both_spellings_are_one_run(explicit, original):
    explicit, original = Config(**explicit), Config(**original)
    assert directory_name(explicit) == directory_name(original)
    assert not contradictions(explicit, original)
    if "fomaml" not in explicit.method:
        assert explicit.iterations == original.iterations == 5


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_read_back_from_its_flags(method):
    config = config_of(method)
    assert from_flags(to_flags(config)) == config


def test_a_pretraining_before_a_meta_training_has_its_own_settings():
    config = Config(pretrain_iterations=5, stop_grad=True, learn_step_size=True, run_name="x")
    before = config.pretraining()
    assert (before.method, before.iterations, before.run_name) == ("pretrained", 5, "")
    assert Config().pretraining() is None and before.pretraining() is None


def test_which_evaluations_tune_the_step_size():
    assert not Config().tunes_step_size and not Config(method="context").tunes_step_size
    assert Config(tune_step_size="True").tunes_step_size
    assert not config_of("nearest_neighbour").tunes_step_size
    for method in set(NO_INNER_STEPS) - {"nearest_neighbour"}:
        assert Config(method=method).tunes_step_size
        assert Config(method=method, train_update_lr=0.01).tunes_step_size
        assert not Config(method=method, update_lr=0.5, train_update_lr=0.01).tunes_step_size
        assert not Config(method=method, tune_step_size="False").tunes_step_size


def test_one_classifier_of_all_classes_is_another_run_than_pretraining_on_tasks():
    joint = Config(**OMNIGLOT, method="pretrained")
    episodes = Config(**OMNIGLOT, **PRETRAINED)
    before = Config(**OMNIGLOT, pretrain_iterations=5).pretraining()
    assert joint.joint and not episodes.joint and not before.joint
    assert not Config(method="pretrained").joint and not Config(**OMNIGLOT).joint
    assert directory_name(episodes) == directory_name(before) != directory_name(joint)
    assert directory_name(joint).endswith(".classes_all")


def test_the_nearest_neighbour_evaluates_the_pretrained_run():
    config = Config(**OMNIGLOT, method="nearest_neighbour", test_steps=7)
    assert config.joint and config.evaluation_steps == 0 and config.inner_steps == 0
    assert config.trained() == dataclasses.replace(config, method="pretrained")
    assert config.trained().evaluation_steps == 7


def test_the_penalty():
    assert Config(method="multitask").penalty == 0.0
    assert Config(method="multitask_l2").penalty > 0
    assert Config(method="multitask_mean", l2=0.3).penalty == 0.3


def test_pretraining_is_another_run_than_meta_training():
    names = {
        directory_name(Config()),
        directory_name(Config(pretrain_iterations=10, metatrain_iterations=0)),
        directory_name(Config(pretrain_iterations=10, metatrain_iterations=10)),
        directory_name(Config(stop_grad=True)),
    }
    assert len(names) == 4


def test_what_does_not_matter_does_not():
    here = Config(metatrain_iterations=5, logdir="x", task_chunks=2, progress=False)
    assert directory_name(here) == directory_name(Config())
    assert not contradictions(Config(), here)


def test_contradictions_name_the_flag():
    told = contradictions(Config(update_lr=0.4), Config(update_lr=0.1))
    assert told == ["--update_lr=0.4, now 0.1"]


def test_derived_settings():
    assert Config(update_batch_size=3).query_shots == 3
    assert Config(datasource="miniimagenet").query_shots == 15
    assert Config(datasource="miniimagenet").clip_value == 10.0
    assert Config().clip_value is None and Config(clip=2.0).clip_value == 2.0
    trained = Config(update_batch_size=5, train_update_batch_size=1, train_update_lr=0.4).trained()
    assert (trained.update_batch_size, trained.update_lr) == (1, 0.4)


SUPERVISED_NAMES = {
    "sinusoid_10shot.maml.mbs_25.numstep_1.updatelr_0.01.norm_None": {
        "norm": "None",
        "update_batch_size": 10,
    },
    "omniglot_5way_1shot.fomaml.mbs_32.numstep_1.updatelr_0.01": {**OMNIGLOT, "stop_grad": True},
    "sinusoid_5shot.oracle.mbs_25.numstep_1.updatelr_0.01": {**PRETRAINED, "baseline": "oracle"},
    "sinusoid_5shot.maml.mbs_25.numstep_1.updatelr_0.01.pretrain_iterations_5": {
        "pretrain_iterations": 5
    },
}


@pytest.mark.parametrize("name", SUPERVISED_NAMES)
def test_supervised_runs_keep_their_names(name):
    """Directories of earlier versions are found again."""
    assert directory_name(Config(**SUPERVISED_NAMES[name])) == name


@pytest.mark.parametrize(
    "settings, name",
    [
        (CHEETAH, "cheetah_velocity.maml.mbs_25.ubs_5.numstep_1.updatelr_0.01"),
        (
            {**CHEETAH, "method": "oracle", "norm": "None", "curvature_share": 0.25},
            "cheetah_velocity.oracle.mbs_25.ubs_5.numstep_1.updatelr_0.01.curvature_share_0.25",
        ),
        (GYMNASIUM, "my_module_Line-v0.maml.mbs_25.ubs_5.numstep_1.updatelr_0.01"),
    ],
)
def test_runs_of_meta_rl_are_named_by_what_it_looks_at(settings, name):
    assert directory_name(Config(**settings)) == name


def test_settings_that_depend_on_the_data():
    names = ("test_steps", "num_test_tasks", "log_every", "validate_every", "validation_tasks")
    names += ("save_every",)

    def settled(**settings):
        return tuple(getattr(Config(**settings), name) for name in names)

    assert settled() == (10, 600, 100, 5000, 96, 10000)
    assert settled(**OMNIGLOT) == (10, 600, 100, 500, 96, 1000)
    assert settled(**CHEETAH) == (3, 40, 1, 10, 20, 10)
    assert settled(**NAVIGATION) == (4, 40, 1, 10, 20, 10)
    given = dict.fromkeys(names, 7)
    assert settled(**NAVIGATION, **given) == (7,) * 6


@pytest.mark.parametrize(
    "method", [m for m in METHODS if not m.startswith("multitask") and m != "nearest_neighbour"]
)
def test_every_method_of_meta_rl_is_read_back_from_its_flags(method):
    config = Config(**NAVIGATION, method=method)
    assert config.reinforcement and not config.classification and not config.tunes_step_size
    assert from_flags(to_flags(config)) == config


def test_a_run_that_starts_from_a_release_is_a_run_of_its_own():
    started = Config(init="models/omniglot_5way_1shot/")
    assert directory_name(started) == f"{directory_name(Config())}.init_omniglot_5way_1shot"
    assert contradictions(Config(), started)
    assert not contradictions(Config(init="elsewhere/omniglot_5way_1shot"), started)
