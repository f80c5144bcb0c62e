import pytest
from helpers import make_settings, write_result

from maml_tf import networks
from maml_tf.cli.original import from_flags
from maml_tf.experiments import fields, problems
from maml_tf.experiments.build import make_learner
from maml_tf.experiments.identity import contradictions, directory_name, to_flags
from maml_tf.experiments.methods import METHODS
from maml_tf.experiments.records import Kind
from maml_tf.experiments.settings import NORMS, SETTINGS, Training, query_shots
from maml_tf.ranges import Span
from maml_tf.results import files as result_files

PRETRAINED = {"pretrain_iterations": 5, "iterations": 0}
NAVIGATION = {"problem": "navigation_2d"}
CHEETAH = {"problem": "cheetah_velocity"}
GYMNASIUM = {"problem": "gymnasium", "environment": "my_module:Line-v0"}
COSINE = {"meta_lr_schedule": "cosine"}
OMNIGLOT = {"problem": "omniglot", "shots": 1, "meta_batch_size": 32}


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"problem": "mnist"}, "--problem must be one of sinusoid, omniglot, miniimagenet"),
        ({"ways": 0}, "--ways must be from 1 to 1000000; got 0"),
        ({"shots": -3}, "--shots must be from 1 to"),
        ({"shots": "0..3"}, "--shots must be from 1 to 1000000; got 0..3"),
        ({"shots": "5..1"}, "--shots=5..1: write the smaller number of a range first, 1..5"),
        ({"shots": "1.."}, "--shots=1..: write a range as LOW..HIGH, such as 1..5"),
        ({"shots": "few"}, "--shots must be a whole number, or a range such as 1..5, not 'few'"),
        ({"queries": "1..5"}, "--queries must be a whole number, not '1..5'"),
        ({"test_shots": "1..5"}, "--test_shots must be a whole number, not '1..5'"),
        ({**NAVIGATION, "shots": "1..5"}, "as many trajectories in each task; give one --shots"),
        ({"method": "pretrained", "shots": "1..5"}, "no inner step, so that a range of --shots"),
        ({"queries": 0}, "--queries must be from 1 to 1000000, or None for the default"),
        ({"inner_steps": -1}, "--inner_steps must be from 0 to"),
        ({"step_size": 0.0}, "--step_size must be above 0"),
        ({"step_size": float("nan")}, "--step_size must be above 0"),
        ({"meta_step_size": -1.0}, "--meta_step_size must be above 0"),
        ({"head_stddev": -0.1}, "--head_stddev must be from 0 to 1e\\+30, or None for the default"),
        ({"head_stddev": float("nan")}, "--head_stddev must be from 0"),
        ({"clip": 0.0}, "--clip must be above 0 to 1e\\+30, or None"),
        ({"clip_norm": 0.0}, "--clip_norm must be above 0 to 1e\\+30, or None"),
        ({**NAVIGATION, "clip_norm": 1.0}, "--clip_norm is for --meta_optimizer=promp or vpg, not"),
        (
            {**NAVIGATION, "meta_lr_schedule": "cosine"},
            "--meta_lr_schedule is for --meta_optimizer=promp or vpg, not trpo; drop",
        ),
        ({**NAVIGATION, "warmup_iterations": 3}, "--warmup_iterations is for --meta_optimizer=pr"),
        ({"meta_lr_schedule": "linear"}, "--meta_lr_schedule must be one of constant, cosine, exp"),
        (
            {"final_meta_step_size": 0.1},
            "--final_meta_step_size needs a schedule; add --meta",
        ),
        (
            {"schedule_iterations": 10},
            "--schedule_iterations needs a schedule; add .*, or",
        ),
        (
            {**COSINE, "schedule_iterations": 20, "iterations": 10},
            "--schedule_iterations=20 is longer than the run, --iterations=10; lower it, or raise",
        ),
        (
            {"second_order_after": 10, "iterations": 10},
            "--second_order_after=10 is not before the end of the run, --iterations=10; lower it",
        ),
        (
            {**COSINE, "warmup_iterations": 10, "iterations": 10},
            "--warmup_iterations=10 leaves nothing of a schedule of 10 iterations",
        ),
        ({**COSINE, "iterations": 0}, "--meta_lr_schedule=cosine is over --iterations, which is 0"),
        ({"warmup_iterations": 15000}, "--warmup_iterations=15000 leaves nothing of a schedule of"),
        (
            {"meta_lr_schedule": "exponential", "final_meta_step_size": 0.0},
            "--meta_lr_schedule=exponential never comes to 0; raise --final_meta_step_size",
        ),
        ({"norm": "batchnorm"}, "--norm must be one of batch_norm, layer_norm, none"),
        ({**OMNIGLOT, "oracle": True}, "--oracle is for --problem=sinusoid, not .*; drop --oracle"),
        ({**OMNIGLOT, "method": "oracle"}, "shows the network which task it is in; use it with"),
        ({**OMNIGLOT, "inputs": "half"}, "--inputs is for --problem=sinusoid"),
        ({**OMNIGLOT, "method": "multitask"}, "use it with --problem=sinusoid"),
        ({"method": "mamal"}, "--method must be one of maml, fomaml"),
        ({"method": "context", "stop_grad": True}, "contradicts --stop_grad, which is fomaml"),
        ({"method": "maml", "stop_grad": True}, "contradicts --stop_grad, which is fomaml"),
        ({"method": "maml", **PRETRAINED}, "--method=maml contradicts --pretrain_iterations"),
        ({"method": "oracle", **PRETRAINED}, "which is pretrained; drop one"),
        ({"method": "pretrained", "oracle": True}, "contradicts --oracle"),
        ({"method": "pretrained", "pretrain_iterations": 5}, "drop --pretrain_iterations"),
        ({"method": "random", "learn_step_size": True}, "drop --learn_step_size"),
        ({"learn_step_size": True, "tune_step_size": True}, "--learn_step_size learned"),
        ({"method": "context", "adapt": "head"}, "adapts the context vector alone; drop --adapt"),
        ({"inner_optimizer": "rmsprop"}, "--inner_optimizer must be one of sgd, momentum, adam"),
        ({"method": "random", "inner_optimizer": "adam"}, "no inner step; drop --inner_optimizer"),
        ({"method": "pretrained", "inner_clip": 1.0}, "no inner step; drop --inner_clip"),
        ({"inner_momentum": 0.5}, "--inner_momentum is for --inner_optimizer=momentum; drop it"),
        ({"inner_clip": 0.0}, "--inner_clip must be above 0"),
        ({**NAVIGATION, "inner_optimizer": "adam"}, "--inner_optimizer is for --problem=sinusoid"),
        ({**NAVIGATION, "inner_clip": 1.0}, "--inner_clip is for --problem=sinusoid"),
        ({"method": "multitask_l2", "distribute": "mirrored"}, "drop --distribute"),
        (
            {"method": "multitask", "l2": 0.1},
            "--l2 is for --method=multitask_l2 or multitask_m",
        ),
        ({"method": "multitask_l2", "l2": -0.5}, "--l2 must be from 0 to 1e\\+30, or None"),
        ({"method": "nearest_neighbour"}, "use it with --problem=omniglot or miniimagenet"),
        (
            {**OMNIGLOT, "method": "nearest_neighbour", "tune_step_size": True},
            "drop --tune_step_size",
        ),
        ({**OMNIGLOT, "method": "nearest_neighbour", **PRETRAINED}, "which is pretrained; drop"),
        ({"problem": "miniimagenet", "conv": False}, "drop --conv=False"),
        (
            {**NAVIGATION, "horizon": 0},
            "--horizon must be from 1 to 1000000, or None for the default; got 0",
        ),
        ({**NAVIGATION, "max_kl": 0.0}, "--max_kl must be above 0"),
        ({**NAVIGATION, "discount": 1.01}, "--discount must be from 0 to 1; got 1.01"),
        ({**NAVIGATION, "gae_lambda": float("nan")}, "--gae_lambda must be from 0 to 1"),
        ({**NAVIGATION, "curvature_share": 0.0}, "--curvature_share must be above 0 to 1"),
        ({**NAVIGATION, "curvature": "kfac"}, "--curvature must be one of fisher, hessian"),
        ({**NAVIGATION, "method": "multitask"}, "use it with --problem=sinusoid"),
        ({**NAVIGATION, "inputs": "half"}, "--inputs is for --problem=sinusoid"),
        ({**NAVIGATION, "oracle": True}, "--oracle is for --problem=sinusoid"),
        ({**NAVIGATION, "batch_statistics": "inductive"}, "drop --batch_statistics"),
        ({**NAVIGATION, "dynamics": "gymnasium"}, "--dynamics is for --problem=cheetah_velocity"),
        ({**CHEETAH, "squared_reward": True}, "--squared_reward is for --problem=navigation_2d"),
        ({**CHEETAH, "environment": "Line-v0"}, "--environment is for --problem=gymnasium.*; drop"),
        ({"environment": "Line-v0"}, "--environment is for --problem=gymnasium.*; drop"),
        ({"problem": "gymnasium"}, "needs --environment=Id-v0"),
        ({**CHEETAH, "log_every": 0}, "--log_every must be from 1 to 1000000000000, or None"),
        ({**CHEETAH, "test_steps": -2}, "--test_steps must be from 0 to 10000, or None"),
    ],
)
def test_impossible_settings_are_refused_with_the_mend(settings, message):
    with pytest.raises(ValueError, match=message):
        make_settings(**settings)


def test_classes_are_for_what_can_be_trained_on_all_of_them():
    with pytest.raises(ValueError, match="--problem=navigation_2d has no classes; drop --classes"):
        make_settings(problem="navigation_2d", method="pretrained", classes="task")
    with pytest.raises(ValueError, match="learns from N-way tasks; drop --classes"):
        make_settings(**OMNIGLOT, classes="all")


NUMBERS = [each for each in SETTINGS.values() if each.kind in (int, float)]


@pytest.mark.parametrize("each", NUMBERS, ids=lambda each: each.flag)
def test_every_number_has_a_range_and_nothing_outside_it_is_taken(each):
    within, kind = each.within, each.kind
    assert (each.default is None and each.optional) or each.default in within
    assert within.least <= within.most <= (1e30 if kind is float else 10**12)
    outside = [kind(within.most) * 2, -2, -(10**9), 10**400]
    outside += [kind(within.least)] if within.above else []
    outside += [] if each.optional else [-1]  # which earlier versions called "derived"
    outside += [float(text) for text in ("nan", "inf", "-inf")]
    for value in outside:
        with pytest.raises(ValueError, match=f"^--{each.flag} must be [^\n]*$"):
            make_settings(**{each.flag: value})
    with pytest.raises(ValueError, match=f"^--{each.flag} must be a"):
        make_settings(**{each.flag: "1"})
    with pytest.raises(ValueError, match=f"^--{each.flag} must be a"):
        make_settings(**{each.flag: True})


def test_the_ends_of_a_range_are_taken():
    config = make_settings(
        seed=2**32 - 1, fps=50, intra_op_threads=1024, test_iteration=0, discount=0.0
    )
    assert from_flags(to_flags(config)) == config
    assert make_settings(train_update_lr=-1.0) == make_settings()
    with pytest.raises(ValueError, match="--step_size must be above 0 to 1e\\+30; got -1"):
        make_settings(step_size=-1.0)  # it is derived from nothing


def test_a_meta_step_that_fits_no_memory_is_refused():
    with pytest.raises(ValueError, match="lower --meta_batch_size or --shots"):
        make_settings(meta_batch_size=10**6, shots=10**6)
    with pytest.raises(ValueError, match="1000 tasks of 20000000 examples is too large"):
        make_settings(problem="omniglot", meta_batch_size=1000, ways=10**6, shots=10)


TEXTS = [each.flag for each in SETTINGS.values() if each.kind is str and each.flag != "problem"]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("bad", ["\n", "\0", "\r", "\x1b[2J", "\x85", "\u2028", "\udcff"])
def test_a_text_that_would_break_the_flagfile_is_refused(name, bad):
    with pytest.raises(ValueError, match=f"--{name} must be one line of plain text") as error:
        make_settings(**{name: f"logs{bad}--seed=3"})
    assert str(error.value).isprintable()


@pytest.mark.parametrize("good", ["\u00a0", "\U0001f469\u200d\U0001f52c", "\u3000", "\ue000"])
def test_a_text_of_other_characters_is_taken(good):
    assert make_settings(run_name=f"a{good}b").run.run_name == f"a{good}b"


OVERLOOKED = [".hid", "a.old1", "a.old23", "@eaDir", "@tmp", "#recycle", "~$x", "x~", "Lost+Found"]


@pytest.mark.parametrize(
    "name", [*OVERLOOKED, "x", "@x", "#x", "a.old", "a.old1b", "a.oldx", "é a"]
)
def test_a_run_whose_results_would_not_be_found_is_refused(name, tmp_path):
    path = tmp_path / name / "results" / "test_1shot_stepsize0.4.json"
    write_result(path)
    if name in OVERLOOKED:
        with pytest.raises(ValueError, match="would be overlooked .* choose another --run_name"):
            directory_name(make_settings(run_name=name))
        with pytest.raises(FileNotFoundError):
            result_files.find([tmp_path])
    else:
        assert directory_name(make_settings(run_name=name)) == name
        assert result_files.find([tmp_path]) == [path]
    assert result_files.find([tmp_path / name]) == [path]


@pytest.mark.parametrize("release", ["a.old1", "a~", "a"])
def test_a_run_named_after_any_release_is_found(release, tmp_path):
    name = directory_name(make_settings(init=f"models/{release}"))
    assert f".init_{release}" in name
    write_result(tmp_path / name / "results" / "test_1shot_stepsize0.4.json")
    assert len(result_files.find([tmp_path])) == 1


def test_other_texts_are_read_back():
    config = make_settings(logdir="my runs/é 日本\u3000[1]", data_dir=" a=b # c ", run_name="x")
    assert from_flags(to_flags(config)) == config


@pytest.mark.parametrize("change", [lambda t: "\ufeff" + t, lambda t: t.replace("\n", "\r\n")])
def test_flags_text_that_an_editor_saved(change):
    config = make_settings(seed=3, logdir="a b")
    assert from_flags(change(to_flags(config))) == config


@pytest.mark.parametrize(
    "line, fault",
    [
        ("--seed=", "--seed= is not a whole number"),
        ("--seed=1.0", "--seed=1.0 is not a whole number"),
        ("--step_size=0,1", "--step_size=0,1 is not a number"),
        ("--update_lr=0,1", "--update_lr=0,1 is not a number"),
        ("--log=Tru", "--log=Tru is neither True nor False"),
    ],
)
def test_damaged_flags_text_is_named(line, fault):
    with pytest.raises(ValueError, match=fault):
        from_flags(f"--inner_steps=2\n{line}\n")


def config_of(method, **settings):
    """Settings that allow the method."""
    images = {"problem": "omniglot"} if method == "nearest_neighbour" else {}
    return make_settings(method=method, **images, **settings)


def test_flags_text_repeats_the_settings():
    config = make_settings(**OMNIGLOT, stop_grad=True, step_size=0.4, to="a b=c")
    assert from_flags(to_flags(config)) == config


def test_settings_of_another_version_are_left_out():
    assert from_flags("--seed=3\n--from_the_future=1\n") == make_settings(seed=3)


OTHER = {
    "problem": "omniglot",
    "adapt": "head",
    "norm": "none",
    "loss_reduction": "mean",
    "environment": "Other-v0",
    "dynamics": "gymnasium",
    "curvature": "hessian",
    "inner_loss": "likelihood_ratio",
    "meta_optimizer": "promp",
    "method": "fomaml",
    "classes": "task",
    "init": "models/other",
    "color": "grey",
    "meta_lr_schedule": "cosine",
    "learn_step_size": "layer_and_step",
    "inner_optimizer": "adam",
    "head_initialization": "prototypes",
}
SHARES = ("discount", "gae_lambda", "curvature_share", "inner_momentum")


def other_value(each):
    """A legal value that is not the default."""
    if each.kind is bool:
        return not each.default
    if each.flag in SHARES:
        return each.default / 2
    if each.flag == "minibatches":
        return 5  # divides the tasks
    if each.flag == "average":
        return 0.9
    return OTHER[each.flag] if each.kind is str else (each.default or 0) + 7


PROMP = {**CHEETAH, "meta_optimizer": "promp"}
BASES = {"l2": {"method": "multitask_l2"}, "environment": GYMNASIUM, "dynamics": CHEETAH}
BASES |= {name: PROMP for name in ("epochs", "minibatches", "clip_ratio", "inner_kl")}
BASES |= dict.fromkeys(("final_meta_step_size", "schedule_iterations"), COSINE)
BASES |= dict.fromkeys(("imaml_lambda", "cg_steps"), {"method": "imaml"})
BASES["inner_momentum"] = {"inner_optimizer": "momentum"}
BASES["classes"] = {**OMNIGLOT, "method": "pretrained"}


@pytest.mark.parametrize("each", fields.declared(Training), ids=lambda each: each.flag)
def test_what_changes_what_is_learned_changes_the_directory(each):
    """Also a guard: a new field of Training must be read by a problem, and show in the name."""
    readers = problems.readers(each.name) or ["sinusoid"]
    base = BASES.get(each.flag, {} if "sinusoid" in readers else {"problem": readers[0]})
    plain, changed = make_settings(**base), make_settings(**{**base, each.flag: other_value(each)})
    assert directory_name(changed) != directory_name(plain)
    assert contradictions(plain, changed)


def test_every_training_setting_is_read_by_a_problem():
    for each in fields.declared(Training):
        assert problems.readers(each.name) or each.name in ("problem", "method")
    assert all(problem.reads <= set(SETTINGS) for problem in problems.known().values())


def test_the_networks_take_every_normalization():
    assert set(NORMS) == set(networks.NORMS)


def test_no_two_methods_share_a_directory():
    methods = [method for method in METHODS if method != "nearest_neighbour"]
    names = {directory_name(make_settings(method=method)) for method in methods}
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
    config = make_settings(**flags)
    assert config.method.name == method
    assert config.inner_steps == (0 if method in ("pretrained", "oracle") else 1)
    assert from_flags(to_flags(config)) == config


@pytest.mark.parametrize(
    "explicit, original",
    [
        ({"method": "fomaml"}, {"stop_grad": True}),
        ({"method": "pretrained", "iterations": 5}, PRETRAINED),
        ({"method": "oracle", "iterations": 5}, {**PRETRAINED, "baseline": "oracle"}),
    ],
)
def test_both_spellings_are_one_run(explicit, original):
    explicit, original = make_settings(**explicit), make_settings(**original)
    assert directory_name(explicit) == directory_name(original)
    assert not contradictions(explicit, original)
    if not explicit.method.first_order:
        assert explicit.run.iterations == original.run.iterations == 5


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_read_back_from_its_flags(method):
    config = config_of(method)
    assert from_flags(to_flags(config)) == config


def test_a_pretraining_before_a_meta_training_has_its_own_settings():
    config = make_settings(
        pretrain_iterations=5, stop_grad=True, learn_step_size=True, run_name="x"
    )
    before = config.pretraining()
    assert (before.method.name, before.run.iterations, before.run.run_name) == ("pretrained", 5, "")
    assert make_settings().pretraining() is None and before.pretraining() is None


def tunes(**given):
    return make_settings(**given).evaluation.tune_step_size


def test_which_evaluations_tune_the_step_size():
    assert not tunes() and not tunes(method="context")
    assert tunes(tune_step_size=True)
    assert not config_of("nearest_neighbour").evaluation.tune_step_size
    for name in METHODS:
        if METHODS[name].inner_steps or name == "nearest_neighbour":
            continue
        assert tunes(method=name)
        assert tunes(method=name, test_step_size=0.01)  # the training's
        assert not tunes(method=name, test_step_size=0.5)
        assert not tunes(method=name, update_lr=0.5, train_update_lr=0.01)
        assert not tunes(method=name, tune_step_size=False)


def test_one_classifier_of_all_classes_is_another_run_than_pretraining_on_tasks():
    joint = make_settings(**OMNIGLOT, method="pretrained", iterations=5)
    episodes = make_settings(**OMNIGLOT, **PRETRAINED)
    before = make_settings(**OMNIGLOT, pretrain_iterations=5).pretraining()
    assert joint.joint and not episodes.joint and not before.joint
    assert not make_settings(method="pretrained").joint and not make_settings(**OMNIGLOT).joint
    assert directory_name(episodes) == directory_name(before) != directory_name(joint)
    assert directory_name(joint).endswith(".classes_all")


def test_the_nearest_neighbour_evaluates_the_pretrained_run():
    config = make_settings(**OMNIGLOT, method="nearest_neighbour", test_steps=7)
    assert config.joint and config.evaluation.steps == 0 and config.inner_steps == 0
    assert config.trained() == config.replace(method="pretrained")
    assert config.trained().evaluation.steps == 7


def test_the_penalty():
    assert make_settings(method="multitask").training.l2 == 0.0
    assert make_settings(method="multitask_l2").training.l2 > 0
    assert make_settings(method="multitask_mean", l2=0.3).training.l2 == 0.3


def test_pretraining_is_another_run_than_meta_training():
    names = {
        directory_name(make_settings()),
        directory_name(make_settings(pretrain_iterations=10, iterations=0)),
        directory_name(make_settings(pretrain_iterations=10, iterations=10)),
        directory_name(make_settings(stop_grad=True)),
    }
    assert len(names) == 4


def test_what_does_not_matter_does_not():
    here = make_settings(iterations=5, logdir="x", pieces=2, progress=False)
    assert directory_name(here) == directory_name(make_settings())
    assert not contradictions(make_settings(), here)


def test_a_schedule_is_as_long_as_the_run_and_another_length_is_another_run():
    short, long = (make_settings(**COSINE, iterations=n) for n in (100, 200))
    assert (short.training.schedule_iterations, short.training.final_meta_step_size) == (100, 0.0)
    assert directory_name(short) != directory_name(long)
    assert contradictions(short, long) == ["--schedule_iterations=100, now 200"]
    beyond = make_settings(**COSINE, iterations=200, schedule_iterations=100)
    assert directory_name(short) == directory_name(beyond) and not contradictions(short, beyond)
    assert from_flags(to_flags(beyond)) == beyond
    falling = make_settings(meta_lr_schedule="exponential", meta_step_size=0.5)
    assert falling.training.final_meta_step_size == 0.005
    assert make_settings(iterations=100).training.schedule_iterations is None


def test_a_pretraining_before_a_scheduled_training_has_a_constant_step_size():
    settings = make_settings(**COSINE, iterations=50, schedule_iterations=50, pretrain_iterations=5)
    before = settings.pretraining().training
    assert before.meta_lr_schedule == "constant" and before.schedule_iterations is None


def test_contradictions_name_the_flag():
    told = contradictions(make_settings(step_size=0.4), make_settings(step_size=0.1))
    assert told == ["--step_size=0.4, now 0.1"]


def test_derived_settings():
    assert make_settings(shots=3).training.queries == 3
    assert make_settings(problem="miniimagenet").training.queries == 15
    assert make_settings(problem="miniimagenet").training.clip == 10.0
    assert make_settings().training.clip is None and make_settings(clip=2.0).training.clip == 2.0
    settings = make_settings(update_batch_size=5, train_update_batch_size=1, train_update_lr=0.4)
    assert (settings.training.shots, settings.training.step_size) == (1, 0.4)
    assert (settings.evaluation.shots, settings.evaluation.step_size) == (5, 0.01)
    assert make_settings(train_update_batch_size=1).evaluation.shots == 5  # the default
    trained = settings.trained()
    assert (trained.evaluation.shots, trained.evaluation.step_size) == (1, 0.4)


def test_a_range_of_shots_is_the_trainings():
    config = make_settings(**OMNIGLOT | {"shots": "1..5"}, pretrain_iterations=3)
    assert config.training.shots == Span(1, 5) and config.training.queries == 5
    assert config.evaluation.shots == 5 and query_shots(config, 1) == 1
    assert from_flags(to_flags(config)) == config
    assert directory_name(config).startswith("omniglot_5way_1..5shot.maml.mbs_32.")
    assert config.pretraining().training.shots == 5
    others = make_settings(**OMNIGLOT, pretrain_iterations=3)
    assert contradictions(config, others) == ["--shots=1..5, now 1", "--queries=5, now 1"]
    assert make_settings(shots="3..3") == make_settings(shots=3)
    with pytest.raises(ValueError, match="lower --meta_batch_size or --shots"):
        make_settings(meta_batch_size=10**6, shots=f"1..{10**6}")


def test_tasks_of_a_range_count_alike_and_those_of_one_k_as_in_the_original():
    def weight(**given):
        given = {**OMNIGLOT, "filters": 2, **given}
        return make_learner(make_settings(**given)).query_weight

    assert weight(shots=1, queries=15) == 15 and weight(shots="1..5", queries=15) == 1
    assert weight(shots=1, queries=15, loss_reduction="mean") == 1


def test_queries_follow_the_shots_of_an_evaluation_unless_they_are_given():
    settings = make_settings(**OMNIGLOT, test_shots=5)
    assert query_shots(settings, 5) == 5 and settings.training.queries == 1
    assert query_shots(make_settings(**OMNIGLOT, queries=7, test_shots=5), 5) == 7
    assert query_shots(make_settings(problem="miniimagenet", test_shots=5), 5) == 15


SUPERVISED_NAMES = {
    "sinusoid_10shot.maml.mbs_25.numstep_1.updatelr_0.01.norm_None": {
        "norm": "None",
        "shots": 10,
    },
    "omniglot_5way_1shot.fomaml.mbs_32.numstep_1.updatelr_0.01": {**OMNIGLOT, "stop_grad": True},
    "sinusoid_5shot.oracle.mbs_25.numstep_1.updatelr_0.01": {**PRETRAINED, "baseline": "oracle"},
    "sinusoid_5shot.maml.mbs_25.numstep_1.updatelr_0.01.pretrain_iterations_5": {
        "pretrain_iterations": 5
    },
    "omniglot_5way_1shot.pretrained.mbs_32.numstep_1.updatelr_0.01.meta_lr_0.01.seed_3.init_x"
    ".classes_all": {
        **OMNIGLOT,
        "method": "pretrained",
        "init": "models/x",
        "seed": 3,
        "meta_lr": 0.01,
    },
    "miniimagenet_5way_1shot.maml.mbs_25.numstep_1.updatelr_0.01.queries_15": {
        "problem": "miniimagenet",
        "shots": 1,
        "queries": 15,  # the default
    },
    "sinusoid_5shot.maml.mbs_25.numstep_1.updatelr_0.01.num_classes_2.seed_1.norm_None"
    ".pretrain_iterations_5": {
        "num_classes": 2,
        "pretrain_iterations": 5,
        "seed": 1,
        "norm": "None",
    },
}


@pytest.mark.parametrize("name", SUPERVISED_NAMES)
def test_supervised_runs_keep_their_names(name):
    """Directories of earlier versions are found again."""
    assert directory_name(make_settings(**SUPERVISED_NAMES[name])) == name


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
    assert directory_name(make_settings(**settings)) == name


def test_settings_that_depend_on_the_data():
    names = ("test_steps", "test_tasks", "log_every", "validate_every", "validation_tasks")
    names += ("save_every",)

    def settled(**given):
        settings = make_settings(**given)
        run = settings.run
        evaluation = (settings.evaluation.steps, settings.evaluation.tasks)
        return (*evaluation, run.log_every, run.validate_every, run.validation_tasks) + (
            run.save_every,
        )

    assert settled() == (10, 600, 100, 5000, 96, 10000)
    assert settled(**OMNIGLOT) == (10, 600, 100, 500, 96, 1000)
    assert settled(**CHEETAH) == (3, 40, 1, 10, 20, 10)
    assert settled(**NAVIGATION) == (4, 40, 1, 10, 20, 10)
    assert settled(**NAVIGATION, **dict.fromkeys(names, 7)) == (7,) * 6


@pytest.mark.parametrize(
    "method", [name for name, method in METHODS.items() if Kind.POLICY in method.kinds]
)
def test_every_method_of_meta_rl_is_read_back_from_its_flags(method):
    config = make_settings(**NAVIGATION, method=method)
    assert config.problem.kind is Kind.POLICY and not config.evaluation.tune_step_size
    assert from_flags(to_flags(config)) == config


def test_a_run_that_starts_from_a_release_is_a_run_of_its_own():
    started = make_settings(init="models/omniglot_5way_1shot/")
    assert directory_name(started) == f"{directory_name(make_settings())}.init_omniglot_5way_1shot"
    assert contradictions(make_settings(), started)
    assert not contradictions(make_settings(init="elsewhere/omniglot_5way_1shot"), started)
