import pytest
import torch

from wheels.decoding.step import regret
from wheels.envs.rewards import logprob_reward, needs_teacher, regret_reward, token_reward
from wheels.policy.features import LOG_FLOOR

# Rows: an ordinary state, a token the teacher thinks impossible, the teacher's best token, a call.
P_BV = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0], [0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])
TOKEN_B = torch.tensor([1, 2, 0, 1])
CALLED_B = torch.tensor([False, False, False, True])


def test_logprob_is_the_teachers_floored_and_nothing_for_a_call() -> None:
    expected_B = torch.tensor([-1.2039728, LOG_FLOOR, -0.3566749, 0.0])
    torch.testing.assert_close(logprob_reward(P_BV.log(), TOKEN_B, CALLED_B), expected_B)


def test_regret_is_what_the_token_lost_against_the_best() -> None:
    expected_B = torch.tensor([-0.5108256, LOG_FLOOR, 0.0, 0.0])
    torch.testing.assert_close(regret_reward(P_BV.log(), TOKEN_B, CALLED_B), expected_B)


def test_regret_of_a_greedy_student_is_the_engines() -> None:
    log_p_BV, log_q_BV = torch.randn(50, 9).log_softmax(-1), torch.randn(50, 9).log_softmax(-1)
    own_B = regret_reward(log_p_BV, log_q_BV.argmax(-1), torch.zeros(50, dtype=torch.bool))
    torch.testing.assert_close(own_B, -regret(log_p_BV, log_q_BV))


def test_crediting_the_sampled_token_would_pay_for_confidence() -> None:
    # The wrong credit (a) favours the call where the teacher is sure; ours is the same for both.
    log_p_BV = torch.tensor([[0.98, 0.01, 0.01], [0.4, 0.3, 0.3]]).log()
    called_B, token_B = torch.tensor([True, True]), torch.tensor([0, 0])
    ours_B = logprob_reward(log_p_BV, token_B, called_B)
    wrong_B = logprob_reward(log_p_BV, token_B, ~called_B)
    assert ours_B.tolist() == [0.0, 0.0]
    assert wrong_B[0] - wrong_B[1] > 0.5


def test_parts_add_up() -> None:
    both_B = token_reward(("logprob", "regret", "terminal"), P_BV.log(), TOKEN_B, CALLED_B)
    torch.testing.assert_close(both_B, torch.tensor([-1.7147984, 2 * LOG_FLOOR, -0.3566749, 0.0]))
    assert token_reward(("terminal",), None, TOKEN_B, CALLED_B).tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("parts", "expected"), [(("terminal",), False), (("regret",), True), (("logprob", "terminal"), True)]
)
def test_the_teacher_reads_only_for_token_rewards(parts: tuple[str, ...], expected: bool) -> None:
    assert needs_teacher(parts) is expected
