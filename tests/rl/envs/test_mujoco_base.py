import pytest

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra rl")
mujoco = pytest.importorskip("mujoco", reason="needs the extra rl")

import numpy as np

from maml_tf.rl import envs

ROBOTS = [name for name in envs.ENVIRONMENTS if name != "navigation_2d"]
STEPS = 25


def roll(name, num_envs=3, steps=STEPS, seed=0, **keywords):
    """Random actions; returns the environment and, for each step, all there is to see."""
    env = envs.make_vector(name, num_envs, **keywords)
    rng = np.random.default_rng(seed)
    observations, _ = env.reset(seed=seed)
    log = [(env._state.copy(), None, observations, None, None)]
    for _ in range(steps):
        actions = rng.uniform(-1.3, 1.3, (num_envs, env.action_size)).astype(np.float32)
        observations, rewards, terminated, *_ = env.step(actions)
        log.append((env._state.copy(), actions, observations, rewards, terminated))
    return env, log


def data_at(env, state):
    """MuJoCo's own account of a state, every quantity computed of it."""
    data = mujoco.MjData(env.model)
    mujoco.mj_setState(env.model, data, state, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    return data


@pytest.mark.parametrize("dynamics", ["paper", "gymnasium"])
@pytest.mark.parametrize("name", ["cheetah_velocity", "ant_velocity"])
def test_a_step_is_mujoco_s_own(name, dynamics):
    env, log = roll(name, dynamics=dynamics)
    steps = {"paper": 1, "gymnasium": 5}[dynamics]
    for (before, *_), (after, actions, _, _, terminated) in zip(log, log[1:], strict=False):
        for row in range(3):
            data = data_at(env, before[row])
            data.ctrl = np.clip(actions[row], -1, 1)
            for _ in range(steps):
                mujoco.mj_step(env.model, data)
            np.testing.assert_allclose(after[row, 1:16], np.r_[data.qpos, data.qvel][:15], atol=0)
        if terminated.any():
            break


@pytest.mark.parametrize("name", ROBOTS)
def test_rewards_are_those_of_the_states(name):
    env, log = roll(name)
    for (before, *_), (_, actions, _, rewards, terminated) in zip(log, log[1:], strict=False):
        for row in range(3):
            data = data_at(env, before[row])
            action = np.clip(actions[row].astype(float), -1, 1)
            data.ctrl = action
            mujoco.mj_forward(env.model, data)
            mujoco.mj_rnePostConstraint(env.model, data)
            mass = env.model.body_mass[1:]
            mujoco.mj_subtreeVel(env.model, data)
            v, task = data.subtree_linvel[1][0], env.tasks[row]
            com = mass @ data.xipos[1:] / mass.sum()
            contact = np.clip(data.cfrc_ext, -1, 1)
            ant = 0.05 - 0.005 * (action**2).sum() - 0.0005 * (contact**2).sum()
            cheetah = -0.05 * (action**2).sum()
            expected = {
                "cheetah_velocity": -abs(v - task[0]) + cheetah,
                "cheetah_direction": task[0] * v + cheetah,
                "ant_velocity": -abs(v - task[0]) + 1 + ant,
                "ant_direction": task[0] * v + ant,
                "ant_goal": -abs(com[:2] - task).sum() + 4 + ant,
            }[name]
            assert rewards[row] == pytest.approx(expected, abs=1e-9)
        if terminated.any():
            break


def test_the_velocity_is_that_of_the_whole_robot():
    # Its centre of mass moves by v times the time step, to first order.
    env, log = roll("cheetah_velocity")
    mass = env.model.body_mass[1:]

    def place(state):
        data = data_at(env, state)
        mujoco.mj_kinematics(env.model, data)
        return mass @ data.xipos[1:, 0] / mass.sum()

    (before, *_), (after, *_) = log[10], log[11]
    moved = [(place(b) - place(a)) / 0.01 for a, b in zip(before, after, strict=True)]
    env._control[:] = 0
    _, sensed = env._simulate(after)
    np.testing.assert_allclose(sensed[:, 0], moved, atol=0.1)


def test_what_the_cheetah_sees():
    env, log = roll("cheetah_velocity")
    (before, _, first, *_), (after, _, second, *_) = log[0], log[1]
    for row in range(3):
        # The centre of mass is a step behind, but for the first observation.
        data = data_at(env, before[row])
        mujoco.mj_forward(env.model, data)
        for state, seen in ((before, first), (after, second)):
            expected = np.r_[state[row, 2:], data.subtree_com[1]]
            np.testing.assert_allclose(seen[row], expected, rtol=1e-6, atol=1e-7)
    assert first.shape == (3, 20)


def test_what_the_ant_sees():
    env, log = roll("ant_direction", steps=12)
    touched = 0
    for (before, *_), (after, actions, seen, *_) in zip(log, log[1:], strict=False):
        for row in range(3):
            data = data_at(env, before[row])
            data.ctrl = np.clip(actions[row], -1, 1)
            mujoco.mj_forward(env.model, data)
            mujoco.mj_rnePostConstraint(env.model, data)
            contact = np.clip(data.cfrc_ext, -1, 1).ravel()
            touched += np.count_nonzero(contact)
            expected = np.r_[after[row, 1:], contact, data.xmat[1], data.subtree_com[1]]
            np.testing.assert_allclose(seen[row], expected, rtol=1e-5, atol=1e-6)
    assert seen.shape == (3, 125) and touched > 100


@pytest.mark.parametrize(
    ("dynamics", "timestep", "solimp"),
    [("paper", 0.02, [0.8, 0.8, 0.01]), ("gymnasium", 0.01, [0.9, 0.95, 0.001])],
)
def test_the_ant_s_physics_are_those_of_each_file(dynamics, timestep, solimp):
    model = envs.make_vector("ant_velocity", 1, dynamics=dynamics).model
    assert model.opt.timestep == timestep
    assert model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
    np.testing.assert_allclose(model.geom_solimp[:, :3], np.tile(solimp, (model.ngeom, 1)))
    np.testing.assert_allclose(model.geom_solref, np.tile([0.02, 1.0], (model.ngeom, 1)))


def test_gymnasium_s_dynamics_have_gymnasium_s_observation():
    _, log = roll("cheetah_velocity", dynamics="gymnasium", steps=1)
    state, _, seen, *_ = log[1]
    np.testing.assert_allclose(seen, state[:, 2:], rtol=1e-6)
    assert seen.shape == (3, 17)
    _, log = roll("ant_velocity", dynamics="gymnasium", steps=1)
    state, _, seen, *_ = log[1]
    np.testing.assert_allclose(seen[:, :27], state[:, 3:], rtol=1e-6)
    assert seen.shape == (3, 105)


@pytest.mark.parametrize(
    ("height", "ends"), [(0.15, True), (0.25, False), (0.9, False), (1.1, True)]
)
def test_the_ant_ends_outside_its_heights(height, ends):
    env = envs.make_vector("ant_goal")
    env.reset(seed=0)
    env._state[0, 3] = height
    env._state[0, 16:] = 0.0
    terminated = env.step(np.zeros((1, 8)))[2]
    assert env._state[0, 3] == pytest.approx(height, abs=0.05)
    assert bool(terminated[0]) == ends


def test_the_cheetah_never_ends():
    env = envs.make_vector("cheetah_velocity")
    env.reset(seed=0)
    env._state[0, 2:4] = [1.0, np.pi]  # on its back
    assert not any(env.step(np.ones((1, 6)))[2][0] for _ in range(20))


@pytest.mark.parametrize("name", ["cheetah_velocity", "ant_velocity"])
def test_threads_do_not_change_a_number(name):
    (_, one), (_, two) = (roll(name, num_envs=30, steps=40, threads=t) for t in (1, 2))
    for a, b in zip(one, two, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_episodes_start_from_the_paper_s_noise():
    env = envs.make_vector("ant_velocity", 2000)
    env.reset(seed=0)
    pose = [0, 0, 0.55, 1, 0, 0, 0, 0, 1, 0, -1, 0, -1, 0, 1]
    np.testing.assert_allclose(env._state[:, 1:16].mean(0), pose, atol=0.002)
    np.testing.assert_allclose(env._state[:, 1:16].std(0), 0.01, rtol=0.1)
    np.testing.assert_allclose(env._state[:, 16:].std(0), 0.1, rtol=0.1)


@pytest.mark.parametrize("name", ["cheetah_velocity", "ant_velocity"])
@pytest.mark.parametrize("speed", [1e9, np.inf])
def test_a_simulation_that_blows_up_ends_alone(name, speed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings to a file where it runs
    env = envs.make_vector(name, 3)
    env.reset(seed=0)
    env._state[1, -1] = speed
    observations, rewards, terminated, _, infos = env.step(np.zeros((3, env.action_size)))
    assert infos["diverged"].tolist() == [False, True, False]
    assert terminated.tolist() == [False, True, False] and rewards[1] == 0.0
    assert np.isfinite(observations).all() and np.isfinite(rewards).all()
    observations, rewards, *_ = env.step(np.zeros((3, env.action_size)))
    assert np.isfinite(observations).all() and np.abs(env._state[1]).max() < 10
