"""The textbook reference of the method: plain, eager torch, written from the paper alone.

Paper: Yang and Xie, "Discriminative Cross-Modal Data Augmentation for Medical Imaging
Applications", equations 1-3 and section 4.2. Symbols: y is a source image with label r_s, x a
target image with label r_t, G (g) maps source to target, F (f) target to source, D_s and D_t
(d_s, d_t) are their discriminators, P (predictor) predicts a label from a target-like image.
Where the paper is silent, the CycleGAN authors' settings are followed.
Nothing here may import the package under test. On a GPU the caller has to switch TF32 off.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Fakes = Tensor | Callable[[Tensor], Tensor]
_norm = nn.InstanceNorm2d  # its defaults: no learned scale and shift, no running statistics


class _ResidualBlock(nn.Module):
    """R256 of CycleGAN: x + norm(conv(relu(norm(conv(x))))), 3x3 convs, reflection padding."""

    def __init__(self, n: int) -> None:
        super().__init__()
        first = [nn.ReflectionPad2d(1), nn.Conv2d(n, n, 3), _norm(n), nn.ReLU()]
        second = [nn.ReflectionPad2d(1), nn.Conv2d(n, n, 3), _norm(n)]
        self.body = nn.Sequential(*first, *second)

    def forward(self, image: Tensor) -> Tensor:
        return image + self.body(image)


def reference_generator(
    channels_in: int, channels_out: int, width: int = 64, blocks: int = 9
) -> nn.Sequential:
    """CycleGAN's ResNet generator: c7s1-64, d128, d256, R256 x blocks, u128, u64, c7s1-out."""
    layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(channels_in, width, 7)]
    layers += [_norm(width), nn.ReLU()]
    for n in (width, 2 * width):
        layers += [nn.Conv2d(n, 2 * n, 3, stride=2, padding=1), _norm(2 * n), nn.ReLU()]
    layers += [_ResidualBlock(4 * width) for _ in range(blocks)]
    for n in (2 * width, width):
        layers += [nn.ConvTranspose2d(2 * n, n, 3, stride=2, padding=1, output_padding=1)]
        layers += [_norm(n), nn.ReLU()]
    last = [nn.ReflectionPad2d(3), nn.Conv2d(width, channels_out, 7), nn.Tanh()]
    return nn.Sequential(*layers, *last)


def reference_discriminator(channels_in: int, width: int = 64) -> nn.Sequential:
    """The 70x70 PatchGAN: C64 (without norm), C128, C256, C512 (stride 1), conv to 1 channel."""
    layers = [nn.Conv2d(channels_in, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    for n, stride in ((width, 2), (2 * width, 2), (4 * width, 1)):
        conv = nn.Conv2d(n, 2 * n, 4, stride=stride, padding=1)
        layers += [conv, _norm(2 * n), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, stride=1, padding=1))


@torch.no_grad()
def copy_parameters(source: nn.Module, destination: nn.Module) -> None:
    """Copy parameters, then buffers, in order of registration; names may differ, shapes may not."""
    for kind in ("parameters", "buffers"):
        sources = list(getattr(source, kind)())
        destinations = list(getattr(destination, kind)())
        assert len(sources) == len(destinations), (kind, len(sources), len(destinations))
        for index, (old, new) in enumerate(zip(sources, destinations, strict=True)):
            assert old.shape == new.shape, (kind, index, tuple(old.shape), tuple(new.shape))
            new.copy_(old)


@dataclass
class ReferenceNetworks:
    """The five networks of equation 3."""

    g: nn.Module  # source -> target
    f: nn.Module  # target -> source
    d_s: nn.Module  # real or fake source image
    d_t: nn.Module  # real or fake target image
    predictor: nn.Module  # target-like image -> (batch, 1) standardised value, or (batch, K) logits


@dataclass
class ReferenceResult:
    """What one step computes, all of it at the weights before the step.

    `losses` has adv_t, adv_s, cycle_s (y cycled), cycle_t (x cycled), identity, predict_fake and
    predict_real, each WITHOUT its weight, total (equation 3), and d_s, d_t (with the 0.5).
    `gradients` has those of total for g and f, those of L_pred of standardised labels for the
    predictor, and those of their own loss for d_s, d_t. Among the losses, gradient_ratio is that
    of the Euclidean norms of the gradients of lambda L_pred and of the rest of total at G(y).
    """

    losses: dict[str, float]
    gradients: dict[str, list[Tensor]]  # lists in the order of network.parameters()
    fake_t: Tensor  # G(y), detached
    fake_s: Tensor  # F(x), detached


def _least_squares(judgement: Tensor, wanted: float) -> Tensor:
    """Least-squares GAN loss, averaged over batch and patches."""
    return ((judgement - wanted) ** 2).mean()


def _l1(image: Tensor, other: Tensor) -> Tensor:
    """The L1 norm of equation 1 as CycleGAN takes it: a mean over batch, channels and pixels."""
    return (image - other).abs().mean()


def _label_loss(
    output: Tensor, label: Tensor, label_mean: float, label_std: float, classification: bool
) -> Tensor:
    """The l of equation 2, averaged over the batch."""
    if classification:
        return functional.cross_entropy(output, label)
    prediction = label_mean + label_std * output.reshape(-1)
    assert prediction.shape == label.shape
    return ((prediction - label) ** 2).mean()


def reference_step(
    networks: ReferenceNetworks,
    y: Tensor,
    label_s: Tensor,
    x: Tensor,
    label_t: Tensor,
    *,
    fakes_for_d_t: Fakes,
    fakes_for_d_s: Fakes,
    label_mean: float,
    label_std: float,
    lambda_cycle: float = 10.0,
    lambda_predict: float = 0.001,
    lambda_identity: float = 0.0,
    fake_weight: float = 1.0,
    classification: bool = False,
) -> ReferenceResult:
    """Losses and gradients of one step, equations 1-3, without changing any weight.

    Labels are in their own unit; the prediction is label_mean + label_std * (output of P). With
    `classification` they are class indices, and l is the cross-entropy instead of the squared
    error. P is put in train mode and sees G(y) and x as one batch, in that order, so batch norm
    (whose running statistics this moves once) works on the combined batch. The fakes for D are
    tensors, or functions from the detached G(y) (or F(x)) to such. The identity loss is not in
    the paper; its weight is not multiplied by lambda_cyc; at weight 0 it is reported as 0.
    """
    g, f, predictor = networks.g, networks.f, networks.predictor
    fake_t, fake_s = g(y), f(x)

    # Equation 1: L_trans as G and F see it.
    adv_t = _least_squares(networks.d_t(fake_t), 1.0)
    adv_s = _least_squares(networks.d_s(fake_s), 1.0)
    cycle_s = _l1(f(fake_t), y)
    cycle_t = _l1(g(fake_s), x)
    loss_trans = adv_t + adv_s + lambda_cycle * (cycle_s + cycle_t)
    wanted = lambda_identity != 0.0
    identity = _l1(g(x), x) + _l1(f(y), y) if wanted else torch.zeros_like(cycle_s)

    # Equation 2: L_pred, the sums over the data taken as means over the batch.
    predictor.train()
    output_fake, output_real = predictor(torch.cat([fake_t, x])).split([len(y), len(x)])
    predict_fake = _label_loss(output_fake, label_s, label_mean, label_std, classification)
    predict_real = _label_loss(output_real, label_t, label_mean, label_std, classification)

    # Equation 3, and its gradients. P minimises L_pred whatever lambda is, so that it takes that
    # loss's gradient without lambda, of standardised labels, as a predictor that is trained alone.
    loss_pred = fake_weight * predict_fake + predict_real
    loss_trans = loss_trans + lambda_identity * identity
    total = loss_trans + lambda_predict * loss_pred
    gradients = {}
    for name, network in (("g", g), ("f", f)):
        parameters = list(network.parameters())
        gradients[name] = list(torch.autograd.grad(total, parameters, retain_graph=True))
    alone = loss_pred if classification else loss_pred / label_std**2
    gradients["predictor"] = list(
        torch.autograd.grad(alone, list(predictor.parameters()), retain_graph=True)
    )
    at_fake = [
        torch.autograd.grad(loss, fake_t, retain_graph=True)[0].norm()
        for loss in (lambda_predict * loss_pred, loss_trans)
    ]

    # Equation 1 as the discriminators see it; their fakes come from the image buffer.
    loss_d = {}
    for name, d, real, fake, shown in (
        ("d_s", networks.d_s, y, fake_s, fakes_for_d_s),
        ("d_t", networks.d_t, x, fake_t, fakes_for_d_t),
    ):
        buffered = shown if isinstance(shown, Tensor) else shown(fake.detach())
        loss_d[name] = 0.5 * (_least_squares(d(real), 1.0) + _least_squares(d(buffered), 0.0))
        gradients[name] = list(torch.autograd.grad(loss_d[name], list(d.parameters())))

    losses = {"adv_t": adv_t, "adv_s": adv_s, "cycle_s": cycle_s, "cycle_t": cycle_t}
    losses |= {"identity": identity, "predict_fake": predict_fake, "predict_real": predict_real}
    numbers = {name: loss.item() for name, loss in (losses | {"total": total} | loss_d).items()}
    numbers["gradient_ratio"] = (at_fake[0] / at_fake[1]).item()
    return ReferenceResult(numbers, gradients, fake_t.detach(), fake_s.detach())


class ReferenceAdam:
    """Adam, algorithm 1 of Kingma and Ba (2014); `lr` may be changed between steps."""

    def __init__(
        self,
        parameters: Sequence[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.5, 0.999),
        eps: float = 1e-8,
    ) -> None:
        """Start with both moments at zero; the parameters are changed in place by `step`."""
        self.parameters, self.lr, self.betas, self.eps, self.t = list(parameters), lr, betas, eps, 0
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """One update; gradients in the order of the parameters."""
        self.t += 1
        b1, b2 = self.betas
        for i, (theta, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            self.first[i] = b1 * self.first[i] + (1 - b1) * gradient
            self.second[i] = b2 * self.second[i] + (1 - b2) * gradient**2
            m, v = self.first[i] / (1 - b1**self.t), self.second[i] / (1 - b2**self.t)
            theta -= self.lr * m / (v.sqrt() + self.eps)


def reference_lr(
    epoch: int, base: float, constant_epochs: int = 100, decay_epochs: int = 100
) -> float:
    """Learning rate during epoch number `epoch`, counted from 0.

    CycleGAN's "linear" rule (lambda_rule with epoch_count 1): base * (1 - max(0, epoch + 1 -
    constant_epochs) / (decay_epochs + 1)). Epochs 0..99 train at base, epoch 100 at base * 100/101,
    epoch 199, the last, at base * 1/101; the rate 0 belongs to epoch 200, which is never trained.
    Convention: the scheduler moves after each epoch (where it moves before, it is one ahead).
    """
    return base * max(0.0, 1.0 - max(0, epoch + 1 - constant_epochs) / (decay_epochs + 1))


class ReferenceBuffer:
    """Image buffer of Shrivastava et al. (2017) as CycleGAN uses it, one image at a time."""

    def __init__(self, size: int, coin: Callable[[], float], pick: Callable[[int], int]) -> None:
        """Start empty; coin() is in [0, 1), pick(n) in 0..n-1; neither is asked until full."""
        self.size, self.coin, self.pick = size, coin, pick
        self.images: list[Tensor] = []

    def __call__(self, fakes: Tensor) -> Tensor:
        """The images D sees in place of a batch (N, C, H, W) of fakes.

        Until full: store and return the image. Then: if coin() > 0.5 (as CycleGAN has it), return
        the stored image pick(size) and put the new one in its place; else return the new one.
        """
        shown = []
        for image in fakes.detach().clone():
            if len(self.images) < self.size:
                self.images.append(image)
                shown.append(image)
            elif self.size > 0 and self.coin() > 0.5:
                index = self.pick(self.size)
                shown.append(self.images[index])
                self.images[index] = image
            else:
                shown.append(image)
        return torch.stack(shown)
