"""Any agent of TF-Agents, trained on expected rewards in the place of those that were paid."""

from __future__ import annotations

from typing import Any, NamedTuple

from models.agents.rewards import ActionRewards
from models.frameworks import tf

# TF-Agents imports TensorFlow by itself; the package has chosen Keras 2 by now.
from tf_agents.agents import tf_agent  # isort: skip
from tf_agents.trajectories import trajectory  # isort: skip


class StabilisedLoss(NamedTuple):
    """What a training step says of itself.

    Attributes:
        agent: What the agent says.
        rewards: Mean loss of the expected rewards; 0 where they do not learn.
    """

    agent: Any
    rewards: tf.Tensor


class StabilisedAgent(tf_agent.TFAgent):
    """An agent that learns from E[r | observation, action].

    It is an agent itself, with the policies and specs of the one inside, so drivers, replay buffers and learners take it as they take
    any other. Of every batch, in this order: rewards are expected; the estimator learns from those that were paid; the agent learns from
    those that were expected. Policies are evaluated by the rewards of the environment.

    Args:
        agent: The agent; trained on trajectories whose rewards are those of their steps, so one that rewrites them beforehand
            (`preprocess_sequence`) is refused.
        rewards: The estimator.
        optimizer: Moves the estimator with every batch; None leaves it to `train_rewards`, or as it is.

    Raises:
        ValueError: The agent rewrites its experience before training.

    References:
        Zhang et al. (2023), Model-free Reinforcement Learning with Stochastic Reward Stabilization for Recommender Systems, arXiv
        2308.13246, section 4.1; the variance of a TD target falls by Var(r | s, a), and its bias is that of the estimate.
    """

    def __init__(self, agent: Any, rewards: ActionRewards, optimizer: Any = None):
        if agent.training_data_spec != agent.collect_data_spec:
            raise ValueError(
                f"{type(agent).__name__} is trained on experience that was rewritten beforehand, when its rewards were no longer those of "
                "single steps; let it do that in training (PPO: compute_value_and_advantage_in_train=True)"
            )
        super().__init__(
            agent.time_step_spec,
            agent.action_spec,
            agent.policy,
            agent.collect_policy,
            agent.train_sequence_length,
            train_step_counter=agent.train_step_counter,
        )
        self.agent = agent
        self.rewards = rewards
        self._optimizer = optimizer

    def stabilised(self, experience: Any) -> Any:
        """The trajectories [B, T] with the expected reward of every step, without gradient; between episodes there is none."""
        if not isinstance(experience, trajectory.Trajectory):
            raise ValueError(f"rewards are replaced in trajectories, found {type(experience).__name__}")
        expected = self.rewards.expected(*_flat((experience.observation, experience.action)))
        expected = tf.reshape(tf.stop_gradient(expected), tf.shape(experience.reward))
        return experience._replace(reward=tf.where(experience.is_boundary(), experience.reward, expected))

    def train_rewards(self, experience: Any) -> tf.Tensor:
        """Moves the estimator towards the rewards that were paid; returns its mean loss.

        Raises:
            ValueError: There is no optimiser.
        """
        if self._optimizer is None:
            raise ValueError("the estimator has no optimiser")
        observation, action, reward, between = _flat(
            (experience.observation, experience.action, experience.reward, experience.is_boundary())
        )
        counts = tf.cast(~between, tf.float32)
        variables = self.rewards.trainable_variables
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            losses = self.rewards.losses(observation, action, reward)
            # A step between episodes has no meaning, whatever it says.
            loss = tf.reduce_sum(tf.where(between, 0.0, losses)) / tf.maximum(tf.reduce_sum(counts), 1.0)
        self._optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    def _initialize(self) -> Any:
        return self.agent.initialize()

    def _train(self, experience: Any, weights: Any = None, **kwargs: Any) -> Any:
        expected = self.stabilised(experience)
        of_rewards = self.train_rewards(experience) if self._optimizer is not None else tf.zeros([])
        info = self.agent.train(expected, weights, **kwargs)
        return tf_agent.LossInfo(info.loss, StabilisedLoss(info.extra, of_rewards))

    def _loss(self, experience: Any, weights: Any = None, training: bool = False, **kwargs: Any) -> Any:
        info = self.agent.loss(self.stabilised(experience), weights, training, **kwargs)
        return tf_agent.LossInfo(info.loss, StabilisedLoss(info.extra, tf.zeros([])))


def _flat(tensors: Any) -> Any:
    """[B, T, ...] -> [B T, ...]."""
    return tf.nest.map_structure(lambda tensor: tf.reshape(tensor, tf.concat([[-1], tf.shape(tensor)[2:]], axis=0)), tensors)
