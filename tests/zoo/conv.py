"""Convolutions: 1 to 3 dimensions, strided, dilated, transposed, grouped, pooled."""

import equinox as eqx
import jax
import jax.nn as jnn
import jax.numpy as jnp
import jax.random as jr

from ._model import free, Model, register, rigid


@register(a=4, b=4, h=4)
def classifier(a: int = 5, b: int = 7, h: int = 11) -> Model:
    """Convolution, pooling, flatten into a dense layer: C x H x W."""

    def make(key):
        keys = jr.split(key, 4)
        return eqx.nn.Sequential(
            [
                eqx.nn.Conv2d(1, a, 3, key=keys[0]),
                eqx.nn.Lambda(jnn.relu),
                eqx.nn.MaxPool2d(2, stride=2),
                eqx.nn.Conv2d(a, b, 3, padding=1, key=keys[1]),
                eqx.nn.Lambda(jnn.relu),
                eqx.nn.AvgPool2d(2, stride=1),
                eqx.nn.Lambda(jnp.ravel),
                eqx.nn.Linear(4 * b, h, key=keys[2]),
                eqx.nn.Lambda(jnn.relu),
                eqx.nn.Linear(h, 2, key=keys[3]),
            ]
        )

    widths = {"layers[0]": free(a), "layers[3]": free(b), "layers[7]": free(h)}
    return Model(make, ((1, 8, 8),), widths)


class WaveBlock(eqx.Module):
    dilated: eqx.nn.Conv1d
    stay: eqx.nn.Conv1d
    skip: eqx.nn.Conv1d

    def __init__(self, d, h, s, dilation, *, key):
        keys = jr.split(key, 3)
        self.dilated = eqx.nn.Conv1d(
            d, 2 * h, 2, padding=[(dilation, 0)], dilation=dilation, key=keys[0]
        )
        self.stay = eqx.nn.Conv1d(h, d, 1, key=keys[1])
        self.skip = eqx.nn.Conv1d(h, s, 1, key=keys[2])

    def __call__(self, x):
        a, b = jnp.split(self.dilated(x), 2)
        h = jnp.tanh(a) * jnn.sigmoid(b)
        return x + self.stay(h), self.skip(h)


class WaveNet(eqx.Module):
    stem: eqx.nn.Conv1d
    blocks: list[WaveBlock]
    head: eqx.nn.Conv1d

    def __init__(self, d, h, s, *, key):
        keys = jr.split(key, 4)
        self.stem = eqx.nn.Conv1d(1, d, 1, key=keys[0])
        self.blocks = [
            WaveBlock(d, h, s, 1, key=keys[1]),
            WaveBlock(d, h, s, 2, key=keys[2]),
        ]
        self.head = eqx.nn.Conv1d(s, 2, 1, key=keys[3])

    def __call__(self, x):
        x = self.stem(x)
        skips = []
        for block in self.blocks:
            x, skip = block(x)
            skips.append(skip)
        return self.head(jnn.relu(sum(skips)))


@register(d=4, h=4, s=4)
def wavenet(d: int = 3, h: int = 5, s: int = 7) -> Model:
    """Dilated convolutions with gates, a stream and skips."""
    widths = {
        "stem": free(d),
        "blocks[0].dilated": free(h),
        "blocks[0].skip": free(s),
        "blocks[1].dilated": free(h),
    }
    return Model(lambda key: WaveNet(d, h, s, key=key), ((1, 9),), widths)


@register(a=3, b=3)
def volumes(a: int = 3, b: int = 5) -> Model:
    """Three dimensions, strides, global average pooling."""

    def make(key):
        keys = jr.split(key, 3)
        return eqx.nn.Sequential(
            [
                eqx.nn.Conv3d(2, a, 2, stride=2, key=keys[0]),
                eqx.nn.Lambda(jnp.tanh),
                eqx.nn.Conv3d(a, b, 2, key=keys[1]),
                eqx.nn.Lambda(jnp.tanh),
                eqx.nn.Lambda(lambda x: jnp.mean(x, axis=(1, 2, 3))),
                eqx.nn.Linear(b, 2, key=keys[2]),
            ]
        )

    widths = {"layers[0]": free(a), "layers[2]": free(b)}
    return Model(make, ((2, 6, 5, 6),), widths)


@register(a=4, b=4)
def transposed(a: int = 3, b: int = 5) -> Model:
    """Down by strides, up by transposed convolutions."""

    def make(key):
        keys = jr.split(key, 4)
        return eqx.nn.Sequential(
            [
                eqx.nn.Conv2d(1, a, 3, stride=2, padding=1, key=keys[0]),
                eqx.nn.Lambda(jnn.gelu),
                eqx.nn.ConvTranspose2d(a, b, 4, stride=2, padding=1, key=keys[1]),
                eqx.nn.Lambda(jnn.gelu),
                eqx.nn.Conv2d(b, 1, 1, use_bias=False, key=keys[2]),
            ]
        )

    widths = {"layers[0]": free(a), "layers[2]": free(b)}
    return Model(make, ((1, 6, 6),), widths)


@register(c=2, m=2, b=4)
def depthwise_separable(c: int = 3, m: int = 2, b: int = 5) -> Model:
    """Every channel convolved `m` times by itself, then mixed."""

    def make(key):
        keys = jr.split(key, 4)
        return eqx.nn.Sequential(
            [
                eqx.nn.Conv2d(1, c, 2, key=keys[0]),
                eqx.nn.Lambda(jnn.relu),
                eqx.nn.Conv2d(c, c * m, 3, groups=c, key=keys[1]),
                eqx.nn.Lambda(jnn.relu),
                eqx.nn.Conv2d(c * m, b, 1, key=keys[2]),
                eqx.nn.Lambda(jnn.relu),
                eqx.nn.Conv2d(b, 1, 1, key=keys[3]),
            ]
        )

    widths = {"layers[0]": free(c), "layers[2]": free(m), "layers[4]": free(b)}
    return Model(make, ((1, 6, 6),), widths)


@register(g=2, i=2, o=2)
def grouped(g: int = 3, i: int = 2, o: int = 5) -> Model:
    """Groups of channels: how many, and how many channels in and out of each."""

    def make(key):
        keys = jr.split(key, 3)
        return eqx.nn.Sequential(
            [
                eqx.nn.Conv1d(1, g * i, 2, key=keys[0]),
                eqx.nn.Lambda(jnp.tanh),
                eqx.nn.Conv1d(g * i, g * o, 3, groups=g, key=keys[1]),
                eqx.nn.Lambda(jnp.tanh),
                eqx.nn.Conv1d(g * o, 2, 1, key=keys[2]),
            ]
        )

    widths = {"layers[0]": free(g), "layers[0]/1": free(i), "layers[2]": free(o)}
    return Model(make, ((1, 7),), widths)


class ResidualBlock(eqx.Module):
    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    shortcut: eqx.nn.Conv2d | None

    def __init__(self, n, h, m, stride, *, key):
        keys = jr.split(key, 3)
        self.first = eqx.nn.Conv2d(n, h, 3, stride, padding=1, key=keys[0])
        self.second = eqx.nn.Conv2d(h, m, 3, padding=1, key=keys[1])
        self.shortcut = (
            None
            if n == m and stride == 1
            else eqx.nn.Conv2d(n, m, 1, stride, use_bias=False, key=keys[2])
        )

    def __call__(self, x):
        y = self.second(jnn.relu(self.first(x)))
        return jnn.relu(y + (x if self.shortcut is None else self.shortcut(x)))


@register(a=4, h=4, b=4)
def resnet(a: int = 3, h: int = 5, b: int = 7) -> Model:
    """Residual blocks, one of them with a strided shortcut, and a mean over places."""

    def make(key):
        keys = jr.split(key, 4)
        return eqx.nn.Sequential(
            [
                eqx.nn.Conv2d(1, a, 3, padding=1, key=keys[0]),
                eqx.nn.Lambda(ResidualBlock(a, h, a, 1, key=keys[1])),
                eqx.nn.Lambda(ResidualBlock(a, h, b, 2, key=keys[2])),
                eqx.nn.Lambda(lambda x: jnp.mean(x, axis=(1, 2))),
                eqx.nn.Linear(b, 2, key=keys[3]),
            ]
        )

    widths = {
        "layers[0]": free(a),
        "layers[1].fn.first": free(h),
        "layers[2].fn.first": free(h),
        "layers[2].fn.second": free(b),
    }
    return Model(make, ((1, 6, 6),), widths)


class UNet(eqx.Module):
    down: eqx.nn.Conv2d
    bottom: eqx.nn.Conv2d
    up: eqx.nn.ConvTranspose2d
    merge: eqx.nn.Conv2d
    out: eqx.nn.Conv2d

    def __init__(self, a, b, c, e, *, key):
        keys = jr.split(key, 5)
        self.down = eqx.nn.Conv2d(1, a, 3, padding="SAME", key=keys[0])
        self.bottom = eqx.nn.Conv2d(a, b, 3, padding="SAME", key=keys[1])
        self.up = eqx.nn.ConvTranspose2d(b, c, 2, stride=2, key=keys[2])
        self.merge = eqx.nn.Conv2d(a + c, e, 3, padding="SAME", key=keys[3])
        self.out = eqx.nn.Conv2d(e, 1, 1, key=keys[4])

    def __call__(self, x):
        skip = jnn.silu(self.down(x))
        low = eqx.nn.MaxPool2d(2, 2)(skip)
        low = jnn.silu(self.bottom(low))
        high = jnp.concatenate([skip, self.up(low)])
        return self.out(jnn.silu(self.merge(high)))


@register(a=4, b=4, c=4, e=4)
def unet(a: int = 3, b: int = 5, c: int = 2, e: int = 7) -> Model:
    """Pooled, brought back up, and put beside what was skipped."""
    widths = {
        "down": free(a),
        "bottom": free(b),
        "up": free(c),
        "merge": free(e),
    }
    return Model(lambda key: UNet(a, b, c, e, key=key), ((1, 6, 6),), widths)


class DenseNet(eqx.Module):
    stem: eqx.nn.Conv2d
    layers: list[eqx.nn.Conv2d]
    transition: eqx.nn.Conv2d
    head: eqx.nn.Linear

    def __init__(self, a, k, t, *, key):
        keys = jr.split(key, 5)
        self.stem = eqx.nn.Conv2d(1, a, 3, padding=1, key=keys[0])
        self.layers = [
            eqx.nn.Conv2d(a + i * k, k, 3, padding=1, key=keys[1 + i]) for i in range(2)
        ]
        self.transition = eqx.nn.Conv2d(a + 2 * k, t, 1, key=keys[3])
        self.head = eqx.nn.Linear(t, 2, key=keys[4])

    def __call__(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = jnp.concatenate([x, layer(jnn.relu(x))])
        x = jnn.relu(self.transition(x))
        x = eqx.nn.AvgPool2d(2, 2)(x)
        return self.head(jnp.max(x, axis=(1, 2)))


@register(a=3, k=3, t=3)
def densenet(a: int = 3, k: int = 2, t: int = 5) -> Model:
    """Every layer reads all before it."""
    widths = {
        "stem": free(a),
        "layers[0]": free(k),
        "layers[1]": free(k),
        "transition": free(t),
    }
    return Model(lambda key: DenseNet(a, k, t, key=key), ((1, 4, 4),), widths)


class SqueezeExcite(eqx.Module):
    stem: eqx.nn.Conv2d
    squeeze: eqx.nn.Linear
    excite: eqx.nn.Linear
    head: eqx.nn.Conv2d

    def __init__(self, c, h, *, key):
        keys = jr.split(key, 4)
        self.stem = eqx.nn.Conv2d(1, c, 3, key=keys[0])
        self.squeeze = eqx.nn.Linear(c, h, key=keys[1])
        self.excite = eqx.nn.Linear(h, c, key=keys[2])
        self.head = eqx.nn.Conv2d(c, 2, 1, key=keys[3])

    def __call__(self, x):
        x = jnn.relu(self.stem(x))
        pooled = jnp.mean(x, axis=(-2, -1))
        gates = jnn.sigmoid(self.excite(jnn.relu(self.squeeze(pooled))))
        return self.head(x * gates[:, None, None])


@register(c=3, h=3)
def squeeze_excite(c: int = 5, h: int = 2) -> Model:
    """Channels that are turned up and down by what they hold on average."""
    widths = {"stem": free(c), "squeeze": free(h)}
    return Model(lambda key: SqueezeExcite(c, h, key=key), ((1, 5, 5),), widths)


class PixelShuffle(eqx.Module):
    stem: eqx.nn.Conv2d
    up: eqx.nn.Conv2d
    out: eqx.nn.Conv2d
    factor: int = eqx.field(static=True)

    def __init__(self, a, c, factor, *, key):
        keys = jr.split(key, 3)
        self.stem = eqx.nn.Conv2d(1, a, 3, padding=1, key=keys[0])
        self.up = eqx.nn.Conv2d(a, c * factor**2, 1, key=keys[1])
        self.out = eqx.nn.Conv2d(c, 1, 3, padding=1, key=keys[2])
        self.factor = factor

    def __call__(self, x):
        x = self.up(jnp.tanh(self.stem(x)))
        r, (_, height, width) = self.factor, x.shape
        x = x.reshape(-1, r, r, height, width).transpose(0, 3, 1, 4, 2)
        x = x.reshape(-1, height * r, width * r)
        return self.out(jnp.tanh(x))


@register(a=2, c=2)
def pixel_shuffle(a: int = 3, c: int = 5) -> Model:
    """Channels that become places: their count can change, the places can't."""
    place = rigid(2, "slides a window")
    widths = {"stem": free(a), "up": free(c), "up/1": place, "up/2": place}
    return Model(lambda key: PixelShuffle(a, c, 2, key=key), ((1, 4, 4),), widths)


class Upsampler(eqx.Module):
    stem: eqx.nn.Conv2d
    out: eqx.nn.Conv2d

    def __init__(self, c, *, key):
        first, last = jr.split(key)
        self.stem = eqx.nn.Conv2d(1, c, 3, padding=1, key=first)
        self.out = eqx.nn.Conv2d(c, 1, 3, padding=1, key=last)

    def __call__(self, x):
        x = jnp.tanh(self.stem(x))
        twice = (x.shape[0], 2 * x.shape[1], 2 * x.shape[2])
        x = jax.image.resize(x, twice, "nearest")
        return self.out(jnp.pad(x, ((0, 0), (1, 0), (1, 0)), mode="reflect"))


@register(c=4)
def upsampler(c: int = 5) -> Model:
    """Resized by interpolation, padded by reflection."""
    return Model(lambda key: Upsampler(c, key=key), ((1, 4, 4),), {"stem": free(c)})
