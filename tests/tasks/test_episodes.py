from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from maml_tf.tasks import Episodes


def coordinates(*counts):
    """Classes of examples that say who they are: example e of class c is the vector [c, e]."""
    return [np.array([[c, e] for e in range(n)], np.float32) for c, n in enumerate(counts)]


def pictures(classes, examples, size=5, channels=2):
    shape = (classes, examples, size, size, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def arrays(task):
    return [part.numpy() for part in tf.nest.flatten(task)]


def test_shapes():
    task = Episodes(pictures(8, 6), ways=3, shots=2, queries=4)(0, 7)
    shapes = [(7, 6, 5, 5, 2), (7, 6), (7, 12, 5, 5, 2), (7, 12)]
    assert [a.shape for a in arrays(task)] == shapes
    assert [a.dtype for a in arrays(task)] == [np.float32, np.int32] * 2


def test_as_many_queries_as_shots_unless_told():
    assert Episodes(pictures(8, 6), ways=3, shots=2)(0, 7).query.y.shape == (7, 6)


def test_a_task_numbers_distinct_classes_and_never_repeats_a_drawing():
    task = Episodes(np.stack(coordinates(*[6] * 8)), ways=3, shots=2, queries=4)(0, 50)
    for t in range(50):
        (sx, sy), (qx, qy) = ((x[t].numpy(), y[t].numpy()) for x, y in task)
        assert sy.tolist() == [0, 0, 1, 1, 2, 2]
        assert qy.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        # Label and class name each other, in the support set and the query set together.
        pairs = set(zip([*sy, *qy], [*sx[:, 0], *qx[:, 0]], strict=True))
        assert len(pairs) == 3
        assert len({c for _, c in pairs}) == 3
        # All 6 drawings of the 3 classes, each once.
        assert len({tuple(x) for x in [*sx, *qx]}) == 18


def test_a_task_of_everything_is_a_shuffle():
    task = Episodes(np.stack(coordinates(2, 2, 2)), ways=3, shots=1, queries=1)(0, 1)
    drawn = np.concatenate([task.support.x[0], task.query.x[0]]).tolist()
    assert sorted(drawn) == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]]


def test_classes_and_drawings_are_uniform():
    task = Episodes(np.stack(coordinates(*[4] * 5)), ways=2, shots=1, queries=1)(0, 4000)
    support, query = task.support.x.numpy(), task.query.x.numpy()
    # Ordered pairs of 5 classes: 20, of 4 drawings: 12. Standard deviations 14 and 17.
    classes = Counter(map(tuple, support[:, :, 0]))
    drawings = Counter(zip(support[:, 1, 1], query[:, 1, 1], strict=True))
    assert len(classes) == 20
    assert all(abs(n - 200) < 70 for n in classes.values())
    assert len(drawings) == 12
    assert all(abs(n - 333) < 85 for n in drawings.values())


def test_ragged_classes_serve_every_drawing_they_have_and_no_other():
    source = coordinates(3, 7, 4)
    task = Episodes(source, ways=2, shots=2, queries=1)(0, 4000)
    drawn = Counter(map(tuple, task.support.x.numpy().reshape(-1, 2)))
    assert set(drawn) == {(c, e) for c, n in enumerate((3, 7, 4)) for e in range(n)}
    # A class is in two tasks of three, with two support drawings: 5333 over its 3, 7 or 4.
    for (c, _), n in drawn.items():
        assert n == pytest.approx(5333 / len(source[int(c)]), rel=0.15)


def test_ragged_classes_of_one_length_are_an_array():
    images = pictures(6, 4)
    a = Episodes(images, ways=3, shots=1)(2, 5)
    b = Episodes(list(images), ways=3, shots=1)(2, 5)
    for x, y in zip(arrays(a), arrays(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_bytes_become_fractions():
    images = np.full((2, 2, 1, 1, 1), 51, np.uint8)
    task = Episodes(images, ways=2, shots=1)(0, 1)
    np.testing.assert_array_equal(task.support.x, np.full((1, 2, 1, 1, 1), np.float32(0.2)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_served_as_they_are(dtype):
    task = Episodes(np.full((2, 2, 3), 51, dtype), ways=2, shots=1)(0, 1)
    assert task.support.x.dtype == tf.float32
    np.testing.assert_array_equal(task.support.x, np.full((1, 2, 3), 51))


def find_turn(image, source):
    """(class, drawing, quarter turns) of a served image."""
    found = [
        (c, e, turns)
        for c, drawings in enumerate(source)
        for e, drawing in enumerate(drawings)
        for turns in range(4)
        if np.array_equal(np.rot90(drawing, turns), np.rint(image * 255))
    ]
    assert len(found) == 1
    return found[0]


def test_a_class_turns_as_one_and_every_turn_occurs():
    source = pictures(4, 3)
    task = Episodes(source, ways=2, shots=2, queries=1, rotations=True)(0, 40)
    turns = []
    for t in range(40):
        served = [(x[t].numpy(), y[t].numpy()) for x, y in task]
        for label in range(2):
            found = [find_turn(i, source) for x, y in served for i in x[y == label]]
            assert len({(c, turn) for c, _, turn in found}) == 1
            assert len({e for _, e, _ in found}) == 3
            turns.append(found[0][2])
    # 80 turns: 20 of each, standard deviation 3.9; pairs of classes agree in one task of four.
    counts = Counter(turns)
    assert set(counts) == {0, 1, 2, 3}
    assert all(abs(n - 20) < 16 for n in counts.values())
    assert 1 <= sum(a == b for a, b in zip(turns[::2], turns[1::2], strict=True)) <= 24


def test_rotations_leave_the_choice_of_drawings():
    source = pictures(4, 3)
    plain = Episodes(source, ways=2, shots=1)(0, 3).support.x.numpy()
    turned = Episodes(source, ways=2, shots=1, rotations=True)(0, 3).support.x.numpy()
    for a, b in zip(plain.reshape(-1, 5, 5, 2), turned.reshape(-1, 5, 5, 2), strict=True):
        assert find_turn(a, source)[:2] == find_turn(b, source)[:2]


def test_ragged_classes_turn():
    source = [drawings[:n] for drawings, n in zip(pictures(3, 4), (2, 4, 3), strict=True)]
    task = Episodes(source, ways=3, shots=1, rotations=True)(0, 10)
    for image in task.support.x.numpy().reshape(-1, 5, 5, 2):
        find_turn(image, source)


def test_a_meta_batch_depends_on_seed_split_and_index_alone():
    images = pictures(8, 6)
    first = Episodes(images, 3, 2, seed=1, split="val", rotations=True)(7, 4)
    again = Episodes(images, 3, 2, seed=1, split="val", rotations=True)
    again(0, 4)
    again = again(tf.constant(7, tf.int64), 4)
    for a, b in zip(arrays(first), arrays(again), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("seed", "split", "index"), [(2, "val", 7), (1, "train", 7), (1, "test", 7), (1, "val", 8)]
)
def test_other_seeds_splits_and_indices_are_other_tasks(seed, split, index):
    source = np.stack(coordinates(*[20] * 100))
    a = Episodes(source, 5, 1, seed=1, split="val")(7, 20).support.x.numpy()
    b = Episodes(source, 5, 1, seed=seed, split=split)(index, 20).support.x.numpy()
    assert (a != b).any(axis=-1).mean() > 0.9


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("rotations", [False, True])
def test_xla_draws_the_same(rotations, ragged):
    images = pictures(8, 6)
    source = [images[0, :4], *images[1:]] if ragged else images
    tasks = Episodes(source, 3, 2, rotations=rotations)
    index = tf.constant(3, tf.int64)
    plain = tf.function(lambda i: tasks(i, 4))(index)
    compiled = tf.function(lambda i: tasks(i, 4), jit_compile=True)(index)
    for a, b in zip(arrays(plain), arrays(compiled), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_traced_once_with_static_shapes_and_without_a_copy_of_the_images():
    tasks, shapes = Episodes(pictures(50, 20), 3, 2, rotations=True), []

    @tf.function
    def draw(index):
        task = tasks(index, 4)
        shapes.append(task.support.x.shape)
        return task

    draw(tf.constant(0, tf.int64))
    draw(tf.constant(1, tf.int64))
    assert shapes == [(4, 6, 5, 5, 2)]
    graph = draw.get_concrete_function(tf.constant(0, tf.int64)).graph
    assert graph.as_graph_def().ByteSize() < 40_000  # The images have 50 000 bytes, turned 200 000.


SPOILT = np.full((5, 4, 3), np.nan)


@pytest.mark.parametrize(
    ("images", "wrong", "message"),
    [
        (pictures(16, 2), {"ways": 20}, "20-way episodes need 20 classes; the 'val' split has 16"),
        (pictures(5, 2), {"queries": 2}, "need 3 examples a class; class 0 of the 'val' .* has 2"),
        (coordinates(4, 4, 1, 4), {}, "need 2 examples a class; class 2 of the 'val' .* has 1"),
        (pictures(5, 2), {"ways": 0}, "ways is 0; an episode needs at least 1"),
        (pictures(5, 2), {"shots": 0}, "shots is 0; an episode needs at least 1"),
        (pictures(5, 2), {"queries": -3}, "queries is -3; an episode needs at least 1"),
        (pictures(5, 2), {"split": "dev"}, "split is 'dev'; use one of"),
        (np.zeros((5, 2, 28, 28)), {}, r"shape \[28, 28\]; give images .* channels\]"),
        (np.zeros((5, 2)), {}, r"shape \[\]; give images"),
        (np.zeros(5), {}, r"shape \[\]; give images"),
        (np.float32(1), {}, r"shape \[\]; give images"),
        ([], {}, "there are no classes"),
        (np.zeros((0, 2, 3)), {}, "there are no classes"),
        ([np.zeros((2, 3)), np.zeros((2, 4))], {}, "differ in the shape or type of an example"),
        ([np.zeros((2, 3)), np.zeros((2, 3), np.uint8)], {}, "differ in the shape or type"),
        (np.zeros((5, 2, 3), np.int64), {}, "examples are int64; convert them to uint8"),
        (SPOILT, {}, "NaN or infinite values; clean them"),
        (np.zeros((5, 2, 3)), {"rotations": True}, r"need square images .* example is \[3\]"),
        (np.zeros((5, 2, 3, 4, 1), np.uint8), {"rotations": True}, r"example is \[3, 4, 1\]"),
    ],
)
def test_errors(images, wrong, message):
    with pytest.raises(ValueError, match=message):
        Episodes(images, **{"ways": 3, "shots": 1, "queries": 1, "split": "val"} | wrong)


def test_one_array_with_counts_is_one_array_a_class():
    classes = coordinates(2, 5, 3)
    expected = arrays(Episodes(classes, ways=3, shots=1)(3, 9))
    flat = Episodes(np.concatenate(classes), ways=3, shots=1, counts=[2, 5, 3])
    for a, b in zip(arrays(flat(3, 9)), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="counts add up to 9, but there are 10 examples"):
        Episodes(np.concatenate(classes), ways=3, shots=1, counts=[2, 5, 2])


def mapped(path, mode):
    images = pictures(8, 6)
    np.save(path, images)
    return images, np.load(path, mmap_mode=mode)


@pytest.mark.parametrize("mode", ["c", "r", "r+"])
def test_a_mapped_array_is_like_any_other(mode, tmp_path):
    images, array = mapped(tmp_path / "x.npy", mode)
    expected = arrays(tf.function(Episodes(images, ways=3, shots=2))(0, 4))
    tasks = Episodes(array, ways=3, shots=2)
    del array  # The source keeps what it needs.
    for a, b in zip(arrays(tf.function(tasks)(0, 4)), expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mode", ["c", "r+"])
def test_only_a_private_map_is_shared_with_the_tensor(mode, tmp_path):
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("an accelerator has memory of its own")
    images, array = mapped(tmp_path / "x.npy", mode)
    tasks = Episodes(array, ways=3, shots=2)
    array[:] = 255  # Not to be done; here it shows whose memory the tensor has.
    assert (tasks(0, 4).query.x.numpy() == 1).all() == (mode == "c")


def test_a_part_of_a_map_that_is_not_aligned(tmp_path):
    images, array = mapped(tmp_path / "x.npy", "c")  # 150 bytes an example, 900 a class
    expected = arrays(Episodes(images[1:], ways=3, shots=2)(0, 4))
    for a, b in zip(arrays(Episodes(array[1:], ways=3, shots=2)(0, 4)), expected, strict=True):
        np.testing.assert_array_equal(a, b)
