"""Device: rules that make one distribution of several, in NumPy's words."""

import jax.numpy as jnp
import numpy as np
import pytest

from byteprob import pooling

WEIGHTS = np.array([0.2, 0.5, 0.3])


def rows(seed: int = 0) -> np.ndarray:
  """Three members' probabilities of five symbols; some are impossible."""
  found = np.random.default_rng(seed).dirichlet(np.ones(5), 3)
  found[0, 1] = found[1, 1] = found[1, 3] = found[2, 2] = 0
  return found / found.sum(1, keepdims=True)


def logs(values) -> np.ndarray:
  with np.errstate(divide="ignore"):
    return np.log(np.asarray(values, np.float64))


def pool(rule, shares=WEIGHTS, members=None) -> np.ndarray:
  """Probabilities that a rule gives, normalized."""
  told = rows() if members is None else np.asarray(members)
  made = pooling.Pool(rule=rule, follows=False, temperatures=(1.0,) * len(told))
  return np.exp(
    pooling.combine(
      made,
      jnp.asarray(logs(told), jnp.float32),
      jnp.asarray(logs(shares), jnp.float32),
    )
  )


def near(found, wanted):
  found, wanted = np.asarray(found), np.asarray(wanted)
  assert not np.isnan(found).any()
  np.testing.assert_array_equal(found == 0, wanted == 0)
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_rules_are_what_they_say():
  p = rows()
  near(pool(pooling.mixture), WEIGHTS @ p)
  powers = np.prod(p ** WEIGHTS[:, None], axis=0)
  near(pool(pooling.product), powers / powers.sum())
  # Base, expert, anti-expert. The anti-expert has nothing for the third, and
  # the base nothing for the second.
  with np.errstate(divide="ignore"):
    tuned = np.where(p[2] == 0, p[0], p[0] * p[1] ** 2 / p[2] ** 2)
  near(pool(pooling.proxy, np.array([1.0, 2.0, 2.0])), tuned / tuned.sum())


def test_of_what_the_anti_expert_cannot_spell_the_base_decides():
  base, expert = [0.5, 0.25, 0.25], [0.0, 0.5, 0.5]
  anti = [0.0, 0.0, 1.0]
  found = pool(pooling.proxy, np.ones(3), [base, expert, anti])
  wanted = np.array([0.5, 0.25, 0.125])
  near(found, wanted / wanted.sum())
  # An expert that is out forbids all that the anti-expert knows of.
  found = pool(pooling.proxy, np.ones(3), [base, [0.0] * 3, anti])
  near(found, [2 / 3, 1 / 3, 0])


def test_votes():
  members = [[0.4, 0.35, 0.25], [0.1, 0.2, 0.7], [0.6, 0.1, 0.3]]
  # The first has two votes, whatever the mean says.
  near(pool(pooling.vote, np.ones(3) / 3, members), [1, 0, 0])
  # One each: the mean decides between the two, not on the third.
  tie = pool(pooling.vote, np.ones(2) / 2, members[:2])
  wanted = np.array([0.5, 0, 0.95])
  near(tie, wanted / wanted.sum())
  # One that is out has no vote.
  near(pool(pooling.vote, [0.2, 0.8], [members[0], [0.0] * 3]), [1, 0, 0])


def test_ranks():
  members = [[0.5, 0.3, 0.2, 0.0], [0.1, 0.9, 0.0, 0.0]]
  value = [0.75 + 0.25 / 2, 0.75 / 2 + 0.25, 0.75 / 3, 0]
  near(pool(pooling.rank, [0.75, 0.25], members), np.array(value) / sum(value))


def test_a_member_that_is_out():
  p = rows()
  p[1] = 0
  rest = np.array([0.2, 0, 0.3]) / 0.5
  near(pool(pooling.mixture, members=p), rest @ p)
  assert not pool(pooling.product, members=p).any()
  assert not pool(pooling.mixture, members=np.zeros((3, 5))).any()


@pytest.mark.parametrize("rule", [pooling.mixture, pooling.product])
def test_one_model_with_itself_is_that_model(rule):
  p = rows()[:1]
  near(pool(rule, members=np.repeat(p, 3, axis=0)), p[0])


def test_shares_follow_likelihoods():
  told, byte = np.stack([rows(k) for k in range(3)]), np.array([0, 4, 3])
  made = pooling.Pool(
    rule=pooling.mixture, follows=True, temperatures=(1.0,) * 3
  )
  found = pooling.shares(
    made,
    jnp.asarray(logs(WEIGHTS), jnp.float32)[None],
    jnp.asarray(logs(told), jnp.float32)[None],
    jnp.asarray(byte)[None],
  )
  share, wanted = WEIGHTS, [WEIGHTS]
  for row, symbol in zip(told, byte, strict=True):
    share = share * row[:, symbol]
    share /= share.sum()
    wanted.append(share)
  # The second member has nothing for the last.
  assert share[1] == 0
  near(np.exp(found[0]), wanted)


def test_temperatures():
  p = rows()
  made = pooling.Pool(
    rule=pooling.mixture, follows=False, temperatures=(1.0, 0.5, 2.0)
  )
  found = pooling.apply_temperature(
    made, list(jnp.asarray(logs(p), jnp.float32))
  )
  wanted = p ** np.array([1, 2, 0.5])[:, None]
  near(np.exp(found), wanted / wanted.sum(1, keepdims=True))
