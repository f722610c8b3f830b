"""`dgym.make`: the loop driven by hand gives what `run_episode` gives."""

import pytest

import dgym
from dgym.core import Budget, Example, Rules
from dgym.errors import DgymError, UsageError
from dgym.fakes import FakeDomain

DOMAIN = FakeDomain()
RULES = Rules(iterations=3, budget=Budget(20))


@pytest.fixture
def gym():
    made = dgym.make("open-ended", "fake", "fake:a", rules=RULES)
    yield made
    made.close()


def batch(iteration):
    return DOMAIN.fresh("add", 20, iteration)


def test_rewards_add_up_to_the_gain(gym, play, scripted):
    def writer(brief, item):
        return batch(next(rounds))

    rounds = iter(range(3))
    steps = play(scripted(writer=writer), iterations=3, budget=20).steps
    gym.reset()
    rewards = [gym.step(batch(i))[1] for i in range(3)]
    assert sum(rewards) == pytest.approx(steps[-1].selection.score - steps[0].selection.score)
    assert sum(rewards) > 0


def test_a_step_tells_state_reward_done_and_why(gym):
    state = gym.reset()
    assert (state.iteration, state.examples_left, len(state.observations)) == (0, 20, 80)
    state, _reward, done, info = gym.step([*batch(0)[:5], Example("add 1 1", "3"), Example("", "")])
    assert (state.iteration, state.examples_left, done) == (1, 20, False)
    assert info["kept"] == 5
    assert info["rejected"] == {"malformed": 1, "incorrect": 1}
    assert info["score"] == state.score
    assert set(info["seconds"]) >= {"gate", "train", "answer"}
    assert gym.step([])[1] == 0


def test_the_end_is_the_end(gym):
    with pytest.raises(DgymError, match=r"Call reset\(\) first"):
        gym.step([])
    gym.reset()
    assert [gym.step([])[2] for _ in range(3)] == [False, False, True]
    with pytest.raises(DgymError, match="episode is over"):
        gym.step([])


def test_a_reset_forgets(gym):
    first = gym.reset()
    gym.step(batch(0))
    assert gym.reset() == first
    assert gym.step(batch(0))[3]["kept"] == 20, "the gate forgot them too"


def test_the_budget_counts(gym):
    gym.reset()
    info = gym.step(DOMAIN.fresh("add", 25, 0))[3]
    assert (info["kept"], info["rejected"]) == (20, {"over-budget": 5})


def test_the_brief_is_known_from_the_start(gym):
    assert (gym.brief.domain, gym.brief.environment, gym.brief.budget) == ("fake", "open-ended", RULES.budget)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("open", "fake", "fake"), "no environment named 'open'. Did you mean 'open-ended'"),
        (("open-ended", "fak", "fake"), "Did you mean 'fake'"),
        (("open-ended", "fake", "fale"), "Did you mean 'fake'"),
        (("open-ended", "fake", "fake:q"), "no variant of fake"),
    ],
)
def test_wrong_names_are_one_line(names, message):
    with pytest.raises(UsageError, match=message):
        dgym.make(*names)
