"""What a run is, as four groups of settings: training, evaluation, machine and run.

One field, one flag. `Training` is a run's identity: what changes what is learned. A default of None
is a value that is derived from others, in `make` alone; a field that may stay None says so. Below
this module nothing reads a flag.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maml_tf import ranges
from maml_tf.experiments import fields, meta_optimizers, problems, schedule_settings
from maml_tf.experiments.fields import setting
from maml_tf.experiments.meta_optimizers import META_OPTIMIZERS
from maml_tf.experiments.methods import METHODS, READS
from maml_tf.experiments.records import Kind, Method, Problem, SettingValue
from maml_tf.experiments.supervised import OF_INNER_STEPS
from maml_tf.ranges import Span, largest

NORMS = ("batch_norm", "layer_norm", "none")

_LARGEST_STEP = 10**7
"""Examples of a meta-step, or episodes."""

_KIND_DEFAULTS: dict[Kind, dict[str, SettingValue]] = {
    Kind.REGRESSION: {"validate_every": 5000, "save_every": 10000},
    Kind.CLASSIFICATION: {"validate_every": 500, "save_every": 1000},
    Kind.POLICY: {
        "test_steps": 3,
        "test_tasks": 40,
        "log_every": 1,
        "validate_every": 10,
        "validation_tasks": 20,
        "save_every": 10,
    },
}
_DEFAULTS: dict[str, SettingValue] = {
    "test_steps": 10,
    "test_tasks": 600,
    "log_every": 100,
    "validation_tasks": 96,
}
"""Values of derived settings: a problem's own go before its kind's, and these before those."""


@dataclass(frozen=True)
class _OfAllKinds:
    """The fields of `Training` that are not of policies alone; they come before the others."""

    problem: str = setting(
        "sinusoid",
        "Source of the tasks: one of the names below, or a module with a PROBLEM of your own, "
        "whose code is run.",
        section="Tasks",
    )
    ways: int = setting(5, "Classes of a classification task, N.", within=ranges.COUNT)
    shots: int | Span = setting(
        5,
        "Support examples per class, or per regression task, K; or a range, such as 1..5, of which "
        "each task of the training draws its own K. Meta-RL: trajectories per task and gradient "
        "step.",
        within=ranges.COUNT,
    )
    queries: int = setting(
        None,
        "Query examples per class, or per regression task. By default as many as support examples "
        "(the upper end of a range); 15 for MiniImagenet.",
        within=ranges.COUNT,
    )
    oracle: bool = setting(
        False, "Show the network a sinusoid's amplitude and phase as further inputs.", only=True
    )
    image_size: int = setting(
        84,
        "Height and width to which the images of --problem=folder are resampled, as wholes.",
        within=ranges.PIXELS,
        only=True,
    )
    color: str = setting(
        "rgb",
        "Colour of the images of --problem=folder.",
        choices=("rgb", "grey"),
        only=True,
    )
    environment: str = setting(
        "",
        "For --problem=gymnasium: a registered environment with sample_tasks and set_task, Id-v0, "
        "or module:Id-v0 to import a module first, whose code is run.",
        only=True,
    )
    step_size: float = setting(
        0.01, "Step size of the inner gradient step, alpha.", within=ranges.POSITIVE,
        section="Inner loop",
    )  # fmt: skip
    inner_steps: int = setting(
        1, "Inner gradient steps during training.", within=ranges.INNER_STEPS
    )
    learn_step_size: str | None = setting(
        None,
        "Meta-learn the inner step size: one per number (weight, or the flag alone: Meta-SGD), per "
        "weight tensor (layer), or per weight tensor and inner step (MAML++). By default not.",
        choices=("weight", "layer", "layer_and_step"),
        switch="weight",
    )
    inner_optimizer: str = setting(
        "sgd",
        "How the inner loop makes a step of a gradient; the state of momentum and adam is each "
        "task's own, and begins at zero at each adaptation.",
        choices=("sgd", "momentum", "adam"),
        only=True,
    )
    inner_momentum: float = setting(
        0.9, "Momentum of --inner_optimizer=momentum.", within=ranges.SHARE, only=True
    )
    inner_clip: float | None = setting(
        None,
        "Bound on the size of each element of an inner gradient. By default none; --clip, which "
        "the original has for MiniImagenet, bounds the meta-gradient.",
        within=ranges.POSITIVE,
        only=True,
    )
    adapt: str = setting(
        "all",
        "Weights that the inner loop changes: all but those of normalization layers, or the head's "
        "only (head: ANIL), or all but the head's (body: BOIL).",
        choices=("all", "head", "body"),
    )
    head_initialization: str = setting(
        "learned",
        "Where the head of each task begins: at its meta-learned weights (learned), or at those "
        "that the mean features of its support set's classes make (prototypes: Proto-MAML).",
        choices=("learned", "prototypes"),
        only=True,
    )
    loss_reduction: str = setting(
        "sum",
        "Reduction of the cross-entropy over a set: sum (over examples, divided by K: the paper's "
        "figures; its gradient is N times as large) or mean.",
        choices=("sum", "mean"),
    )
    method: str = setting(
        "maml",
        "How the initial weights are learned.",
        choices=tuple(METHODS),
        section="Outer loop",
    )
    imaml_lambda: float = setting(
        2.0,
        "imaml: lambda. The inner steps descend the support loss plus lambda / 2 times the squared "
        "distance from the initial weights; its paper has 2 for Omniglot.",
        within=ranges.POSITIVE,
        only=True,
    )
    cg_steps: int = setting(
        5,
        "imaml: steps of conjugate gradients, by which a meta-gradient is solved for.",
        within=ranges.COUNT,
        only=True,
    )
    multi_step_loss: int = setting(
        0,
        "Iterations over which the loss of a meta-step passes from the mean after all inner steps "
        "to the one after the last (MAML++). 0: the last counts alone.",
        within=ranges.ITERATIONS,
        only=True,
    )
    second_order_after: int = setting(
        0,
        "Iterations at the beginning that hold inner gradients constant, as --method=fomaml does "
        "in all (MAML++). 0: second derivatives from the first on.",
        within=ranges.ITERATIONS,
        only=True,
    )
    per_step_normalization: bool = setting(
        False,
        "Meta-learn scale and offset of batch normalization anew for each inner step, and for the "
        "query set after the last (MAML++).",
        only=True,
    )
    running_statistics: bool = setting(
        False,
        "Keep moving averages of batch normalization's statistics for each inner step, and for the "
        "query set after the last (MAML++), for --batch_statistics=running.",
        only=True,
    )
    pretrain_iterations: int = setting(
        0,
        "Iterations of a pre-training before the meta-training, which minimizes the loss before "
        "adaptation over all tasks.",
        within=ranges.ITERATIONS,
    )
    classes: str = setting(
        None,
        "Classes that --method=pretrained tells apart: all classes of the training split at once "
        "(all), or those of an N-way task, numbered anew in each task (task), as the original's "
        "--pretrain_iterations did.",
        choices=("all", "task"),
    )
    meta_batch_size: int = setting(
        25,
        "Tasks per meta-step. Multi-task baselines: number of regressors (the paper's 500).",
        within=ranges.COUNT,
    )
    meta_step_size: float = setting(
        0.001, "Step size of the meta-optimizer, Adam.", within=ranges.POSITIVE
    )
    meta_lr_schedule: str = setting(
        "constant",
        "How the meta step size goes on: constant, or falling to --final_meta_step_size along a "
        "cosine, or by the same factor at each step.",
        choices=schedule_settings.SHAPES,
    )
    final_meta_step_size: float | None = setting(
        None,
        "Meta step size at the end of its schedule, and after it. By default 0 for cosine, a "
        "hundredth of --meta_step_size for exponential.",
        within=ranges.NOT_NEGATIVE,
    )
    warmup_iterations: int = setting(
        0,
        "Iterations in which the meta step size rises from 0 to --meta_step_size, in a straight "
        "line, before its schedule or before it stays.",
        within=ranges.ITERATIONS,
    )
    schedule_iterations: int | None = setting(
        None,
        "Iterations of the meta step size's schedule, warm-up included. By default --iterations; a "
        "run that is to go on beyond says here what its schedule was.",
        within=ranges.EVERY,
    )
    clip: float | None = setting(
        None,
        "Bound on the size of each element of the meta-gradient. By default 10 for MiniImagenet, "
        "else none.",
        within=ranges.POSITIVE,
        only=True,
    )
    clip_norm: float | None = setting(
        None,
        "Bound on the norm of the meta-gradient over all weights, which is shortened to it; after "
        "--clip, where there is one. By default none. promp, vpg: of each update's gradient.",
        within=ranges.POSITIVE,
    )
    average: float | None = setting(
        None,
        "Momentum of an exponential moving average of the weights and learned step sizes, such as "
        "0.999, which is validated, evaluated, exported and released in their place. By default "
        "none.",
        within=ranges.MOMENTUM,
        only=True,
    )
    l2: float | None = setting(
        None,
        "Factor of the penalty of multitask_l2 and multitask_mean. By default the largest that "
        "costs a regressor little.",
        within=ranges.NOT_NEGATIVE,
    )
    seed: int = setting(0, "Seed of everything random.", within=ranges.SEED)
    init: str = setting(
        "",
        "A release, such as models/NAME. train starts a new run from its weights; evaluate, export "
        "and render use it in place of a run, unless such a run was started from it.",
    )
    norm: str = setting(
        "batch_norm",
        "Normalization layer of the network.",
        choices=NORMS,
        section="Network",
    )
    filters: int = setting(64, "Filters of each convolution.", within=ranges.FILTERS)
    conv: bool = setting(True, "Use a convolutional network; False: a dense one (Omniglot only).")
    max_pool: bool = setting(False, "Use max-pooling in place of strided convolution.")
    head_stddev: float | None = setting(
        None,
        "Standard deviation of the head's initial kernel. By default the original's initial kernel "
        "(1 for Omniglot's convolutional network; 0.1 learns 20-way several times faster).",
        within=ranges.NOT_NEGATIVE,
    )


@dataclass(frozen=True)
class Training(_OfAllKinds):
    """What changes what is learned: the identity of a run."""

    horizon: int | None = setting(
        None,
        "Steps per episode. By default the environment's own.",
        within=ranges.COUNT,
        section="Reinforcement learning",
    )
    dynamics: str = setting(
        "paper",
        "Dynamics of cheetah and ant. paper: one physics step per action; gymnasium: the frame "
        "skip, time step and observation of v5.",
        choices=("paper", "gymnasium"),
        only=True,
    )
    squared_reward: bool = setting(
        False,
        "Reward 2D navigation by minus the squared distance (the paper's text), not the distance.",
        only=True,
    )
    squash: bool = setting(
        False,
        "Keep a box of actions within its bounds by tanh, in place of clipping the Gaussian's.",
        only=True,
    )
    discount: float = setting(0.99, "Discount factor for later rewards.", within=ranges.SHARE)
    gae_lambda: float = setting(
        1.0,
        "Decay of generalized advantage estimation; 1: the discounted return minus the baseline.",
        within=ranges.SHARE,
    )
    inner_loss: str = setting(
        None,
        "Surrogate loss of the inner step. likelihood_ratio takes the same step, and its "
        "meta-gradient is less biased (ProMP's default); log_likelihood is the paper's, and the "
        "others' default.",
        choices=("log_likelihood", "likelihood_ratio"),
    )
    sampling_correction: float = setting(
        0.0,
        "Factor of E-MAML's term, by which the initial weights seek trajectories that the inner "
        "step learns well from. 0: none.",
        within=ranges.NOT_NEGATIVE,
    )
    init_std: float = setting(
        1.0,
        "Standard deviation of a Gaussian policy's actions at the beginning.",
        within=ranges.POSITIVE,
    )
    standardize: bool = setting(
        False,
        "Give a policy its observations less their mean so far, over their deviation so far.",
    )
    meta_optimizer: str = setting(
        "trpo",
        "How trajectories move the initial weights: by a trust region (trpo, the paper's), by "
        "several clipped steps of Adam (promp), or by plain ones (vpg).",
        choices=tuple(META_OPTIMIZERS),
    )
    epochs: int = setting(
        None,
        "promp, vpg: how often the trajectories of an iteration are gone through. By default 5 "
        "(promp) or 1 (vpg).",
        within=ranges.COUNT,
    )
    minibatches: int = setting(
        1,
        "promp, vpg: parts of the tasks of an iteration, with a step of Adam for each.",
        within=ranges.COUNT,
    )
    clip_ratio: float = setting(
        0.3,
        "promp: how far from 1 the ratio of an adapted policy to the one that sampled counts.",
        within=ranges.POSITIVE,
    )
    inner_kl: float = setting(
        0.01,
        "promp: what the mean KL divergence of the policies before an inner step is held near, "
        "in nats.",
        within=ranges.POSITIVE,
    )
    max_kl: float = setting(
        0.01,
        "Radius of the trust region: the largest mean KL divergence of a meta-step, in nats.",
        within=ranges.POSITIVE,
    )
    curvature: str = setting(
        "fisher",
        "How products with the Hessian of the KL divergence are computed; all three are the same "
        "matrix.",
        choices=("fisher", "hessian", "finite_differences"),
    )
    curvature_share: float = setting(
        1.0,
        "Share of the episodes that those products use: less takes less time and is less exact.",
        within=ranges.PART,
    )


@dataclass(frozen=True)
class Evaluation:
    """How a trained run is measured, exported or shown."""

    split: str = setting(
        "val",
        "Split of the held-out tasks.",
        choices=("val", "test"),
        section="Evaluation, export and render",
    )
    ways: int = setting(
        None,
        "Classes of a task of an evaluation, as many as in training (the default) or fewer; the "
        "head's further outputs adapt, too, and are left out of the prediction.",
        within=ranges.COUNT,
        flag="test_ways",
        only=True,
    )
    shots: int = setting(
        None,
        "Support examples per class, or per regression task, in an evaluation (meta-RL: "
        "trajectories). By default as in training, or the upper end of its range.",
        within=ranges.COUNT,
        flag="test_shots",
    )
    step_size: float = setting(
        None,
        "Step size of an evaluation's gradient steps. By default as in training.",
        within=ranges.POSITIVE,
        flag="test_step_size",
    )
    steps: int = setting(
        None,
        "Gradient steps of an evaluation. By default 10 (meta-RL: 3, 2D navigation: 4).",
        within=ranges.STEPS,
        flag="test_steps",
    )
    tasks: int = setting(
        None,
        "Tasks of an evaluation. By default 600 (meta-RL: 40).",
        within=ranges.COUNT,
        flag="test_tasks",
    )
    inputs: str = setting(
        "all",
        "Where a sinusoid's support inputs lie: all of the range, or the half with x > 0; query "
        "inputs are everywhere.",
        choices=("all", "half"),
        only=True,
    )
    tune_step_size: bool = setting(
        None,
        "Choose the step size of an evaluation on as many validation tasks, by the metric after "
        "the last step. By default for methods trained without inner steps, unless "
        "--test_step_size is given; not in meta-RL.",
    )
    batch_statistics: str = setting(
        "transductive",
        "Statistics of batch normalization for query examples: the query set's (transductive, the "
        "paper's figures), the support set's (inductive), or the training's moving averages for as "
        "many inner steps (running, after --running_statistics).",
        choices=("transductive", "inductive", "running"),
        only=True,
    )
    best: bool = setting(
        False, "Use the weights that validated best, not the newest.", flag="use_best"
    )
    iteration: int | None = setting(
        None,
        "Use the checkpoint of this iteration. By default the newest.",
        within=ranges.ITERATIONS,
        flag="test_iteration",
    )
    ensemble: int | None = setting(
        None,
        "evaluate: average what so many checkpoints predict, those that validated best "
        "(probabilities of classes; MAML++ takes 5). train keeps them by --keep_best.",
        within=ranges.MEMBERS,
        only=True,
    )
    task: int = setting(
        0, "Number of the evaluation's task that render shows.", within=ranges.INDEX
    )
    fps: int = setting(
        25, "Frames per second of what render writes.", within=ranges.FRAMES_PER_SECOND
    )


@dataclass(frozen=True)
class Machine:
    """What this machine has, and how it is used; changes no result but by rounding."""

    data_dir: str = setting(
        "", "Directory of the data sets. By default $MAML_TF_DATA, else data/.", section="Machine"
    )
    download: bool = setting(
        False,
        "Fetch a missing data set through TensorFlow Datasets (MiniImagenet: read what it built).",
    )
    recompute: bool = setting(
        False,
        "Recompute activations in the backward pass: less memory for many inner steps, a third "
        "more time.",
    )
    pieces: int | None = setting(
        None,
        "Pieces of a meta-batch that are worked on in parallel. By default, on a CPU, as many as "
        "hold 16 images each (dense networks: 64; policies: 8000 steps), else 1.",
        within=ranges.COUNT,
    )
    jit_compile: bool | None = setting(None, "Compile with XLA. By default for regression only.")
    precision: str = setting(
        "float32",
        "What is computed with; weights and the inner steps are of float32. tf32: a GPU's products "
        "have factors of 10 bits, and a meta-gradient is some percent off; bfloat16: all layers "
        "have 8 bits, not for meta-RL.",
        choices=("float32", "tf32", "bfloat16"),
    )
    intra_op_threads: int | None = setting(
        None,
        "Threads inside one operation; 0: TensorFlow's choice. By default 1 on a CPU, where each "
        "core works on its own tasks.",
        within=ranges.THREADS,
    )
    inter_op_threads: int | None = setting(
        None,
        "Operations, and simulated robots, at a time; 0: TensorFlow's choice. By default one per "
        "core.",
        within=ranges.THREADS,
    )
    asynchronous: bool = setting(
        False,
        "For --problem=gymnasium: step each environment in a process of its own, as many as there "
        "are trajectories; for environments whose step takes a millisecond or more.",
        only=True,
    )
    distribute: str = setting(
        "none",
        "mirrored: spread the tasks over all visible accelerators; multiworker: over the processes "
        "that TF_CONFIG or Slurm's srun names (docs/scale.md).",
        choices=("none", "mirrored", "multiworker"),
    )


@dataclass(frozen=True)
class Run:
    """Where a run is kept, how far it goes, and what it shows on the way."""

    iterations: int = setting(
        15000,
        "Training iterations, whatever the method; a run that has done fewer goes on.",
        within=ranges.ITERATIONS,
        section="Run",
    )
    logdir: str = setting("logs/", "Directory of the runs, each named by its settings.")
    run_name: str = setting("", "Name of the run's directory. By default made of the settings.")
    log: bool = setting(True, "Write checkpoints and TensorBoard's event file.")
    resume: bool = setting(
        True,
        "Go on from the newest checkpoint. False: start again; an existing run is set aside, not "
        "deleted.",
    )
    log_every: int = setting(
        None,
        "Iterations averaged into a point of TensorBoard. By default 100 (meta-RL: 1).",
        within=ranges.EVERY,
    )
    validate_every: int = setting(
        None,
        "Iterations between validations. By default 500 (regression: 5000, meta-RL: 10).",
        within=ranges.EVERY,
    )
    validation_tasks: int = setting(
        None, "Tasks of a validation. By default 96 (meta-RL: 20).", within=ranges.COUNT
    )
    best_after: int = setting(
        None,
        "Gradient steps after which a validation decides which weights are best. By default as "
        "many as in training.",
        within=ranges.STEPS,
    )
    keep_best: int = setting(
        1, "Checkpoints that validated best to keep, for --ensemble.", within=ranges.MEMBERS_KEPT
    )
    stop_after: int = setting(
        0,
        "Validations in a row without a better score that end the training. 0: it goes on to "
        "--iterations.",
        within=ranges.ITERATIONS,
    )
    save_every: int = setting(
        None,
        "Iterations between checkpoints. By default 1000 (regression: 10000, meta-RL: 10).",
        within=ranges.EVERY,
    )
    progress: bool = setting(True, "Show a progress bar.")
    to: str = setting(
        "",
        "What to write: the directory of an export (by default RUN/export, RUN/litert or "
        "RUN/stablehlo; for LiteRT NAME.tflite is a file), of a release, or of the paper's figures "
        "(by default figures/ in the first directory named); the file of render (by default "
        "RUN/figures/*.gif).",
    )
    format: str | None = setting(
        None,
        "What export writes: a SavedModel for TensorFlow, the default, a file for LiteRT on phones "
        "and boards, or StableHLO for JAX; of the last two the sizes are fixed.",
        choices=("saved_model", "litert", "stablehlo"),
    )
    support_examples: int | None = setting(
        None,
        "Support examples of all classes together that an export of fixed sizes adapts to; "
        "meta-RL: trajectories of --horizon steps, by default none, and the export only acts. By "
        "default the shots of an evaluation, times the ways.",
        within=ranges.COUNT,
    )
    query_examples: int | None = setting(
        None,
        "Query examples of all classes together that an export of fixed sizes predicts at a time; "
        "meta-RL: observations, by default 1. By default as many as a task of an evaluation has.",
        within=ranges.COUNT,
    )


GROUPS = (Training, Evaluation, Machine, Run)
SETTINGS = {each.flag: each for group in GROUPS for each in fields.declared(group)}
"""Every setting by its flag."""


@dataclass(frozen=True)
class Settings:
    """All settings of a command, checked, with derived values filled in."""

    training: Training
    evaluation: Evaluation
    machine: Machine
    run: Run
    given: Mapping[str, SettingValue] = dataclasses.field(compare=False)
    """What was said, by flag; derived values are not."""

    @property
    def problem(self) -> Problem:
        """The record of the problem."""
        return problems.find(self.training.problem)

    @property
    def method(self) -> Method:
        """The record of the method."""
        return METHODS[self.training.method]

    @property
    def inner_steps(self) -> int:
        """Gradient steps during training."""
        return self.training.inner_steps if self.method.inner_steps else 0

    @property
    def joint(self) -> bool:
        """Whether one classifier of all training classes was trained: a baseline of Table 1."""
        return self.training.classes == "all"

    @property
    def experiment(self) -> str:
        """A short name of data and task, as they were in training."""
        return self.problem.experiment(self.training)

    @property
    def adapts(self) -> str:
        """What an inner step changes: "all", "head", "body" or "context"."""
        return self.training.adapt if self.method.adapts == "all" else self.method.adapts

    def replace(self, **changes: SettingValue) -> Settings:
        """Says some settings otherwise, by flag; derived values follow."""
        return make({**self.given, **changes})

    def trained(self) -> Settings:
        """The settings of the run that these evaluate, with its own N, K and step size."""
        method = self.method.evaluates or self.method.name
        return self.replace(method=method, test_ways=None, test_shots=None, test_step_size=None)

    def pretraining(self) -> Settings | None:
        """The settings of the pre-training that comes before this run, if one does."""
        before = self.training.pretrain_iterations
        if not before or not self.run.iterations:
            return None
        return self.replace(
            method="oracle" if self.training.oracle else "pretrained",
            classes="task" if self.problem.kind is Kind.CLASSIFICATION else None,
            iterations=before,
            pretrain_iterations=0,
            shots=largest(self.training.shots),
            **schedule_settings.CONSTANT,
            **dict.fromkeys(("learn_step_size", "head_initialization", "batch_statistics")),
            **dict.fromkeys((*OF_INNER_STEPS, *READS)),
            run_name="",
        )


def make(given: Mapping[str, SettingValue]) -> Settings:
    """Makes settings of what was said, and derives the rest.

    Args:
      given: values by flag; a value of None says nothing.

    Raises:
      ValueError: a value is impossible, or two contradict each other; names the flags.
    """
    said = {flag: fields.meant(SETTINGS.get(flag), value) for flag, value in given.items()}
    given = {flag: value for flag, value in said.items() if value is not None}
    training, evaluation, machine, run = (_group(group, given) for group in GROUPS)
    problem, method = problems.find(training.problem), METHODS[training.method]
    _check_problem(problem, given)
    _check_method(problem, method, given)
    problem.check(training)
    for name in ("per_step_normalization", "running_statistics"):
        if getattr(training, name) and training.norm != "batch_norm":
            raise ValueError(
                f"--norm={training.norm} leaves no batch normalization to --{name}; drop one of "
                "them."
            )
    if evaluation.batch_statistics == "running" and not training.running_statistics:
        raise ValueError(
            "--batch_statistics=running takes what a training with --running_statistics keeps; "
            "train so, or choose other --batch_statistics."
        )
    if machine.precision == "bfloat16" and problem.kind is Kind.POLICY:
        raise ValueError(
            f"--precision=bfloat16 is too coarse for the curvature of --problem={problem.name}; "
            "drop it."
        )
    training = _derived_training(training, problem, method, run)
    if training.average and training.classes == "all":
        raise ValueError(
            f"--method={method.name} gives its classifier of all classes a fresh head for each "
            "task, which no average is of; drop --average, or choose --classes=task."
        )
    schedule_settings.check(training, run.iterations)
    _check_size(training, problem)
    evaluation = _derived_evaluation(evaluation, training, problem, method)
    run = _derived_run(run, training, problem, method)
    return Settings(training, evaluation, machine, run, given)


def query_shots(settings: Settings, shots: int | Span) -> int:
    """Query examples per class, or per regression task, beside `shots` support examples."""
    said = settings.given.get("queries", settings.problem.defaults.get("queries"))
    return said if isinstance(said, int) else largest(shots)


def _group(group: type, given: Mapping[str, SettingValue]) -> Any:
    named = {each.name: given[each.flag] for each in fields.declared(group) if each.flag in given}
    made = group(**named)
    fields.check(made)
    return made


# --- derived values ---


def _derived_training(training: Training, problem: Problem, method: Method, run: Run) -> Training:
    classification = problem.kind is Kind.CLASSIFICATION
    joint = method.all_classes and classification and training.classes != "task"
    derived: dict[str, Any] = {
        "queries": problem.defaults.get("queries", largest(training.shots)),
        "clip": problem.defaults.get("clip"),
        "l2": method.penalty,
        **meta_optimizers.derived(training),
        **schedule_settings.derived(training, run.iterations),
    }
    derived = {name: v for name, v in derived.items() if getattr(training, name) is None}
    derived["classes"] = "all" if joint else "task"
    derived["oracle"] = training.oracle or method.sees_task
    return dataclasses.replace(training, **derived)


def _derived_evaluation(
    evaluation: Evaluation, training: Training, problem: Problem, method: Method
) -> Evaluation:
    same = evaluation.step_size in (None, training.step_size)
    tunes = method.tunes_step_size and same and problem.kind is not Kind.POLICY
    derived: dict[str, Any] = {
        "ways": training.ways,
        "shots": largest(training.shots),
        "step_size": training.step_size,
        "steps": _default("test_steps", problem),
        "tasks": _default("test_tasks", problem),
        "tune_step_size": tunes,
    }
    derived = {name: v for name, v in derived.items() if getattr(evaluation, name) is None}
    if not method.adapts_at_test:
        derived["steps"] = 0
    evaluation = dataclasses.replace(evaluation, **derived)
    if evaluation.ways > training.ways:
        raise ValueError(
            f"--test_ways={evaluation.ways} is more than the {training.ways} outputs that --ways "
            f"gives the network; give at most {training.ways}."
        )
    return evaluation


def _derived_run(run: Run, training: Training, problem: Problem, method: Method) -> Run:
    names = ("log_every", "validate_every", "validation_tasks", "save_every")
    derived: dict[str, Any] = {name: _default(name, problem) for name in names}
    derived["best_after"] = training.inner_steps if method.inner_steps else 0
    derived = {name: v for name, v in derived.items() if getattr(run, name) is None}
    if not method.trained:
        derived["iterations"] = 0
    return dataclasses.replace(run, **derived)


def _default(flag: str, problem: Problem) -> SettingValue:
    for defaults in (problem.defaults, _KIND_DEFAULTS[problem.kind], _DEFAULTS):
        if flag in defaults:
            return defaults[flag]
    raise KeyError(flag)


# --- what contradicts each other ---


def _is_said(each: fields.Setting, given: Mapping[str, SettingValue]) -> bool:
    """Whether a setting is given otherwise than by default."""
    return given.get(each.flag, each.default) != each.default


def _check_problem(problem: Problem, given: Mapping[str, SettingValue]) -> None:
    own = f"--problem={problem.name}"
    for flag, each in SETTINGS.items():
        if _is_said(each, given) and each.only and flag not in problem.reads:
            readers = ", ".join(problems.readers(flag))
            raise ValueError(f"--{flag} is for --problem={readers}, not {own}; drop --{flag}.")
    if problem.kind is Kind.POLICY and isinstance(given.get("shots"), Span):
        raise ValueError(f"{own} samples as many trajectories in each task; give one --shots.")


def _check_method(problem: Problem, method: Method, given: Mapping[str, SettingValue]) -> None:
    own = f"--method={method.name}"
    if not _serves(method, problem):
        served = [p.name for p in problems.known().values() if _serves(method, p)]
        raise ValueError(f"{own} {method.reason}; use it with --problem={' or '.join(served)}.")
    if given.get("oracle") and not (method.meta_trained or method.sees_task):
        raise ValueError(f"{own} contradicts --oracle; drop one of them.")
    if given.get("pretrain_iterations") and not method.meta_trained:
        raise ValueError(f"{own} is one training, of --iterations; drop --pretrain_iterations.")
    if given.get("classes") == "all" and not method.all_classes:
        raise ValueError(f"{own} learns from N-way tasks; drop --classes.")
    if given.get("classes") and problem.kind is not Kind.CLASSIFICATION:
        raise ValueError(f"--problem={problem.name} has no classes; drop --classes.")
    if given.get("tune_step_size") and not method.adapts_at_test:
        raise ValueError(f"{own} takes no gradient step; drop --tune_step_size.")
    if given.get("ensemble") and not (method.trained and method.adapts_at_test):
        raise ValueError(f"{own} has no predictions to average; drop --ensemble.")
    for name in ("use_best", "test_iteration"):
        if given.get("ensemble") and given.get(name) not in (None, False):
            raise ValueError(
                f"--ensemble takes the checkpoints that validated best; drop --{name}."
            )
    if method.one_device and given.get("distribute", "none") != "none":
        raise ValueError(f"{own} trains on one device; drop --distribute.")
    said = [flag for flag, each in SETTINGS.items() if _is_said(each, given)]
    for name in (name for name in said if name in READS - method.reads):
        readers = " or ".join(m.name for m in METHODS.values() if name in m.reads)
        raise ValueError(f"--{name} is for --method={readers}, not {method.name}; drop --{name}.")
    for name, why in method.refuses.items():
        if name in said:
            raise ValueError(f"{own} {why}; drop --{name}.")
    for name in ("sampling_correction", "inner_kl", "head_initialization", *OF_INNER_STEPS):
        if name in said and not method.inner_steps:
            raise ValueError(f"{own} takes no inner step; drop --{name}.")
    if "head_initialization" in said and given.get("adapt") == "body":
        raise ValueError(
            "--adapt=body gives all tasks one head, and --head_initialization=prototypes each its "
            "own; drop one of them."
        )
    if "inner_momentum" in said and given.get("inner_optimizer") != "momentum":
        raise ValueError("--inner_momentum is for --inner_optimizer=momentum; drop it.")
    if isinstance(given.get("shots"), Span) and not method.inner_steps:
        raise ValueError(
            f"{own} takes no inner step, so that a range of --shots says nothing; give one number."
        )
    if given.get("learn_step_size") and not method.inner_steps:
        raise ValueError(f"{own} learns no step sizes; drop --learn_step_size.")
    if given.get("learn_step_size") and given.get("tune_step_size"):
        raise ValueError("--tune_step_size would replace what --learn_step_size learned.")


def _serves(method: Method, problem: Problem) -> bool:
    return problem.kind in method.kinds and (not method.needs or method.needs in problem.offers)


def _check_size(training: Training, problem: Problem) -> None:
    """Refuses a meta-step that no machine has the memory for."""
    each = largest(training.shots) + (0 if problem.kind is Kind.POLICY else training.queries)
    each *= training.ways if problem.kind is Kind.CLASSIFICATION else 1
    if training.meta_batch_size * each > _LARGEST_STEP:
        raise ValueError(
            f"A meta-step of {training.meta_batch_size} tasks of {each} examples is too large (at "
            f"most {_LARGEST_STEP} in all); lower --meta_batch_size or --shots."
        )
