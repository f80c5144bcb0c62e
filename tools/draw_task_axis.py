"""Draws docs/figures/task_axis.png: one meta-step, with the shapes of weights, data and losses.

    python tools/draw_task_axis.py

Run it again after a change; the same program gives the same bytes.
"""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

TARGET = Path(__file__).parents[1] / "docs" / "figures" / "task_axis.png"
SHARED, STACKED, DATA, GRADIENT = "#0072B2", "#D55E00", "#666666", "#009E73"


def box(axes, x, y, width, height, text, colour, copies=1):
    """A labelled box at its lower left corner; `copies` of it, one behind the other."""
    for k in reversed(range(copies)):
        shift = 0.09 * k
        axes.add_patch(
            FancyBboxPatch(
                (x + shift, y + shift),
                width,
                height,
                boxstyle="round,pad=0.02,rounding_size=0.06",
                facecolor="white",
                edgecolor=colour,
                linewidth=1.3,
            )
        )
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8)


def arrow(axes, start, end, colour="black", bend=0.0, dashes="-"):
    """An arrow from one point to another."""
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=10,
            color=colour,
            linewidth=1.3,
            linestyle=dashes,
            connectionstyle=f"arc3,rad={bend}",
        )
    )


def draw():
    """The figure."""
    figure = Figure(figsize=(9.0, 3.3), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlim(-0.1, 11.05)
    axes.set_ylim(-0.3, 3.35)
    axes.axis("off")
    box(axes, 0, 1, 1.7, 0.9, "initial weights θ\nshared: [*shape]", SHARED)
    box(axes, 2.55, 1, 2.4, 0.9, "support losses [T],\nthen the gradient of their sum", GRADIENT)
    box(axes, 5.6, 1, 1.9, 0.9, "adapted weights θ′\nstacked: [T, *shape]", STACKED, copies=3)
    box(axes, 8.8, 1, 1.9, 0.9, "query losses [T],\nthen their mean", GRADIENT)
    box(axes, 2.75, 2.5, 2.0, 0.6, "support sets [T, B, ...]", DATA, copies=3)
    box(axes, 8.75, 2.5, 1.95, 0.6, "query sets [T, B, ...]", DATA, copies=3)
    arrow(axes, (1.75, 1.45), (2.55, 1.45))
    arrow(axes, (4.95, 1.45), (5.55, 1.45))
    arrow(axes, (7.75, 1.45), (8.75, 1.45))
    arrow(axes, (3.75, 2.45), (3.75, 1.95))
    arrow(axes, (9.75, 2.45), (9.75, 1.95))
    arrow(axes, (6.5, 0.95), (3.8, 0.95), bend=-0.28)
    axes.text(5.15, 0.36, "S inner steps", ha="center", fontsize=8)
    arrow(axes, (9.75, 0.95), (0.85, 0.95), GRADIENT, bend=-0.19, dashes="--")
    axes.text(
        5.3,
        -0.25,
        "meta-gradient: back through every inner step to the one shared θ (second order)",
        ha="center",
        fontsize=8,
        color=GRADIENT,
    )
    return figure


if __name__ == "__main__":
    draw().savefig(TARGET, dpi=160)
