import dataclasses

import pytest

from maml_tf.config import Config, contradictions, from_flags

OMNIGLOT = {"datasource": "omniglot", "update_batch_size": 1, "meta_batch_size": 32}


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"datasource": "mnist"}, "--datasource must be one of sinusoid, omniglot, miniimagenet"),
        ({"num_classes": 0}, "--num_classes must be 1 or more; got 0"),
        ({"update_batch_size": -3}, "--update_batch_size must be 1 or more"),
        ({"queries": 0}, "--queries must be 1 or more, or -1 for the default"),
        ({"num_updates": -1}, "--num_updates must be 0 or more"),
        ({"update_lr": 0.0}, "--update_lr must be positive"),
        ({"update_lr": float("nan")}, "--update_lr must be positive"),
        ({"meta_lr": -1.0}, "--meta_lr must be positive"),
        ({"clip": 0.0}, "--clip must be positive, or -1"),
        ({"norm": "batchnorm"}, "--norm must be one of batch_norm, layer_norm, None"),
        ({**OMNIGLOT, "baseline": "oracle"}, "Drop --baseline"),
        ({"datasource": "miniimagenet", "conv": False}, "--conv=False is for Omniglot"),
    ],
)
def test_impossible_settings_are_refused_with_the_mend(settings, message):
    with pytest.raises(ValueError, match=message):
        Config(**settings)


def test_flags_text_repeats_the_settings():
    config = Config(**OMNIGLOT, stop_grad=True, update_lr=0.4, to="a b=c")
    assert from_flags(config.to_flags()) == config


def test_settings_of_another_version_are_left_out():
    assert from_flags("--seed=3\n--from_the_future=1\n") == Config(seed=3)


OTHER = {
    "datasource": "omniglot",
    "baseline": "oracle",
    "adapt": "head",
    "norm": "None",
    "loss_reduction": "mean",
}


def other_value(field):
    """A legal value that is not the default."""
    if isinstance(field.default, bool):
        return not field.default
    return OTHER[field.name] if isinstance(field.default, str) else field.default + 7


IDENTITY = [field for field in dataclasses.fields(Config) if field.metadata["names_run"]]


@pytest.mark.parametrize("name, value", [(f.name, other_value(f)) for f in IDENTITY])
def test_what_changes_what_is_learned_changes_the_directory(name, value):
    """Also a guard: a new field that names a run must show in the name."""
    assert Config(**{name: value}).directory_name() != Config().directory_name()
    assert contradictions(Config(), Config(**{name: value}))


def test_pretraining_is_another_run_than_meta_training():
    names = {
        Config().directory_name(),
        Config(pretrain_iterations=10, metatrain_iterations=0).directory_name(),
        Config(pretrain_iterations=10, metatrain_iterations=10).directory_name(),
        Config(stop_grad=True).directory_name(),
    }
    assert len(names) == 4


def test_what_does_not_matter_does_not():
    here = Config(metatrain_iterations=5, logdir="x", task_chunks=2, progress=False)
    assert here.directory_name() == Config().directory_name()
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
