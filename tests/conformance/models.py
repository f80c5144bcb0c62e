"""Models that people bring, small: each a name, a function that builds it, and its inputs."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

T, B, WORDS = 2, 3, 9
VOCABULARY = ["a", "bc", "d", "efg", "unknown"]
KEYS = np.array([10, 200, 3000, -1], "int64")
MODELS = {}


class Spec:
    """A model to be tried: how it is made, and one example of its inputs."""

    def __init__(self, make, example, *, slow=False, large=False):
        self.make, self.example, self.slow, self.large = make, example, slow, large

    def inputs(self, seed, tasks=T, examples=B):
        """Random inputs `[tasks, examples, ...]`, in the structure that the model takes."""
        generator = np.random.default_rng(seed)

        def draw(shape):
            if shape and shape[0] == "words":
                return generator.integers(0, WORDS, [tasks, examples, *shape[1:]]).astype("int32")
            if shape and shape[0] == "text":
                drawn = generator.choice(VOCABULARY, [2, tasks, examples, *shape[1:]])
                return np.char.add(np.char.add(drawn[0], " "), drawn[1])
            if shape and shape[0] == "keys":
                return generator.choice(KEYS, [tasks, examples, *shape[1:]])
            return generator.normal(size=[tasks, examples, *shape])

        if isinstance(self.example, dict):
            return {name: draw(shape) for name, shape in self.example.items()}
        if isinstance(self.example, tuple):
            return [draw(shape) for shape in self.example]
        return draw(self.example)


def model(*example, named=None, several=False, slow=False):
    """Registers the decorated function under its name, underscores as spaces."""

    def register(make):
        name = make.__name__.strip("_").replace("_", " ")
        chosen = named if named is not None else (example if several else list(example))
        MODELS[name] = Spec(make, chosen, slow=slow)
        return make

    return register


def stack(name, shape, *parts, head=True, dtype=None, slow=False):
    """Registers a Sequential and a functional model of the same layers."""

    def head_of(x):
        x = layers.Flatten()(x) if len(x.shape) > 2 else x
        return layers.Dense(2)(x)

    def sequential():
        made = [part() for part in parts]
        tail = [layers.Flatten(), layers.Dense(2)] if head else []
        return keras.Sequential([keras.Input(_shape(shape), dtype=dtype), *made, *tail])

    def functional():
        x = inputs = keras.Input(_shape(shape), dtype=dtype)
        for part in parts:
            x = part()(x)
        return keras.Model(inputs, head_of(x) if head else x)

    MODELS[f"{name}, sequential"] = Spec(sequential, shape, slow=slow)
    MODELS[f"{name}, functional"] = Spec(functional, shape, slow=slow)


def _shape(shape):
    return shape[1:] if shape and shape[0] == "words" else shape


# --- one layer type after the other ---------------------------------------------------------------

IMAGE, LINE, VECTOR, TEXT = [6, 6, 2], [5, 3], [4], ["words", 5]

stack("dense", VECTOR, lambda: layers.Dense(3, "tanh"))
stack("convolution", IMAGE, lambda: layers.Conv2D(3, 3, activation="tanh"))
stack("causal convolution", LINE, lambda: layers.Conv1D(3, 2, padding="causal", dilation_rate=2))
stack("grouped convolution", IMAGE, lambda: layers.Conv2D(4, 3, groups=2, activation="tanh"))
stack("depthwise", IMAGE, lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, strides=2))
stack("dilated depthwise", IMAGE, lambda: layers.DepthwiseConv2D(2, dilation_rate=2))
stack("small depthwise", [2, 2, 3], lambda: layers.DepthwiseConv2D(3, padding="same"))
stack("small grouped", [2, 2, 3], lambda: layers.Conv2D(6, 3, groups=3, padding="same"))
stack("depthwise line", LINE, lambda: layers.DepthwiseConv1D(2, padding="same"))
stack("separable", IMAGE, lambda: layers.SeparableConv2D(3, 3, activation="tanh"))
stack("separable line", LINE, lambda: layers.SeparableConv1D(3, 2))
stack("transposed", [3, 3, 2], lambda: layers.Conv2DTranspose(2, 3, strides=2, padding="same"))
stack("transposed line", LINE, lambda: layers.Conv1DTranspose(2, 2, strides=2))
stack("batch normalisation", IMAGE, lambda: layers.Conv2D(3, 3), layers.BatchNormalization)
stack("channels second", IMAGE, lambda: layers.Conv2D(3, 3), lambda: layers.BatchNormalization(1))
stack("layer normalisation", LINE, lambda: layers.Dense(4), layers.LayerNormalization)
stack(
    "layer normalisation of time",
    LINE,
    lambda: layers.Dense(4),
    lambda: layers.LayerNormalization(1),
)
stack(
    "group normalisation", IMAGE, lambda: layers.Conv2D(4, 3), lambda: layers.GroupNormalization(2)
)
stack(
    "group normalisation, axis 1",
    IMAGE,
    lambda: layers.Conv2D(4, 3),
    lambda: layers.GroupNormalization(2, axis=1),
)
stack("rms normalisation", VECTOR, lambda: layers.Dense(4), layers.RMSNormalization)
stack("unit normalisation", VECTOR, lambda: layers.Dense(4), layers.UnitNormalization)
stack("lstm", LINE, lambda: layers.LSTM(3))
stack(
    "gru",
    LINE,
    lambda: layers.GRU(3, return_sequences=True),
    lambda: layers.GRU(2, reset_after=False),
    slow=True,
)
stack("simple rnn", LINE, lambda: layers.SimpleRNN(3, go_backwards=True))
stack("cells", LINE, lambda: layers.RNN(layers.GRUCell(3)), dtype=None, slow=True)
stack(
    "stacked cells",
    LINE,
    lambda: layers.RNN([layers.LSTMCell(2), layers.GRUCell(2)]),
    slow=True,
)
stack(
    "bidirectional",
    LINE,
    lambda: layers.Bidirectional(layers.LSTM(2, return_sequences=True)),
    slow=True,
)
stack("time distributed", [3, 4, 4, 1], lambda: layers.TimeDistributed(layers.Conv2D(2, 2)))
stack("recurrent convolution", [3, 4, 4, 1], lambda: layers.ConvLSTM2D(2, 2), slow=True)
stack(
    "masked text",
    TEXT,
    lambda: layers.Embedding(WORDS, 3, mask_zero=True),
    lambda: layers.LSTM(3),
    dtype="int32",
)
stack(
    "pooled text",
    TEXT,
    lambda: layers.Embedding(WORDS, 3, mask_zero=True),
    layers.GlobalAveragePooling1D,
    dtype="int32",
)
stack("masked sequence", LINE, lambda: layers.Masking(0.0), lambda: layers.GRU(3))
stack("prelu", IMAGE, lambda: layers.Conv2D(2, 3), lambda: layers.PReLU(shared_axes=[1, 2]))
stack(
    "bilinear",
    [3, 3, 1],
    lambda: layers.Conv2D(2, 2),
    lambda: layers.UpSampling2D(2, interpolation="bilinear"),
)
stack(
    "bicubic",
    [3, 3, 1],
    lambda: layers.Conv2D(2, 2),
    lambda: layers.UpSampling2D(2, interpolation="bicubic"),
)
stack("resized", [6, 6, 1], lambda: layers.Conv2D(2, 2), lambda: layers.Resizing(3, 4))
stack(
    "dropout and noise",
    VECTOR,
    lambda: layers.Dense(3),
    lambda: layers.Dropout(0.5),
    lambda: layers.GaussianNoise(1.0),
    lambda: layers.AlphaDropout(0.5),
)
stack("spectral normalisation", VECTOR, lambda: layers.SpectralNormalization(layers.Dense(3)))
stack(
    "einsum",
    LINE,
    lambda: layers.EinsumDense("abc,cd->abd", (5, 4), bias_axes="d", activation="tanh"),
)
stack(
    "pooling",
    IMAGE,
    lambda: layers.Conv2D(3, 2),
    lambda: layers.MaxPooling2D(2),
    lambda: layers.ZeroPadding2D(1),
    lambda: layers.AveragePooling2D(2),
)
stack(
    "overlapping pooling",
    IMAGE,
    lambda: layers.Conv2D(3, 2, activation="tanh"),
    lambda: layers.MaxPooling2D(3, strides=1, padding="same"),
)
stack(
    "pooling of a line",
    LINE,
    lambda: layers.Conv1D(3, 2, activation="tanh"),
    lambda: layers.MaxPooling1D(2, strides=1, padding="same"),
    layers.GlobalMaxPooling1D,
)
stack(
    "pooled by an operation",
    IMAGE,
    lambda: layers.Conv2D(3, 2, activation="tanh"),
    lambda: layers.Lambda(lambda t: ops.max_pool(t, 3, 1, "same")),
)
stack(
    "padded and rolled",
    LINE,
    lambda: layers.Dense(3),
    lambda: layers.Lambda(lambda t: ops.pad(t, [[0, 0], [0, 0], [1, 0]], constant_values=1.0)),
    lambda: layers.Lambda(lambda t: ops.roll(t, 1, axis=-1) * t),
)
stack(
    "activation as a layer",
    VECTOR,
    lambda: layers.Dense(3),
    lambda: layers.Activation(layers.PReLU()),
)
stack(
    "softmax along an axis",
    LINE,
    lambda: layers.Dense(3, activation=lambda t: ops.softmax(t, axis=1)),
)
stack(
    "activation over the batch",
    VECTOR,
    lambda: layers.Dense(3, activation=lambda t: t - ops.mean(t, axis=0)),
)
stack("lambda", VECTOR, lambda: layers.Dense(3), lambda: layers.Lambda(lambda t: ops.tanh(t) * 2))
stack("volume", [3, 3, 3, 1], lambda: layers.Conv3D(2, 2), layers.GlobalAveragePooling3D)


# --- graphs ---------------------------------------------------------------------------------------


@model(6, 6, 2)
def residual_network():
    x = keras.Input([6, 6, 2])
    h = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(3, 3, padding="same")(x)))
    y = layers.BatchNormalization()(layers.Conv2D(3, 3, padding="same")(h))
    h = layers.Activation("relu")(layers.add([layers.Dropout(0.5)(y), h]))
    return keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling2D()(h)))


@model(6, 6, 2)
def squeeze_and_excitation():
    x = keras.Input([6, 6, 2])
    h = layers.Conv2D(4, 3, activation="swish")(x)
    s = layers.GlobalAveragePooling2D(keepdims=True)(h)
    s = layers.Conv2D(4, 1, activation="sigmoid")(layers.Conv2D(2, 1, activation="silu")(s))
    return keras.Model(x, layers.Dense(2)(layers.Flatten()(layers.multiply([h, s]))))


@model(6, 6, 2)
def frozen_backbone():
    base = keras.Sequential(
        [keras.Input([6, 6, 2]), layers.Conv2D(3, 3), layers.BatchNormalization(), layers.ReLU()]
    )
    base.trainable = False
    x = keras.Input([6, 6, 2])
    h = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(base(x, training=False)))
    return keras.Model(x, layers.Dense(2)(h))


@model(6, 6, 2)
def inference_backbone():
    base = keras.Sequential(
        [keras.Input([6, 6, 2]), layers.Conv2D(3, 3), layers.BatchNormalization(), layers.ReLU()]
    )
    x = keras.Input([6, 6, 2])
    return keras.Model(x, layers.Dense(2)(layers.Flatten()(base(x, training=False))))


@model(4)
def frozen_batch_normalisation():
    frozen = layers.BatchNormalization()
    made = keras.Sequential([keras.Input([4]), layers.Dense(3), frozen, layers.Dense(2)])
    frozen.trainable = False
    frozen.moving_mean.assign([0.5, -0.5, 1.0])
    frozen.moving_variance.assign([2.0, 0.5, 1.5])
    return made


@model(5, 4)
def transformer():
    x = keras.Input([5, 4])
    h = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True))
    f = layers.Dense(4)(layers.Dense(6, "gelu")(h))
    h = layers.LayerNormalization()(layers.Add()([h, f]))
    return keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling1D()(h)))


@model("words", 5)
def masked_transformer():
    x = keras.Input([5], dtype="int32")
    h = layers.Embedding(WORDS, 4, mask_zero=True)(x)
    h = layers.MultiHeadAttention(2, 3)(h, h)
    return keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling1D()(h)))


@model(5, 4)
def grouped_query_attention():
    x = keras.Input([5, 4])
    h = layers.GroupQueryAttention(3, 4, 2)(x, x)
    return keras.Model(x, layers.Dense(2)(layers.Flatten()(h)))


@model(5, 4)
def dot_product_attention():
    x = keras.Input([5, 4])
    h = layers.Attention(use_scale=True)([layers.Dense(3)(x), layers.Dense(3)(x)])
    return keras.Model(x, layers.Dense(2)(layers.Flatten()(h)))


@model("words", 5)
def convolution_on_masked_text():
    x = keras.Input([5], dtype="int32")
    h = layers.Conv1D(3, 2, activation="relu")(layers.Embedding(WORDS, 3)(x))
    return keras.Model(x, layers.Dense(2)(layers.GlobalMaxPooling1D()(h)))


@model("words", 5)
def tied_weights():
    """The table that words are looked up in is the head, too."""
    x = keras.Input([5], dtype="int32")
    table = layers.Embedding(WORDS, 3)
    h = layers.Dense(3, "tanh")(layers.GlobalAveragePooling1D()(table(x)))
    return keras.Model(x, ops.matmul(h, ops.transpose(table.embeddings)))


@model(4)
def kernel_in_the_graph():
    x, dense = keras.Input([4]), layers.Dense(4, "tanh")
    h = dense(x)
    return keras.Model(x, layers.Dense(2)(ops.matmul(h, dense.kernel)))


@model(4)
def kernel_in_a_lambda():
    x, dense = keras.Input([4]), layers.Dense(4, "tanh")
    h = dense(x)
    h = layers.Lambda(lambda t: ops.matmul(t, ops.transpose(dense.kernel)))(h)
    return keras.Model(x, layers.Dense(2)(h))


@model(4)
def operations():
    x = keras.Input([4])
    h = ops.relu(layers.Dense(3)(x)) + layers.Dense(3)(x) * 2.0 - 1.0
    h = ops.concatenate([h, ops.mean(h, axis=-1, keepdims=True), x[:, :2]], -1)
    mean, variance = ops.moments(h, axes=[-1], keepdims=True)
    return keras.Model(x, layers.Dense(2)((h - mean) / ops.sqrt(variance + 0.1)))


@model(4)
def moments_over_the_batch():
    x = keras.Input([4])
    h = layers.Dense(3)(x)
    mean, variance = ops.moments(h, axes=[0], keepdims=True)
    return keras.Model(x, layers.Dense(2)((h - mean) / ops.sqrt(variance + 0.1)))


@model(4)
def constants_in_the_graph():
    x = keras.Input([4])
    h = layers.Dense(T)(x) * np.arange(1.0, T + 1)
    return keras.Model(x, layers.Add()([layers.Dense(T)(h), ops.ones((1, T))]))


@model(4)
def nested_models():
    inner = keras.Sequential(
        [keras.Input([3]), layers.Dense(3, "tanh"), layers.BatchNormalization()]
    )
    y = keras.Input([3])
    outer = keras.Model(y, layers.Dense(3)(inner(y)) + y)
    x = keras.Input([4])
    return keras.Model(x, layers.Dense(2)(outer(layers.Dense(3)(x))))


@model(4)
def one_layer_twice():
    dense, x = layers.Dense(4, "tanh"), keras.Input([4])
    return keras.Model(x, layers.Dense(2)(dense(dense(x))))


@model(4, 4, 2)
def encoder_and_decoder_of_images():
    x = keras.Input([4, 4, 2])
    a = layers.Conv2D(3, 3, padding="same", activation="elu")(x)
    b = layers.Conv2D(4, 3, strides=2, padding="same", activation="elu")(a)
    c = layers.Conv2DTranspose(3, 2, strides=2)(b)
    d = layers.UpSampling2D(2)(b)
    return keras.Model(x, layers.Conv2D(1, 1)(layers.Concatenate()([a, c, d])))


@model([4, 3], [2, 3], several=True, slow=True)
def sequence_to_sequence():
    source, target = keras.Input([4, 3]), keras.Input([2, 3])
    _, h, c = layers.LSTM(3, return_state=True)(source)
    y = layers.LSTM(3, return_sequences=True)(target, initial_state=[h, c])
    return keras.Model([source, target], layers.TimeDistributed(layers.Dense(2))(y))


@model([3, 4], [3, 3], several=True)
def attention_with_a_mask_of_its_own():
    x, mask = keras.Input([3, 4]), keras.Input([3, 3])
    visible = mask > 0.0
    h, scores = layers.MultiHeadAttention(2, 3)(
        x, x, attention_mask=visible, return_attention_scores=True
    )
    return keras.Model([x, mask], [layers.Dense(2)(h), scores])


class TransformerBlock(layers.Layer):
    """As in Keras' own example of text classification."""

    def __init__(self, width=4, heads=2):
        super().__init__()
        self.attend = layers.MultiHeadAttention(heads, width)
        self.forward = keras.Sequential([layers.Dense(6, "relu"), layers.Dense(width)])
        self.first, self.second = (layers.LayerNormalization(epsilon=1e-2) for _ in range(2))
        self.drop = layers.Dropout(0.1)

    def call(self, x, training=False):
        h = self.first(x + self.drop(self.attend(x, x), training=training))
        return self.second(h + self.drop(self.forward(h), training=training))


class Positions(layers.Layer):
    def __init__(self, length, words, width):
        super().__init__()
        self.tokens, self.places = (layers.Embedding(n, width) for n in (words, length))

    def call(self, x):
        return self.tokens(x) + self.places(ops.arange(0, ops.shape(x)[-1]))


@model("words", 5)
def transformer_of_own_layers():
    x = keras.Input([5], dtype="int32")
    h = TransformerBlock()(Positions(5, WORDS, 4)(x))
    return keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling1D()(h)))


@model([4], [4], several=True)
def siamese():
    a, b, body = keras.Input([4]), keras.Input([4]), keras.Sequential([layers.Dense(3, "tanh")])
    distance = layers.Lambda(lambda pair: ops.abs(pair[0] - pair[1]))([body(a), body(b)])
    return keras.Model([a, b], layers.Dense(1)(distance))


@model(6, 6, 3)
def augmentation():
    x = keras.Input([6, 6, 3])
    h = layers.RandomRotation(0.2)(layers.RandomFlip("horizontal")(layers.Rescaling(0.5)(x)))
    return keras.Model(x, layers.Dense(2)(layers.Flatten()(layers.Conv2D(2, 3)(h))))


@model(4)
def operations_of_shape():
    x = keras.Input([4])
    a, b = ops.split(layers.Dense(6, "tanh")(x), 2, axis=-1)
    h = ops.einsum("bi,bj->bij", a, ops.softmax(b, axis=-1))
    h = ops.where(h > 0, h, 0.1 * ops.transpose(h, (0, 2, 1)))
    return keras.Model(x, layers.Dense(2)(ops.reshape(h, (-1, 9))))


# --- vocabularies and statistics of data ----------------------------------------------------------


@model("text", 1)
def vectorized_text():
    x = keras.Input([1], dtype="string")
    made = layers.TextVectorization(vocabulary=VOCABULARY[:4], output_sequence_length=3)
    h = layers.Embedding(made.vocabulary_size(), 3, mask_zero=True)(made(x))
    return keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling1D()(h)))


@model("text", 2)
def strings_looked_up():
    x = keras.Input([2], dtype="string")
    made = layers.StringLookup(vocabulary=["a a", "a bc", "bc d", "d d"])
    h = layers.Embedding(made.vocabulary_size(), 3)(made(x))
    return keras.Model(x, layers.Dense(2)(layers.Flatten()(h)))


@model("keys", 3)
def integers_looked_up():
    x = keras.Input([3], dtype="int64")
    made = layers.IntegerLookup(vocabulary=list(KEYS[:3]))
    h = layers.Embedding(made.vocabulary_size(), 3)(made(x))
    return keras.Model(x, layers.Dense(2)(layers.Flatten()(h)))


@model(4)
def adapted_normalization():
    made = layers.Normalization()
    made.adapt(np.random.default_rng(5).normal(3.0, 2.0, [20, 4]))
    return keras.Sequential([keras.Input([4]), made, layers.Dense(3, "tanh"), layers.Dense(2)])


# --- several inputs and outputs -------------------------------------------------------------------


@model([4], [2], several=True)
def two_inputs_in_a_list():
    a, b = keras.Input([4]), keras.Input([2])
    return keras.Model([a, b], layers.Add()([layers.Dense(2)(a), layers.Dense(2)(b)]))


@model(named={"first": [3], "second": [3]})
def two_inputs_by_name():
    b, a = keras.Input([3], name="first"), keras.Input([3], name="second")
    h = layers.Dense(3, "tanh")(a) * 2.0 + layers.Dense(3)(b)
    return keras.Model({"second": a, "first": b}, layers.Dense(2)(h))


@model(named={"words": ["words", 5], "numbers": [3]})
def text_and_numbers():
    words, numbers = keras.Input([5], dtype="int32", name="words"), keras.Input([3], name="numbers")
    h = layers.GRU(3)(layers.Embedding(WORDS, 3, mask_zero=True)(words))
    return keras.Model([words, numbers], layers.Dense(2)(layers.concatenate([h, numbers])))


@model(4)
def two_outputs():
    x = keras.Input([4])
    h = layers.Dense(3, "tanh")(x)
    return keras.Model(x, [layers.Dense(2)(h), layers.Dense(1)(h)])


@model(4)
def outputs_by_name():
    x = keras.Input([4])
    h = layers.Dense(3, "tanh")(x)
    return keras.Model(x, {"kind": layers.Dense(2)(h), "size": layers.Dense(1)(h)})


# --- a user's own code ----------------------------------------------------------------------------


class Block(layers.Layer):
    """A layer made of layers, with a batch normalisation and dropout inside."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units
        self.dense, self.norm = layers.Dense(units), layers.BatchNormalization()
        self.drop = layers.Dropout(0.5)

    def call(self, x, training=None):
        h = ops.tanh(self.norm(self.dense(x), training=training))
        return x + self.drop(h, training=training)


class Scale(layers.Layer):
    """A layer with a weight, and no configuration."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale", initializer="ones")

    def call(self, x):
        return ops.tanh(x * self.scale) * self.factor


class InstanceNorm(layers.Layer):
    def build(self, shape):
        self.gamma = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        mean, variance = ops.moments(x, axes=[1, 2], keepdims=True)
        return (x - mean) * ops.rsqrt(variance + 0.1) * self.gamma


class OwnCell(layers.Layer):
    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1] + self.units, self.units))

    def call(self, x, states):
        h = ops.tanh(ops.matmul(ops.concatenate([x, states[0]], -1), self.kernel))
        return h, [h]


class Cubic(keras.regularizers.Regularizer):
    """Keras' own are of float32 in its older versions."""

    def __call__(self, x):
        return 0.1 * ops.sum(ops.power(ops.abs(x), 3))

    def get_config(self):
        return {}


class AddsLoss(layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3))

    def call(self, x):
        h = ops.matmul(x, self.kernel)
        self.add_loss(0.1 * ops.mean(ops.square(h)))
        return h


class Subclassed(keras.Model):
    """Convolution, batch normalisation, dropout; no graph to walk."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = layers.Conv2D(3, 3), layers.BatchNormalization()
        self.drop, self.head = layers.Dropout(0.5), layers.Dense(2)

    def call(self, x, training=None):
        h = ops.relu(self.norm(self.convolution(x), training=training))
        return self.head(self.drop(ops.mean(h, axis=(1, 2)), training=training))


class DoubledGraph(keras.Model):
    """A functional model that computes something else than its graph."""

    def __init__(self):
        x = keras.Input([4])
        super().__init__(x, layers.Dense(2)(x))

    def call(self, x, training=None, mask=None):
        return 2 * super().call(x)


stack("composite layer", VECTOR, lambda: layers.Dense(3), lambda: Block(3))
stack("layer without configuration", VECTOR, lambda: layers.Dense(3), lambda: Scale(2.0))
stack("instance normalisation", IMAGE, lambda: layers.Conv2D(3, 3), InstanceNorm)
stack("own cell", LINE, lambda: layers.RNN(OwnCell(3)), slow=True)
stack("added loss", VECTOR, AddsLoss)
stack(
    "penalties",
    VECTOR,
    lambda: layers.Dense(3, kernel_regularizer=Cubic(), activity_regularizer=Cubic()),
)


@model(6, 6, 2)
def subclassed_model():
    made = Subclassed()
    made(np.zeros([1, 6, 6, 2]))
    return made


@model(4)
def subclass_of_a_functional_model():
    return DoubledGraph()


@model(6, 6, 2)
def subclassed_model_in_a_graph():
    x = keras.Input([6, 6, 2])
    return keras.Model(x, layers.Dense(2)(Subclassed()(layers.Conv2D(2, 1)(x))))


# --- of keras.applications ------------------------------------------------------------------------


def application(name, **options):
    def make():
        build = getattr(keras.applications, name)
        return build(weights=None, classes=2, input_shape=(32, 32, 3), **options)

    MODELS[name] = Spec(make, [32, 32, 3], slow=True, large=True)


for _name in ("MobileNetV2", "EfficientNetB0", "ResNet50"):
    application(_name, classifier_activation=None)
