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
    assert [a.dtype for a in arrays(task)] == [np.uint8, np.int32] * 2


def test_as_many_queries_as_shots_unless_told():
    assert Episodes(pictures(8, 6), ways=3, shots=2)(0, 7).query.y.shape == (7, 6)


def test_a_task_numbers_distinct_classes_and_never_repeats_a_drawing():
    task = Episodes(np.stack(coordinates(*[6] * 8)), ways=3, shots=2, queries=4)(0, 50)
    for t in range(50):
        (sx, sy), (qx, qy) = ((x[t].numpy(), y[t].numpy()) for x, y, *_ in task)
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


def test_bytes_become_fractions_where_the_source_says_so():
    images = np.arange(256, dtype=np.uint8).reshape(2, 128)
    task = Episodes(images, ways=2, shots=64, scale=1 / 255)(0, 9)
    assert task.support.x.dtype == tf.float32
    # To the last bit: rounded once, as x / 255 is.
    plain = Episodes(images, ways=2, shots=64)(0, 9)
    for scaled, served in zip(task, plain, strict=True):
        expected = served.x.numpy().astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(scaled.x, expected)
    doubled = Episodes(images, ways=2, shots=64, scale=2.0)(0, 9)
    np.testing.assert_array_equal(doubled.query.x, 2.0 * plain.query.x.numpy())


WHOLE = [np.uint8, np.int8, np.uint16, np.int32, np.int64, np.bool_]


@pytest.mark.parametrize("dtype", WHOLE)
@pytest.mark.parametrize("shape", [(), (3,), (4, 3), (2, 3, 3, 1)])
def test_examples_of_any_shape_are_served_as_they_are_in_their_own_type(dtype, shape):
    """Numbers, tokens, images without channels, video; each array holds its class and example."""
    numbers = np.arange(4 * 5).reshape(4, 5, *[1] * len(shape)) % (2 if dtype == np.bool_ else 99)
    source = np.broadcast_to(numbers, (4, 5, *shape)).astype(dtype)
    for images in (source, list(source)):
        task = Episodes(images, ways=4, shots=2, queries=3)(1, 6)
        assert task.support.x.dtype == dtype and task.query.x.shape == (6, 12, *shape)
        served = np.concatenate([task.support.x, task.query.x], 1)
        expected = np.sort(source.reshape(20, -1), 0)
        for t in range(6):
            np.testing.assert_array_equal(np.sort(served[t].reshape(20, -1), 0), expected)


def test_a_table_and_tokens_of_large_numbers_keep_their_values():
    tokens = np.array([[[2**40 + c, e] for e in range(3)] for c in range(2)])
    served = Episodes(tokens, ways=2, shots=1)(0, 50).support.x.numpy()
    assert served.dtype == np.int64
    assert set(served[..., 0].ravel()) == {2**40, 2**40 + 1}


@pytest.mark.parametrize("kind", [np.str_, np.bytes_, object])
def test_text_is_served_as_it_is(kind):
    text = np.array([["a", "bb"], ["ccc", "dddd"]]).astype(kind)
    task = Episodes(text, ways=2, shots=1)(0, 1)
    assert task.support.x.dtype == tf.string
    assert sorted(np.ravel([task.support.x, task.query.x])) == [b"a", b"bb", b"ccc", b"dddd"]


def test_several_inputs_of_an_example_stay_together():
    number = np.arange(6, dtype=np.float32).reshape(2, 3)
    inputs = {"image": pictures(2, 3), "number": list(number)}
    task = Episodes(inputs, ways=2, shots=1, queries=2, rotations=False)(0, 20)
    assert task.support.x["image"].shape == (20, 2, 5, 5, 2)
    for t in range(20):
        for image, n in zip(task.query.x["image"][t], task.query.x["number"][t], strict=True):
            np.testing.assert_array_equal(image, inputs["image"].reshape(6, 5, 5, 2)[int(n)])
    with pytest.raises(ValueError, match=r"differ in the number .*image \[3, 3\], number \[2, 2\]"):
        Episodes({**inputs, "number": number[:, :2]}, ways=2, shots=1)


# --- sets of different sizes ---


def test_each_task_draws_its_own_number_of_shots():
    source = np.stack(coordinates(*[12] * 6))
    task = Episodes(source, ways=3, shots=(2, 5), queries=4, seed=2)(0, 4000)
    assert task.support.x.shape == (4000, 15, 2) and task.support.mask.shape == (4000, 15)
    assert task.support.mask.dtype == tf.bool and task.query.mask == ()
    mask = task.support.mask.numpy().reshape(4000, 3, 5)
    shots = mask.sum(-1)
    assert (shots == shots[:, :1]).all()  # the same of all classes of a task
    np.testing.assert_array_equal(mask, np.arange(5) < shots[..., None])  # padding comes last
    # 1000 tasks of each of 2, 3, 4 and 5 shots; standard deviation 27.
    counts = Counter(shots[:, 0])
    assert set(counts) == {2, 3, 4, 5} and all(abs(n - 1000) < 120 for n in counts.values())
    assert (task.support.x.numpy()[~task.support.mask.numpy()] == 0).all()


def test_a_padded_set_holds_the_examples_that_it_says():
    source = np.stack(coordinates(*[9] * 6)) + 1  # none is the zeros of the padding
    padded = Episodes(source, ways=3, shots=(1, 4), queries=(2, 5), seed=2)(3, 40)
    whole = Episodes(source, ways=3, shots=4, queries=5, seed=2)(3, 40)
    assert whole.support.mask == () and whole.query.mask == ()
    for own, full in zip(padded, whole, strict=True):
        np.testing.assert_array_equal(own.y, full.y)
        mask = own.mask.numpy()
        np.testing.assert_array_equal(own.x.numpy()[mask], full.x.numpy()[mask])
        assert 0 < mask.mean() < 1
    assert (padded.support.mask.numpy().sum(1) // 3 != padded.query.mask.numpy().sum(1) // 3).any()


def test_a_range_of_one_size_is_that_size():
    for task in (Episodes(pictures(4, 6), 2, (2, 2)), Episodes(pictures(4, 6), 2, 2)):
        assert task(0, 3).support.mask == () and task(0, 3).query.y.shape == (3, 4)
    assert Episodes(pictures(4, 6), 2, (1, 3))(0, 3).query.y.shape == (3, 6)


def test_sizes_depend_on_seed_split_and_index_alone():
    def sizes(index, **options):
        tasks = Episodes(pictures(4, 20), 2, (1, 10), **options)
        return tasks(index, 30).support.mask.numpy().sum(1)

    np.testing.assert_array_equal(sizes(5, seed=1), sizes(tf.constant(5, tf.int64), seed=1))
    others = [sizes(6, seed=1), sizes(5, seed=2), sizes(5, seed=1, split="val")]
    assert all((sizes(5, seed=1) != other).any() for other in others)


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
        if np.array_equal(np.rot90(drawing, turns), image)
    ]
    assert len(found) == 1
    return found[0]


def test_a_class_turns_as_one_and_every_turn_occurs():
    source = pictures(4, 3)
    task = Episodes(source, ways=2, shots=2, queries=1, rotations=True)(0, 40)
    turns = []
    for t in range(40):
        served = [(x[t].numpy(), y[t].numpy()) for x, y, *_ in task]
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
@pytest.mark.cases(1)
def test_xla_draws_the_same(rotations, ragged):
    images = pictures(8, 6)
    source = [images[0, :4], *images[1:]] if ragged else images
    tasks = Episodes(source, 3, (1, 2), rotations=rotations, scale=1 / 255)
    index = tf.constant(3, tf.int64)
    plain = tf.function(lambda i: tasks(i, 4))(index)
    compiled = tf.function(lambda i: tasks(i, 4), jit_compile=True)(index)
    for a, b in zip(arrays(plain), arrays(compiled), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_traced_once_with_static_shapes_and_without_a_copy_of_the_images():
    tasks, shapes = Episodes(pictures(50, 20), 3, 2, rotations=True), []

    @tf.function(autograph=False)
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
        (np.zeros(5), {}, r"no axis of classes.* give an array \[classes, examples, ...\]"),
        (np.float32(1), {}, r"no axis of classes.* give an array \[classes, examples, ...\]"),
        (np.float32(1), {"counts": [1]}, "3-way episodes need 3 classes; the 'val' split has 1"),
        (np.zeros((5, 2, 28, 28)), {"rotations": True}, r"example is \[28, 28\]"),
        (pictures(5, 2), {"shots": (0, 1)}, "shots is 0; an episode needs at least 1"),
        (pictures(5, 2), {"shots": (2, 1)}, r"shots is \(2, 1\); give \(low, high\)"),
        (pictures(5, 2), {"shots": (1, 2)}, "2 support and 1 query examples need 3 examples"),
        (pictures(5, 2), {"shots": 1.5}, "shots must be a whole number, or two"),
        (pictures(5, 2), {"shots": (1, 2, 3)}, "must be a whole number, or two"),
        (pictures(5, 2), {"scale": 0.0}, "scale is 0.0; give a positive number such as 1 / 255"),
        (pictures(5, 2), {"scale": np.inf}, "scale is inf; give a positive number"),
        ({}, {}, "there are none"),
        ([], {}, "there are no classes"),
        (np.zeros((0, 2, 3)), {}, "there are no classes"),
        ([np.zeros((2, 3)), np.zeros((2, 4))], {}, "differ in the shape or type of an example"),
        ([np.zeros((2, 3)), np.zeros((2, 3), np.uint8)], {}, "differ in the shape or type"),
        (np.zeros((5, 2, 3), np.complex64), {}, "examples are complex64; convert them to integers"),
        (np.array([[1, None]] * 5, object), {}, "examples are object; convert them to integers"),
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
    assert (tasks(0, 4).query.x.numpy() == 255).all() == (mode == "c")


def test_a_part_of_a_map_that_is_not_aligned(tmp_path):
    images, array = mapped(tmp_path / "x.npy", "c")  # 150 bytes an example, 900 a class
    expected = arrays(Episodes(images[1:], ways=3, shots=2)(0, 4))
    for a, b in zip(arrays(Episodes(array[1:], ways=3, shots=2)(0, 4)), expected, strict=True):
        np.testing.assert_array_equal(a, b)
