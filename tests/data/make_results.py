"""Writes tests/data/results/: small result files with plausible numbers, for figures and tables.

    python tests/data/make_results.py

They are made up, not measured. Some results of the paper's protocol are left out on purpose.
"""

import json
from pathlib import Path

import numpy as np

PLACE = Path(__file__).parent / "results"
# Mean squared error after 0, 1 and 10 steps with K = 10; it falls geometrically from the second on.
SINUSOID = {
    "maml": (3.1, 0.55, 0.15, 0.01),
    "fomaml": (3.2, 0.62, 0.19, 0.01),
    "pretrained": (3.0, 2.7, 2.1, 0.02),
    "random": (4.4, 4.2, 3.6, 0.01),
    "oracle": (0.05, 0.04, 0.03, 0.01),
    "multitask": (5.3, 4.2, 3.7, 0.01),
    "multitask_l2": (8.8, 7.2, 5.6, 0.01),
}
CLASSIFICATION = (  # data, method, ways, train_shots, shots, conv, alpha, accuracy at step 1 and 10
    ("omniglot", "maml", 5, 1, 1, True, 0.4, 0.971, 0.979),
    ("omniglot", "maml", 5, 1, 5, True, 0.4, 0.981, 0.988),
    ("omniglot", "maml", 5, 5, 5, True, 0.4, 0.989, 0.994),
    ("omniglot", "maml", 20, 1, 1, True, 0.1, 0.871, 0.924),
    ("omniglot", "maml", 5, 1, 1, False, 0.4, 0.861, 0.882),
    ("omniglot", "context", 5, 1, 1, True, 0.4, 0.925, 0.941),
    ("miniimagenet", "maml", 5, 1, 1, True, 0.01, 0.431, 0.472),
    ("miniimagenet", "pretrained", 5, None, 5, True, 0.01, 0.381, 0.467),
)
RETURNS = (  # data, method, alpha, spread, trajectories, returns after 0, 1, 2, 3 steps
    ("navigation_2d", "maml", 0.5, 12, 40, -40.1, -12.3, -4.1, -3.6),
    ("navigation_2d", "pretrained", 0.5, 15, 40, -40.6, -20.2, -12.4, -9.1),
    ("navigation_2d", "random", 0.5, 30, 40, -81.9, -60.2, -54.3, -47.7),
    ("navigation_2d", "oracle", 0.5, 1, 40, -2.4),
    ("navigation_2d", "context", 0.5, 12, 40, -42.0, -14.2, -5.4, -3.9),
    ("cheetah_velocity", "maml", 0.1, 40, 20, -131.2, -80.4, -70.3, -63.9),
    ("cheetah_velocity", "pretrained", 0.02, 60, 20, -156.0, -136.2, -127.0, -131.1),
    ("cheetah_velocity", "random", 0.1, 90, 20, -251.3, -249.2, -240.1, -229.6),
    ("cheetah_velocity", "oracle", 0.1, 20, 20, -55.8, -56.1, -56.0, -57.2),
    ("cheetah_direction", "maml", 0.1, 50, 20, -48.2, 288.3, 309.9, 311.2),
    ("cheetah_direction", "pretrained", 0.2, 40, 20, -44.0, -25.1, -11.0, 18.8),
    ("cheetah_direction", "oracle", 0.1, 40, 20, 438.1),
    ("ant_velocity", "maml", 0.1, 60, 20, 29.3, 92.1, 97.7, 99.0),
    ("ant_velocity", "random", 1.0, 30, 20, -77.1, -60.2, -47.9, -36.0),
    ("ant_direction", "maml", 0.1, 100, 40, 7.9, 470.2, 480.1, 481.3),
)
SUFFIX = {"maml": "", "fomaml": "_first_order"}


def falling(start, first, last):
    ratio = (last / first) ** (1 / 9)
    return [start, *(first * ratio**step for step in range(10))]


def write(data, method, name, **content):
    folder = PLACE / (data + SUFFIX.get(method, f"_{method}")) / "results"
    folder.mkdir(parents=True, exist_ok=True)
    common = {"version": 1, "experiment": data, "method": method, "split": "test"}
    text = json.dumps({**common, **content}, indent=None)
    (folder / f"{name}.json").write_text(text.replace(', "', ',\n "') + "\n")


def write_curve(experiment, method, mean, *, spread, dense="", tasks=600, **content):
    mean = np.array(mean)
    std = spread * mean if content["metric"] == "loss" else np.full(len(mean), spread)
    std = np.linspace(1.2, 0.8, len(mean)) * std if content["metric"] == "return" else std
    each = "trajectories" if content["metric"] == "return" else "shot"
    name = f"test_{content['shots']}{each}_stepsize{content['step_size']:g}"
    write(
        experiment + dense,
        method,
        name,
        kind="curve",
        experiment=experiment,
        seed=0,
        num_tasks=tasks,
        batch_statistics="transductive",
        steps=list(range(len(mean))),
        mean=mean.round(4).tolist(),
        ci95=(1.96 * std / tasks**0.5).round(4).tolist(),
        std=std.round(4).tolist(),
        seconds=1.0,
        flags=[f"--update_lr={content['step_size']}", "--train_update_lr=-1.0"],
        **content,
    )


def write_returns(data, method, alpha, spread, trajectories, *mean):
    write_curve(
        data,
        method,
        mean,
        spread=spread,
        tasks=40,
        datasource=data,
        metric="return",
        ways=None,
        shots=trajectories,
        train_shots=40 if data == "ant_direction" else 20,
        queries=None,
        inputs="all",
        conv=False,
        step_size=alpha,
        iteration=0 if method == "random" else 500,
        tuning=None,
    )


def write_paths(method, steps):
    random = np.random.default_rng(len(method))
    tasks = []
    for goal in ((0.4, -0.1), (-0.3, 0.45), (-0.2, -0.4)):
        paths = []
        for step in steps:
            aim = np.array(goal) * (step / max(steps) if method == "maml" else 0.3 * (step > 0))
            ahead = np.minimum(np.arange(13) / 6, 1)[:, None] * aim
            walks = [ahead + 0.05 * random.normal(size=ahead.shape) for _ in range(3)]
            paths.append([np.concatenate([[[0, 0]], w[1:]]).round(3).tolist() for w in walks])
        tasks.append({"goal": goal, "paths": paths})
    write(
        "navigation_2d",
        method,
        "paths_40trajectories",
        kind="paths",
        datasource="navigation_2d",
        seed=0,
        shots=40,
        train_shots=20,
        inputs="all",
        step_size=0.5,
        iteration=500,
        steps=list(steps),
        tasks=tasks,
        flags=[],
    )


def write_samples(method, shots, inputs, step_size):
    random = np.random.default_rng([shots, inputs == "half"])
    grid = np.linspace(-5, 5, 21)
    tasks = []
    for amplitude, phase in ((1.2, 2.0), (3.6, 0.7)):
        low = 0 if inputs == "half" else -5
        x = random.uniform(low, 5, shots)
        truth, start = amplitude * np.sin(grid - phase), 0.6 * np.sin(grid / 2)
        shares = (0, 0.8, 0.95) if method == "maml" else (0, 0.05, 0.25)
        predictions = [start + share * (truth - start) for share in shares]
        task = {"amplitude": amplitude, "phase": phase, "support_x": x, "x": grid, "y": truth}
        task |= {"support_y": amplitude * np.sin(x - phase), "predictions": np.array(predictions)}
        tasks.append({k: np.round(v, 2).tolist() for k, v in task.items()})
    write(
        "sinusoid_10shot",
        method,
        f"samples_{shots}shot" + ("_half" if inputs == "half" else ""),
        kind="samples",
        datasource="sinusoid",
        seed=0,
        shots=shots,
        train_shots=10,
        inputs=inputs,
        step_size=step_size,
        iteration=70000,
        steps=[0, 1, 10],
        tasks=tasks,
        flags=[],
    )


def main():
    for method, (*numbers, alpha) in SINUSOID.items():
        for shots in (5, 10, 20):
            write_curve(
                "sinusoid_10shot",
                method,
                np.array(falling(*numbers)) * (10 / shots) ** 0.5,
                spread=1.1,
                datasource="sinusoid",
                metric="loss",
                ways=None,
                shots=shots,
                train_shots=10,
                queries=shots,
                inputs="all",
                conv=True,
                step_size=alpha,
                iteration=0 if method == "random" else 70000,
            )
    for method, alpha in (("maml", 0.01), ("pretrained", 0.02)):
        for shots in (5, 10, 20):
            for inputs in ("all", "half"):
                write_samples(method, shots, inputs, alpha)
    for data, method, ways, train_shots, shots, conv, alpha, first, last in CLASSIFICATION:
        mean = [1 / ways, *(last - (last - first) * 0.6**step for step in range(10))]
        write_curve(
            f"{data}_{ways}way_{train_shots or shots}shot",
            method,
            mean,
            spread=0.08,
            dense="" if conv else "_dense",
            datasource=data,
            metric="accuracy",
            ways=ways,
            shots=shots,
            train_shots=train_shots,
            queries=15 if data == "miniimagenet" else shots,
            inputs="all",
            conv=conv,
            step_size=alpha,
            iteration=60000,
        )
    for numbers in RETURNS:
        write_returns(*numbers)
    for method in ("maml", "pretrained"):
        write_paths(method, range(4))


if __name__ == "__main__":
    main()
