"""A policy of one's own, in one's own training loop.

    python examples/own_policy.py

The policy prunes: every 100 steps it closes the quietest tenth of the hidden units,
those whose incoming and outgoing weights have the smallest product of norms. Needs the
extra `examples`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import growthnet as gn


class PruneQuietest(gn.AbstractPolicy):
    """Closes `share` of the open units of `layers[0]` at each decision."""

    share: float = 0.1
    every: int = eqx.field(static=True, default=100)
    needs: frozenset[str] = eqx.field(static=True, default=frozenset({"network"}))
    optimizer: None = None

    def step(self, trainable, memory, evidence, *, key):
        del key
        first, second = evidence.network.layers
        mask = evidence.open["layers[0]"]
        said = jnp.linalg.norm(first.weight, axis=1)
        heard = jnp.linalg.norm(second.weight, axis=0)
        loudness = jnp.where(mask, said * heard, jnp.inf)
        going = jnp.floor(self.share * mask.sum())
        rank = jnp.argsort(jnp.argsort(loudness))
        change = gn.Change(mask & (rank >= going), 0)
        return gn.Decision({"layers[0]": change}), trainable, memory, {}


def loss_fn(model, x, y):
    logits = jax.vmap(model)(x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def accuracy(model, x, y):
    return (jax.vmap(model)(x).argmax(axis=-1) == y).mean()


def main(steps: int = 2_000) -> eqx.nn.MLP:
    images, labels = load_digits(return_X_y=True)
    x, y = jnp.asarray(images / 16, "float32"), jnp.asarray(labels, "int32")
    x, y, x_test, y_test = x[:1000], y[:1000], x[1000:], y[1000:]
    key = jax.random.key(0)
    model = eqx.nn.MLP(64, 10, width_size=64, depth=1, key=key)
    optim = gn.Grower(PruneQuietest(), optax.adam(1e-3))
    model, state = optim.init(model, gn.trace(model, x[0]), key=key)

    @eqx.filter_jit
    def train(model, state, x, y):
        loss, grads = eqx.filter_value_and_grad(optim.loss(loss_fn, state))(model, x, y)
        model, state = optim.step(model, grads, state)
        return model, state, loss

    for step in range(1, steps + 1):
        model, state, loss = train(model, state, x, y)
        model, state = optim.resize(model, state)
        if step % (steps // 5) == 0:
            units = int(model.open["layers[0]"].sum())
            right = 100 * float(accuracy(model, x_test, y_test))
            print(
                f"step {step:5}  units {units:3}  loss {loss:.3f}  test {right:.1f} %"
            )
    net = model.compact()
    print(f"compact: {net.layers[0].out_features} hidden units")
    return net


if __name__ == "__main__":
    main()
