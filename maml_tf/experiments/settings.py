"""What a run is: frozen, validated settings.

One field, one flag (cli/flags.py makes the flags from these). Names, meanings and defaults up to
`log` are those of the original program's flags; later ones are ours. Below this module nothing
reads a flag.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from maml_tf import ranges
from maml_tf.networks import NORMS
from maml_tf.ranges import Range

SUPERVISED = ("sinusoid", "omniglot", "miniimagenet")

ROBOTS = ("cheetah_velocity", "cheetah_direction", "ant_velocity", "ant_direction", "ant_goal")

REINFORCEMENT = ("navigation_2d", *ROBOTS, "gymnasium")
"""Environments with tasks: the names of `rl.envs.ENVIRONMENTS`, and any other of Gymnasium's."""

DATASOURCES = (*SUPERVISED, *REINFORCEMENT)

PENALTIES = {"multitask": 0.0, "multitask_l2": 1e-3, "multitask_mean": 0.1}
"""The multi-task baselines, and how strongly each pulls its regressors (docs/design.md)."""

NO_INNER_STEPS = ("pretrained", "nearest_neighbour", "oracle", "random", *PENALTIES)
"""Methods that are trained without inner steps, if at all."""

METHODS = ("maml", "fomaml", "context", *NO_INNER_STEPS)
"""How the weights are learned; baselines.py describes those that are not MAML."""

_LARGEST_STEP = 10**7
"""Examples of a meta-step, or episodes."""

_KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
_NOT_IN_A_LINE = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's control characters, halves of characters, line and paragraph separators."""


def _flag(
    default: Any,
    help: str,  # noqa: A002
    *,
    choices: tuple = (),
    within: Range | None = None,
    names_run: bool = True,
    of: tuple[str, ...] = DATASOURCES,
) -> Any:
    """One setting; `within` is needed for a number."""
    metadata: dict[str, Any] = {"help": help, "choices": choices, "within": within}
    metadata |= {"names_run": names_run, "of": of}
    return dataclasses.field(default=default, metadata=metadata)


def _supervised(default: Any, help: str, **rules: Any) -> Any:  # noqa: A002
    """A flag that meta-RL does not look at."""
    return _flag(default, help, **rules, of=SUPERVISED)


def _reinforcement(default: Any, help: str, **rules: Any) -> Any:  # noqa: A002
    """A flag that only meta-RL looks at."""
    return _flag(default, help, **rules, of=REINFORCEMENT)


def _detail(default: Any, help: str, **rules: Any) -> Any:  # noqa: A002
    """A flag that does not change what is learned, so it is not part of a run's identity."""
    return _flag(default, help, **rules, names_run=False)


@dataclass(frozen=True)
class Config:
    """Settings of one run. `-1` means: derived from the others, as the help text says."""

    # The task.
    datasource: str = _flag("sinusoid", "Where tasks come from.", choices=DATASOURCES)
    num_classes: int = _supervised(
        5, "N, classes of a classification task (ways).", within=ranges.COUNT
    )
    update_batch_size: int = _flag(
        5,
        "K, support examples a class, or a regression task (shots); meta-RL: E, trajectories a "
        "task and step.",
        within=ranges.COUNT,
    )
    queries: int = _supervised(
        -1, "Query examples a class; -1: K (15 for MiniImagenet).", within=ranges.COUNT_OR_DEFAULT
    )
    baseline: str = _supervised(
        "None",
        "oracle: the sinusoid's input shows its amplitude and phase.",
        choices=("None", "oracle"),
    )
    # The inner loop.
    update_lr: float = _flag(
        0.01, "alpha, step size of the inner gradient step.", within=ranges.POSITIVE
    )
    num_updates: int = _flag(
        1, "S, inner gradient steps while training.", within=ranges.INNER_STEPS
    )
    stop_grad: bool = _flag(False, "First-order MAML: hold the inner gradient constant.")
    learn_step_size: bool = _flag(False, "Meta-learn alpha, one for each weight (Meta-SGD).")
    adapt: str = _flag(
        "all",
        "What the inner loop moves: all but normalisation, or the head only.",
        choices=("all", "head"),
    )
    loss_reduction: str = _supervised(
        "sum",
        "Cross-entropy of a set: sum (over examples, divided by K: the paper's figures; it "
        "steps N times as far) or mean.",
        choices=("sum", "mean"),
    )
    # The outer loop.
    method: str = _detail(
        "auto",
        "How the initial weights are learned. auto: by the original's flags: pretrained or oracle "
        "for pretrain_iterations alone, fomaml for stop_grad, else maml.",
        choices=("auto", *METHODS),
    )
    metatrain_iterations: int = _detail(
        15000, "Training iterations, whatever the method.", within=ranges.ITERATIONS
    )
    pretrain_iterations: int = _detail(
        0,
        "Pre-training iterations: the loss before adaptation, over "
        "all tasks. With metatrain_iterations=0: the baseline. Classes are those of an N-way task, "
        "numbered anew in each; --method=pretrained tells all classes apart.",
        within=ranges.ITERATIONS,
    )
    meta_batch_size: int = _flag(
        25, "T, tasks a meta-step; multitask: regressors (the paper's 500).", within=ranges.COUNT
    )
    meta_lr: float = _supervised(
        0.001, "Step size of the meta-optimizer, Adam.", within=ranges.POSITIVE
    )
    clip: float = _supervised(
        -1.0,
        "Clip each element of the meta-gradient to +-this; -1: 10 for "
        "MiniImagenet, else no clipping.",
        within=ranges.POSITIVE_OR_DEFAULT,
    )
    l2: float = _supervised(
        -1.0,
        "multitask_l2, multitask_mean: lambda, the penalty's factor; -1: the largest that costs a "
        "regressor little.",
        within=ranges.NOT_NEGATIVE_OR_DEFAULT,
    )
    seed: int = _flag(0, "Everything random is a function of it.", within=ranges.SEED)
    # The network.
    norm: str = _supervised(
        "batch_norm", "Normalisation: batch_norm, layer_norm or None.", choices=(*NORMS[:2], "None")
    )
    num_filters: int = _supervised(64, "Filters of each convolution.", within=ranges.FILTERS)
    conv: bool = _supervised(True, "Convolutional network; False: dense (Omniglot only).")
    max_pool: bool = _supervised(False, "Max-pooling instead of strided convolution.")
    head_stddev: float = _supervised(
        -1.0,
        "Standard deviation of the head's initial kernel; -1: the original's initial kernel (1 for "
        "Omniglot's convolutional network; 0.1 learns 20-way several times faster).",
        within=ranges.NOT_NEGATIVE_OR_DEFAULT,
    )
    # Reinforcement learning.
    environment: str = _reinforcement(
        "",
        "With --datasource=gymnasium: a registered environment with sample_tasks and set_task, "
        "Id-v0, or module:Id-v0 to import a module first, which runs that module's code.",
    )
    horizon: int = _reinforcement(
        -1, "H, steps of an episode; -1: the environment's own.", within=ranges.COUNT_OR_DEFAULT
    )
    dynamics: str = _reinforcement(
        "paper",
        "Of cheetah and ant. paper: one physics step an action; gymnasium: v5's frame skip, time "
        "step and observation.",
        choices=("paper", "gymnasium"),
    )
    squared_reward: bool = _reinforcement(
        False, "2D navigation: minus the squared distance (the paper's text), not the distance."
    )
    discount: float = _reinforcement(0.99, "Of later rewards.", within=ranges.SHARE)
    gae_lambda: float = _reinforcement(
        1.0,
        "Of generalised advantages; 1: the discounted return minus the baseline.",
        within=ranges.SHARE,
    )
    inner_loss: str = _reinforcement(
        "log_likelihood",
        "Of the inner step. likelihood_ratio takes the same step, and its meta-gradient is less "
        "biased (ProMP); log_likelihood is the paper's.",
        choices=("log_likelihood", "likelihood_ratio"),
    )
    max_kl: float = _reinforcement(
        0.01, "The trust region: the largest mean KL of a meta-step.", within=ranges.POSITIVE
    )
    curvature: str = _reinforcement(
        "fisher",
        "How products with the KL's Hessian are computed; all three are the same matrix.",
        choices=("fisher", "hessian", "finite_differences"),
    )
    curvature_share: float = _reinforcement(
        1.0,
        "Share of the episodes that those products use: less exact, and less time.",
        within=ranges.PART,
    )
    # Logging and test.
    logdir: str = _detail("logs/", "Runs are directories in here, named by their settings.")
    log: bool = _detail(True, "Write checkpoints and TensorBoard's event file.")
    resume: bool = _detail(
        True,
        "Go on from the run's newest checkpoint. False: start again; an "
        "existing run is set aside, not deleted.",
    )
    train: bool = _detail(True, "True trains; False evaluates.")
    test_iter: int = _detail(
        -1,
        "Evaluate the checkpoint of this iteration; -1: the newest.",
        within=ranges.ITERATIONS_OR_DEFAULT,
    )
    test_set: bool = _detail(False, "Evaluate on the test split; False: the validation split.")
    train_update_batch_size: int = _detail(
        -1,
        "K of the training, where the evaluation's is another; -1: the same.",
        within=ranges.COUNT_OR_DEFAULT,
    )
    train_update_lr: float = _detail(
        -1.0,
        "alpha of the training, where the evaluation's is another; -1: the same.",
        within=ranges.POSITIVE_OR_DEFAULT,
    )
    # Evaluation.
    test_steps: int = _detail(
        -1,
        "Gradient steps of an evaluation; -1: 10 (meta-RL: 3, 2D navigation 4).",
        within=ranges.STEPS_OR_DEFAULT,
    )
    num_test_tasks: int = _detail(
        -1, "Tasks of an evaluation; -1: 600 (meta-RL: 40).", within=ranges.COUNT_OR_DEFAULT
    )
    inputs: str = _detail(
        "all",
        "half: a sinusoid's support points all have x > 0; query points are everywhere.",
        choices=("all", "half"),
    )
    tune_step_size: str = _detail(
        "auto",
        "Choose the evaluation's alpha on as many validation tasks, by the metric after the last "
        "step. auto: for methods trained without inner steps, unless update_lr is another than "
        "the training's; not for meta-RL.",
        choices=("auto", "True", "False"),
    )
    batch_statistics: str = _detail(
        "transductive",
        "Batch normalisation of query examples: by the query set (transductive, "
        "the paper's figures) or by the support set (inductive).",
        choices=("transductive", "inductive"),
    )
    use_best: bool = _detail(False, "Evaluate or export the weights that validated best.")
    init: str = _detail(
        "",
        "A release, such as models/NAME. train: start a new run from its weights. evaluate, "
        "export: use it instead of a run's checkpoint, unless such a run was started from it.",
    )
    to: str = _detail(
        "",
        "Directory to write: of export (empty: <run>/export), of release, of the paper's figures "
        "(empty: figures/ in the first directory named); file of render (<run>/figures/*.gif).",
    )
    task: int = _detail(0, "render: which of the evaluation's tasks is shown.", within=ranges.INDEX)
    fps: int = _detail(25, "render: pictures a second.", within=ranges.PICTURES_A_SECOND)
    # Running.
    data_dir: str = _detail("", "Data sets; empty: $MAML_TF_DATA, else data/.")
    download: bool = _detail(
        False,
        "Fetch a missing data set through TensorFlow Datasets (MiniImagenet: read what it built).",
    )
    run_name: str = _detail("", "Name of the run's directory; empty: made from the settings.")
    log_every: int = _detail(
        -1,
        "Iterations averaged into a point of TensorBoard; -1: 100 (meta-RL: 1).",
        within=ranges.EVERY,
    )
    validate_every: int = _detail(
        -1,
        "Iterations between validations; -1: 500 (sinusoid: 5000, meta-RL: 10).",
        within=ranges.EVERY,
    )
    validation_tasks: int = _detail(
        -1, "Tasks of a validation; -1: 96 (meta-RL: 20).", within=ranges.COUNT_OR_DEFAULT
    )
    best_after: int = _detail(
        -1,
        "Gradient steps after which a validation decides which weights are best; -1: num_updates.",
        within=ranges.STEPS_OR_DEFAULT,
    )
    save_every: int = _detail(
        -1,
        "Iterations between checkpoints; -1: 1000 (sinusoid: 10000, meta-RL: 10).",
        within=ranges.EVERY,
    )
    progress: bool = _detail(True, "Show a progress bar.")
    recompute: bool = _detail(False, "Less memory for many inner steps, at a third more time.")
    task_chunks: int = _detail(
        -1,
        "Pieces of a meta-batch worked on in parallel; -1: on a CPU as many as hold 16 images "
        "each (dense networks: 64; policies: 8000 steps), else 1.",
        within=ranges.COUNT_OR_DEFAULT,
    )
    jit_compile: str = _detail(
        "auto", "Compile with XLA; auto: the sinusoid only.", choices=("auto", "True", "False")
    )
    intra_op_threads: int = _detail(
        -1,
        "Threads inside one operation; -1: 1 on a CPU (each core "
        "works on its own tasks), but not for meta-RL; 0: TensorFlow's choice.",
        within=ranges.THREADS,
    )
    inter_op_threads: int = _detail(
        -1,
        "Operations, and robots, at a time; -1: one a core; 0: TensorFlow's choice.",
        within=ranges.THREADS,
    )
    distribute: str = _detail(
        "none",
        "mirrored: spread the tasks over all visible accelerators.",
        choices=("none", "mirrored"),
    )

    def __post_init__(self):
        """Refuses impossible settings."""
        for field in dataclasses.fields(self):
            _check_value(field, getattr(self, field.name))
        self._settle_method()
        self._check_method()
        self._check_reinforcement()
        self._check_size()
        for name, value in _defaults(self.datasource).items():
            if getattr(self, name) == -1:
                object.__setattr__(self, name, value)
        if not self.conv and self.datasource == "miniimagenet":
            raise ValueError(
                "--conv=False is for Omniglot; MiniImagenet's network is convolutional."
            )

    # --- the method: the one place that decides it ---

    def _settle_method(self) -> None:
        """Makes `method`, and the original's flags that say the same, agree."""
        said, told = self._method_by_the_original()
        if self.method == "auto":
            object.__setattr__(self, "method", said)
        elif told and self.method != said:
            raise ValueError(
                f"--method={self.method} contradicts {told}, which is {said}; drop one of them."
            )
        object.__setattr__(self, "stop_grad", self.method == "fomaml")
        if self.method == "oracle":
            object.__setattr__(self, "baseline", "oracle")

    def _method_by_the_original(self) -> tuple[str, str]:
        """What the original program's flags say, and those that say it."""
        if self.pretrain_iterations and not self.metatrain_iterations:
            said = "oracle" if self.baseline == "oracle" else "pretrained"
            return said, "--pretrain_iterations with --metatrain_iterations=0"
        return ("fomaml", "--stop_grad") if self.stop_grad else ("maml", "")

    def _check_method(self) -> None:
        method, multitask = f"--method={self.method}", self.method in PENALTIES
        meta_trained = self.method in ("maml", "fomaml")
        sinusoid = self.datasource == "sinusoid"
        if self.baseline == "oracle" and not sinusoid and not self.reinforcement:
            raise ValueError(
                "The oracle sees a sinusoid's amplitude and phase; "
                f"--datasource={self.datasource} has none. Drop --baseline and --method=oracle."
            )
        if self.baseline == "oracle" and not meta_trained and self.method != "oracle":
            raise ValueError(f"{method} contradicts --baseline=oracle; drop one of them.")
        if self.pretrain_iterations and self.metatrain_iterations and not meta_trained:
            raise ValueError(
                f"{method} is one training, of --metatrain_iterations; drop --pretrain_iterations."
            )
        if self.method == "nearest_neighbour":
            self._check_nearest_neighbour()
        if multitask and not sinusoid:
            raise ValueError(
                f"{method} averages regressors of sinusoids; use it with --datasource=sinusoid."
            )
        if multitask and self.distribute != "none":
            raise ValueError(f"{method} trains on one device; drop --distribute.")
        if self.l2 != -1 and not PENALTIES.get(self.method):
            raise ValueError(f"{method} has no penalty; drop --l2.")
        if self.method == "context" and self.adapt != "all":
            raise ValueError(f"{method} adapts the context vector alone; drop --adapt.")
        if self.learn_step_size and self.method in NO_INNER_STEPS:
            raise ValueError(f"{method} learns no step sizes; drop --learn_step_size.")
        if self.learn_step_size and self.tune_step_size == "True":
            raise ValueError("--tune_step_size would replace what --learn_step_size learned.")
        if self.inputs == "half" and not sinusoid:
            raise ValueError("--inputs=half is for sinusoids; drop it.")

    def _check_reinforcement(self) -> None:
        source = f"--datasource={self.datasource}"
        if self.environment and self.datasource != "gymnasium":
            raise ValueError(f"{source} is an environment already; drop --environment.")
        if not self.environment and self.datasource == "gymnasium":
            raise ValueError(f"{source} needs --environment=Id-v0 or --environment=module:Id-v0.")
        if self.squared_reward and self.datasource != "navigation_2d":
            raise ValueError("--squared_reward is for --datasource=navigation_2d; drop it.")
        if self.dynamics != "paper" and self.datasource not in ROBOTS:
            raise ValueError(f"--dynamics is for {', '.join(ROBOTS)}; drop it.")
        if not self.reinforcement:
            return
        if self.baseline == "oracle" and self.method != "oracle":
            raise ValueError("--baseline=oracle is for sinusoids; use --method=oracle.")
        if self.distribute != "none":
            raise ValueError(f"{source} trains on one device; drop --distribute.")
        if self.batch_statistics != "transductive":
            raise ValueError(f"{source} has no batch normalisation; drop --batch_statistics.")

    def _check_size(self) -> None:
        """Refuses a meta-step that no machine has the memory for."""
        each = self.update_batch_size + (0 if self.reinforcement else self.query_shots)
        each *= self.num_classes if self.classification else 1
        if self.meta_batch_size * each > _LARGEST_STEP:
            raise ValueError(
                f"A meta-step of {self.meta_batch_size} tasks of {each} examples is too large (at "
                f"most {_LARGEST_STEP} in all); lower --meta_batch_size or --update_batch_size."
            )

    def _check_nearest_neighbour(self) -> None:
        if not self.classification:
            raise ValueError(
                "--method=nearest_neighbour compares images with a task's support images; use it "
                "with --datasource=omniglot or miniimagenet."
            )
        if self.tune_step_size == "True":
            raise ValueError(
                "--method=nearest_neighbour takes no gradient step; drop --tune_step_size."
            )

    # --- derived settings ---

    @property
    def reinforcement(self) -> bool:
        """Whether tasks are those of an environment: meta-RL."""
        return self.datasource in REINFORCEMENT

    @property
    def classification(self) -> bool:
        """Whether tasks have classes."""
        return self.datasource in ("omniglot", "miniimagenet")

    @property
    def joint(self) -> bool:
        """Whether one classifier of all training classes was trained: a baseline of Table 1.

        The original's own pre-training is another: of N-way tasks.
        """
        baseline = self.method in ("pretrained", "nearest_neighbour")
        return baseline and self.classification and not self.pretrain_iterations

    @property
    def query_shots(self) -> int:
        """Query examples a class, or a regression task."""
        if self.queries != -1:
            return self.queries
        return 15 if self.datasource == "miniimagenet" else self.update_batch_size

    @property
    def clip_value(self) -> float | None:
        """Bound of each element of the meta-gradient."""
        if self.clip == -1:
            return 10.0 if self.datasource == "miniimagenet" else None
        return self.clip

    @property
    def iterations(self) -> int:
        """Iterations of this run; a pre-training before a meta-training is a run of its own."""
        if self.method == "random":
            return 0
        return self.metatrain_iterations or self.pretrain_iterations

    @property
    def inner_steps(self) -> int:
        """S, gradient steps while training."""
        return 0 if self.method in NO_INNER_STEPS else self.num_updates

    @property
    def deciding_step(self) -> int:
        """Gradient steps after which a validation decides which weights are best."""
        return self.inner_steps if self.best_after == -1 else self.best_after

    @property
    def penalty(self) -> float:
        """Factor of the multi-task baseline's penalty."""
        return PENALTIES[self.method] if self.l2 == -1 else self.l2

    @property
    def tunes_step_size(self) -> bool:
        """Whether an evaluation chooses its own alpha."""
        if self.tune_step_size != "auto":
            return self.tune_step_size == "True"
        if self.method == "nearest_neighbour":
            return False
        same = self.update_lr == self.trained().update_lr
        return self.method in NO_INNER_STEPS and same and not self.reinforcement

    @property
    def evaluation_steps(self) -> int:
        """Gradient steps of an evaluation."""
        return 0 if self.method == "nearest_neighbour" else self.test_steps

    @property
    def experiment(self) -> str:
        """A short title: data and task."""
        if self.datasource == "gymnasium":
            return re.sub(r"[^\w-]+", "_", self.environment)
        if self.reinforcement:
            return self.datasource
        if not self.classification:
            return f"sinusoid_{self.update_batch_size}shot"
        return f"{self.datasource}_{self.num_classes}way_{self.update_batch_size}shot"

    def trained(self) -> Config:
        """The settings of the training that these evaluate."""
        changes: dict[str, Any] = {"train_update_batch_size": -1, "train_update_lr": -1.0}
        if self.train_update_batch_size != -1:
            changes["update_batch_size"] = self.train_update_batch_size
        if self.train_update_lr != -1:
            changes["update_lr"] = self.train_update_lr
        if self.method == "nearest_neighbour":
            changes["method"] = "pretrained"
        return dataclasses.replace(self, **changes)

    def pretraining(self) -> Config | None:
        """The settings of the pre-training that comes before this run, if one does."""
        if not (self.pretrain_iterations and self.metatrain_iterations):
            return None
        return dataclasses.replace(
            self,
            method="auto",
            metatrain_iterations=0,
            stop_grad=False,
            learn_step_size=False,
            run_name="",
        )


def is_one_line(text: str) -> bool:
    """Whether a text is one line of whole characters that control nothing."""
    return not any(unicodedata.category(character) in _NOT_IN_A_LINE for character in text)


def _check_value(field: dataclasses.Field, value: Any) -> None:
    """Refuses a value of another type, outside the setting's range, or none of its choices."""
    kind: Any = type(field.default)
    name = f"--{field.name}"
    allowed: Any = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or isinstance(value, bool) != (kind is bool):
        raise ValueError(f"{name} must be {_KINDS[kind]}, not {value!r}.")
    if kind in (int, float) and value not in field.metadata["within"]:
        text = str(value) if isinstance(value, float) or abs(value) < 10**20 else "a longer number"
        raise ValueError(f"{name} must be {field.metadata['within']}; got {text}.")
    if kind is str and not is_one_line(value):
        raise ValueError(f"{name} must be one line of plain text; got {value!r}.")
    choices = field.metadata["choices"]
    if choices and value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got '{value}'.")


def _defaults(datasource: str) -> dict[str, int]:
    """What -1 stands for."""
    if datasource in REINFORCEMENT:
        return {
            "test_steps": 4 if datasource == "navigation_2d" else 3,
            "num_test_tasks": 40,
            "log_every": 1,
            "validate_every": 10,
            "validation_tasks": 20,
            "save_every": 10,
        }
    sinusoid = datasource == "sinusoid"
    return {
        "test_steps": 10,
        "num_test_tasks": 600,
        "log_every": 100,
        "validate_every": 5000 if sinusoid else 500,
        "validation_tasks": 96,
        "save_every": 10000 if sinusoid else 1000,
    }
