"""Train a gate of your own in the environment: a linear policy by REINFORCE, where each call costs a price.

The reward of writing is minus the regret of the student's token, in nats; a call costs the price. Both are immediate,
so each decision is credited with its own reward. Calling always would get minus the price.
"""

import gymnasium
import torch

import wheels.envs

PRICE, ROWS, STEPS = 1.0, 32, 200


def train(env: gymnasium.vector.VectorEnv) -> list[float]:
    """Return the reward of each step, averaged over the rows that wrote."""
    observation, _ = env.reset(seed=0)
    features_BF = torch.as_tensor(observation["features"])
    mean_F, deviation_F = features_BF.mean(0), features_BF.std(0) + 1.0
    gate = torch.nn.Linear(features_BF.shape[1], 1)
    optimizer = torch.optim.Adam(gate.parameters(), lr=3e-3)
    rewards, baseline = [], 0.0
    for _ in range(STEPS):
        call_logit_B = gate((torch.as_tensor(observation["features"]) - mean_F) / deviation_F).squeeze(-1)
        policy = torch.distributions.Bernoulli(logits=call_logit_B)
        action_B = policy.sample()
        observation, reward_B, _, _, info = env.step(action_B.long().numpy())
        acted_B = torch.as_tensor(info["index"] >= 0)
        advantage_B = torch.as_tensor(reward_B, dtype=torch.float32) - baseline
        loss = -(policy.log_prob(action_B) * advantage_B)[acted_B].mean() - 0.02 * policy.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rewards.append(float(torch.as_tensor(reward_B)[acted_B].mean()))
        baseline += 0.05 * (rewards[-1] - baseline)
    return rewards


def main() -> None:
    """Train, and print what was learned."""
    torch.manual_seed(0)
    env = gymnasium.make_vec(wheels.envs.ENV_ID, num_envs=ROWS, budget=1.0, price=PRICE, charge_price=True)
    rewards = train(env)
    quarter = STEPS // 4
    first, last = sum(rewards[:quarter]) / quarter, sum(rewards[-quarter:]) / quarter
    print(f"reward per token, first quarter {first:.3f}, last quarter {last:.3f} nats")


if __name__ == "__main__":
    main()
