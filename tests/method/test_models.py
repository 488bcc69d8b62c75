"""Networks, head, device and model folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import reference
import tiny
from medxlate.artifacts.folder import load_generator, load_predictor
from medxlate.artifacts.info import SCHEMA_VERSION, ModelInfo, read_model
from medxlate.base import device as device_module
from medxlate.base.device import Compute, choose_compute
from medxlate.base.errors import ConfigError, ModelError, UsageError
from medxlate.base.events import Event, Warned
from medxlate.config import Skip, Upsample, resolve
from medxlate.method import cpu_kernels as winograd_module
from medxlate.method.cpu_kernels import accelerate, winograd
from medxlate.method.discriminator import Discriminator, most_layers, receptive_field
from medxlate.method.generator import Generator, default_blocks
from medxlate.method.label_transform import LabelTransform, fit_label_transform
from medxlate.method.predictor import PredictorNetwork
from medxlate.method.registry import translator_networks
from medxlate.method.translator import TranslatorNetworks


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def images(n: int, channels: int = 1, size: int = 32, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, size, size, generator=random) * 2 - 1


# Generator and discriminator


def test_cyclegan_has_the_published_numbers_of_parameters():
    """11.378 M and 2.765 M, as the CycleGAN authors' code prints them for colour images."""
    assert count(Generator(width=64, blocks=9, channels=3)) == 11_378_179
    assert count(Discriminator(width=64, channels=3)) == 2_764_737


def test_there_are_as_many_blocks_as_cyclegan_has():
    assert [default_blocks(size) for size in (64, 128, 132, 256)] == [6, 6, 9, 9]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 36)])
def test_the_generator_keeps_the_shape_and_stays_within_the_range(height: int, width: int):
    network = Generator(width=8, blocks=1)
    with torch.no_grad():
        network.layers[-2].weight.mul_(1000)  # far beyond what tanh lets through
        output = network(images(2, size=48)[:, :, :height, :width])
    assert output.shape == (2, 1, height, width)
    assert output.min() >= -1
    assert output.max() <= 1
    assert output.min() < -0.99  # the range is used
    assert output.max() > 0.99


def test_the_discriminator_returns_a_map_of_judgements():
    assert Discriminator(width=8)(images(2, size=64)).shape == (2, 1, 6, 6)


def test_the_discriminator_judges_patches_of_70_pixels():
    network = Discriminator(width=4)
    for index, layer in enumerate(network.layers):  # instance norm sees the whole image
        if isinstance(layer, nn.InstanceNorm2d):
            network.layers[index] = nn.Identity()
    image = images(1, size=128).requires_grad_()
    network(image)[0, 0, 7, 7].backward()
    assert image.grad is not None
    rows = image.grad[0, 0].abs().sum(1).nonzero().flatten()
    columns = image.grad[0, 0].abs().sum(0).nonzero().flatten()
    assert (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1) == (70, 70)


@pytest.mark.parametrize(("layers", "side"), [(1, 16), (2, 34), (3, 70), (4, 142)])
def test_fewer_layers_judge_smaller_patches(layers: int, side: int):
    """Measured: how far a judgement's gradient reaches."""
    assert receptive_field(layers) == side
    network = Discriminator(width=4, layers=layers)
    for index, layer in enumerate(network.layers):
        if isinstance(layer, nn.InstanceNorm2d):
            network.layers[index] = nn.Identity()
    image = images(1, size=256).requires_grad_()
    judged = network(image)
    middle = judged.shape[2] // 2
    judged[0, 0, middle, middle].backward()
    assert image.grad is not None
    rows = image.grad[0, 0].abs().sum(1).nonzero().flatten()
    assert rows[-1] - rows[0] + 1 == side


@pytest.mark.parametrize("size", [32, 64, 128])
def test_the_deepest_discriminator_still_compares_patches(size: int):
    most = most_layers(size)
    assert min(Discriminator(width=4, layers=most)(images(1, size=size)).shape[2:]) >= 2
    with pytest.raises(ConfigError, match=f"discriminator_layers to {most} or less"):
        translator_networks(resolve(sets=[f"model.discriminator_layers={most + 1}"]), size)


# Generators that begin at their input


@pytest.mark.parametrize("upsample", ["transposed", "nearest", "bilinear"])
@pytest.mark.parametrize("skip", ["none", "global", "unet", "both"])
def test_a_global_skip_begins_at_the_input_and_learns(skip: Skip, upsample: Upsample):
    torch.manual_seed(0)
    network = Generator(width=8, blocks=1, skip=skip, upsample=upsample)
    image = F.interpolate(images(2, size=8), size=32, mode="bilinear")
    began = network(image)
    assert began.shape == image.shape
    if skip in ("global", "both"):
        torch.testing.assert_close(began, 0.97 * image, atol=1e-6, rtol=0)
    else:
        assert (began - image).abs().mean() > 0.1
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    errors = []
    for _ in range(60):  # to its negative
        loss = (network(image) + image).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    assert errors[-1] < 0.75 * errors[0]


def test_interpolation_leaves_no_checkerboard():
    """Of a constant image with constant features the output is constant away from the border."""
    spread = {}
    for upsample in ("transposed", "nearest", "bilinear"):
        torch.manual_seed(0)
        network = Generator(width=8, blocks=0, upsample=upsample)
        for index, layer in enumerate(network.layers):
            if isinstance(layer, nn.InstanceNorm2d):
                network.layers[index] = nn.Identity()
        randomise(network)
        inner = network(torch.full((1, 1, 64, 64), 0.3))[0, 0, 20:-20, 20:-20]
        spread[upsample] = float(inner.detach().std())
    assert spread["transposed"] > 1e-3
    assert max(spread["nearest"], spread["bilinear"]) < 1e-5


@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
def test_the_generator_with_skips_is_a_plain_u_net(upsample: Upsample):
    """The same weights in a forward pass that is written out."""
    network = Generator(width=4, blocks=1, skip="both", upsample=upsample)
    randomise(network)
    image, w = images(2), dict(network.named_parameters())

    def conv(x: Tensor, name: str, **options: int) -> Tensor:
        return F.conv2d(x, w[f"layers.{name}.weight"], w[f"layers.{name}.bias"], **options)

    def norm_relu(x: Tensor) -> Tensor:
        return F.relu(F.instance_norm(x))

    def wide(x: Tensor) -> Tensor:
        return F.pad(x, (3, 3, 3, 3), mode="reflect")

    def double(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode=upsample)

    full = norm_relu(conv(wide(image), "1"))
    half = norm_relu(conv(full, "4", stride=2, padding=1))
    deep = norm_relu(conv(half, "7", stride=2, padding=1))
    inner = norm_relu(conv(F.pad(deep, (1, 1, 1, 1), mode="reflect"), "10.layers.1"))
    inner = F.instance_norm(conv(F.pad(inner, (1, 1, 1, 1), mode="reflect"), "10.layers.5"))
    up = norm_relu(conv(double(deep + inner), "11.1", padding=1))
    up = norm_relu(conv(double(torch.cat([up, half], 1)), "14.1", padding=1))
    wanted = conv(wide(torch.cat([up, full], 1)), "18") + torch.atanh(0.97 * image)
    torch.testing.assert_close(network(image), torch.tanh(wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "make", [lambda: Generator(width=32, blocks=2), lambda: Discriminator(width=32)]
)
def test_weights_begin_as_a_normal_distribution_of_deviation_002(make: Callable[[], nn.Module]):
    torch.manual_seed(1)
    network = make()
    for layer in network.modules():
        if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            continue
        weight = layer.weight.detach().double().flatten()
        scatter = 5 * 0.02 / math.sqrt(weight.numel())  # five standard errors
        assert abs(weight.mean()) < scatter
        assert abs(weight.std() - 0.02) < scatter / math.sqrt(2)
        assert layer.bias is not None
        assert not layer.bias.any()
        if weight.numel() > 10_000:  # a uniform distribution of that deviation has 1.8
            assert (weight / 0.02).pow(4).mean() == pytest.approx(3, rel=0.15)


def accelerated(network: nn.Module) -> nn.Module:
    """Return a network with the processor's layers; those that it has become others, or none."""
    before = [type(layer) for layer in network.modules()]
    names = list(network.state_dict())
    accelerate(network)
    assert [type(layer) for layer in network.modules()] != before
    assert list(network.state_dict()) == names
    return network


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(("width", "blocks", "channels"), [(8, 2, 1), (4, 3, 3)])
def test_the_generator_is_the_references(width: int, blocks: int, channels: int, fast: bool):
    ours = Generator(width=width, blocks=blocks, channels=channels)
    ours = accelerated(ours) if fast else ours
    theirs = reference.reference_generator(channels, channels, width, blocks)
    randomise(theirs)
    reference.copy_parameters(theirs, ours)
    image = images(2, channels)
    torch.testing.assert_close(ours(image), theirs(image), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(("width", "channels"), [(8, 1), (4, 3)])
def test_the_discriminator_is_the_references(width: int, channels: int, fast: bool):
    ours = Discriminator(width=width, channels=channels)
    ours = accelerated(ours) if fast else ours
    theirs = reference.reference_discriminator(channels, width)
    randomise(theirs)
    reference.copy_parameters(theirs, ours)
    image = images(2, channels, size=48)
    torch.testing.assert_close(ours(image), theirs(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_instance_norm_is_torchs(count: int, layout: torch.memory_format):
    features = torch.randn(count, 5, 12, 9, generator=torch.Generator().manual_seed(0)).double()
    found, wanted = (
        features.clone().contiguous(memory_format=layout).requires_grad_() for _ in range(2)
    )
    ours, theirs = accelerated(nn.InstanceNorm2d(5))(found), nn.InstanceNorm2d(5)(wanted)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    (ours**3).sum().backward()
    (theirs**3).sum().backward()
    torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_last_convolution_is_a_convolution(channels: int):
    torch.manual_seed(0)
    layer = accelerated(nn.Conv2d(6, channels, 7)).double()
    images = torch.randn(2, 6, 20, 15).double()
    found, wanted = (images.clone().requires_grad_() for _ in range(2))
    ours = layer(found)
    theirs = nn.functional.conv2d(wanted, layer.weight, layer.bias)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    gradient = torch.randn_like(ours)
    mine = torch.autograd.grad(ours, (found, *layer.parameters()), gradient)
    torchs = torch.autograd.grad(theirs, (wanted, *layer.parameters()), gradient)
    torch.testing.assert_close(mine, torchs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_winograd_is_the_convolution(layout: torch.memory_format):
    """In float64 to rounding; in float32 within 1e-4 of the output's deviation, as documented."""
    torch.manual_seed(0)
    features = torch.randn(2, 64, 18, 26).double().contiguous(memory_format=layout)
    kernel = torch.randn(32, 64, 3, 3).double()
    found, wanted = (
        tuple(each.clone().requires_grad_() for each in (features, kernel)) for _ in range(2)
    )
    ours, theirs = winograd(*found), nn.functional.conv2d(*wanted)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    gradient = torch.randn_like(ours)
    mine, torchs = (
        torch.autograd.grad(output, inputs, gradient)
        for output, inputs in ((ours, found), (theirs, wanted))
    )
    torch.testing.assert_close(mine, torchs, rtol=1e-9, atol=1e-9)
    single = winograd(features.float(), kernel.float()).double()
    assert (single - theirs).abs().max() < 1e-4 * theirs.std()


def test_winograd_serves_float32_on_the_processor_only(monkeypatch: pytest.MonkeyPatch):
    used = []
    monkeypatch.setattr(
        winograd_module, "winograd", lambda x, w: used.append(x.shape) or nn.functional.conv2d(x, w)
    )

    def uses(channels: int, size: int, dtype: torch.dtype = torch.float32) -> bool:
        used.clear()
        layer = accelerated(nn.Conv2d(channels, channels, 3)).to(dtype)
        layer(torch.zeros(1, channels, size, size, dtype=dtype))
        return bool(used)

    assert uses(96, 34)
    assert not uses(96, 36)  # 34 is no multiple of 4
    assert not uses(64, 34)  # few channels
    assert not uses(96, 30)  # few tiles
    assert not uses(96, 34, torch.float64)
    with Compute(torch.device("cpu"), "bf16").autocast():
        assert not uses(96, 34)


def test_recomputing_changes_no_gradient():
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        network = Generator(width=8, blocks=2, recompute=recompute)
        network(images(2)).square().mean().backward()
        found.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(*found, rtol=0, atol=0)


def randomise(network: nn.Module) -> None:
    """Draw every parameter, biases too, so that none can be overlooked."""
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.1)


def test_translator_parameters_are_each_in_one_half():
    networks = TranslatorNetworks(width=4, blocks=1, discriminator_width=4)
    generators = list(networks.generator_parameters())
    discriminators = list(networks.discriminator_parameters())
    assert {id(p) for p in generators}.isdisjoint(id(p) for p in discriminators)
    assert len(generators) + len(discriminators) == len(list(networks.parameters()))
    assert sum(p.numel() for p in generators) == 2 * count(networks.g)


# Predictor


@pytest.mark.parametrize("outputs", [1, 4])
def test_the_predictor_takes_one_channel(outputs: int):
    network = PredictorNetwork(architecture="test_resnet", outputs=outputs).eval()
    assert network(images(2)).shape == (2, outputs)


def test_features_are_what_the_last_layer_sees():
    network = PredictorNetwork(architecture="test_resnet", outputs=3).eval()
    features = network.features(images(2))
    last = network.backbone.fc
    assert isinstance(last, nn.Linear)
    assert features.shape == (2, last.in_features)
    torch.testing.assert_close(last(features), network(images(2)))


def test_the_papers_predictor_is_a_resnet50():
    network = PredictorNetwork(architecture="resnet50", outputs=1)
    # 25 557 032 with 1000 classes and colour; less two stem channels, less 999 classes.
    assert count(network) == 25_557_032 - 2 * 64 * 49 - 999 * 2049


def test_an_unknown_predictor_names_the_nearest():
    with pytest.raises(ConfigError, match=r"'resnet5O'.*Did you mean 'resnet50'\?"):
        PredictorNetwork(architecture="resnet5O")


def test_local_pretrained_weights_are_loaded(tmp_path: Path):
    torch.manual_seed(3)
    colour = timm.create_model("test_resnet", in_chans=3, num_classes=10)
    save_file(colour.state_dict(), tmp_path / "model.safetensors")
    network = PredictorNetwork(
        architecture="test_resnet", outputs=1, pretrained=str(tmp_path / "model.safetensors")
    )
    image = images(2)
    ours = network.eval().features(image)
    theirs = colour.eval().forward_head(
        colour.forward_features(image.expand(-1, 3, -1, -1)), pre_logits=True
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)  # grey is all channels alike
    assert network.backbone.fc.out_features == 1


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, "is missing"), (b"no tensors", "safetensors"), ("other", "75 are missing")],
)
def test_wrong_pretrained_weights_are_named(tmp_path: Path, content: bytes | str | None, text: str):
    file = tmp_path / "weights.safetensors"
    if content == "other":
        save_file({"conv1.weight": torch.zeros(3, 3)}, file)
    elif isinstance(content, bytes):
        file.write_bytes(content)
    with pytest.raises(ModelError, match=text) as caught:
        PredictorNetwork(architecture="test_resnet", pretrained=str(file))
    assert str(file) in str(caught.value)


# LabelTransform


def test_a_regression_answers_in_the_labels_unit():
    head = LabelTransform(task=tiny.AGE, mean=50.0, std=10.0)
    outputs = torch.tensor([[0.0], [1.5], [-2.0]])
    assert head.outputs == 1
    torch.testing.assert_close(head.predictions(outputs), torch.tensor([50.0, 65.0, 30.0]))
    loss = head.loss(outputs, torch.tensor([53.0, 60.0, 30.0]))
    assert loss.item() == pytest.approx((9 + 25 + 0) / 3 / 10**2)  # of standardised labels
    assert head.in_unit(loss).item() == pytest.approx((9 + 25 + 0) / 3)  # years^2


def test_a_classification_answers_with_probabilities():
    head = LabelTransform(task=tiny.GROUP)
    outputs = torch.tensor([[0.0, math.log(2), 0.0], [math.log(6), 0.0, 0.0]])
    assert head.outputs == 3
    wanted = torch.tensor([[0.25, 0.5, 0.25], [0.75, 0.125, 0.125]])
    torch.testing.assert_close(head.predictions(outputs), wanted)
    loss = head.loss(outputs, torch.tensor([1, 2]))
    assert loss.item() == pytest.approx((math.log(2) + math.log(8)) / 2)


def test_bf16_outputs_are_judged_in_float32():
    head = LabelTransform(task=tiny.AGE, mean=50.0, std=10.0)
    outputs = torch.tensor([[1.0]], dtype=torch.bfloat16)
    loss = head.in_unit(head.loss(outputs, torch.tensor([60.03])))
    assert loss.item() == pytest.approx(0.0009, rel=1e-2)


def test_the_head_is_fitted_to_all_training_labels_together():
    head = fit_label_transform(tiny.AGE, [torch.tensor([20.0, 40.0]), torch.tensor([60.0])])
    assert head.mean == pytest.approx(40)
    assert head.std == pytest.approx(math.sqrt(800 / 3))
    assert fit_label_transform(tiny.AGE, [torch.tensor([30.0, 30.0])]).std == 1.0
    assert fit_label_transform(tiny.GROUP, [torch.tensor([0, 1])]) == LabelTransform(
        task=tiny.GROUP
    )


# Device


@pytest.mark.parametrize("name", ["gpu", "cpu:", "", "meta", "cuda:", "cuda:-1", "xpu"])
def test_a_device_that_does_not_exist_is_named(name: str):
    with pytest.raises(UsageError, match=f"Unknown device '{name}'"):
        choose_compute(name)


def test_precision_follows_the_hardware(monkeypatch: pytest.MonkeyPatch):
    for flag, native in [("avx512f", False), ("avx512_bf16", True), ("amx_bf16", True)]:
        monkeypatch.setattr(device_module, "cpu_flags", lambda flag=flag: frozenset([flag]))
        assert choose_compute("cpu").precision == ("bf16" if native else "fp32")
        assert choose_compute("cpu", "fp32").precision == "fp32"
        heard: list[Event] = []
        asked = choose_compute("cpu", "bf16", listener=heard.append).precision
        assert asked == ("bf16" if native else "fp32")
        assert [isinstance(event, Warned) for event in heard] == ([] if native else [True])


def test_autocast_computes_in_the_chosen_precision():
    layer = nn.Conv2d(1, 1, 3)
    for precision, wanted in [("fp32", torch.float32), ("bf16", torch.bfloat16)]:
        with Compute(torch.device("cpu"), precision).autocast():
            assert layer(images(1)).dtype == wanted


# Model folder


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    values = json.loads((folder / "model.json").read_text())
    change(values)
    (folder / "model.json").write_text(json.dumps(values))


def test_a_model_folder_comes_back_as_it_was_written(tmp_path: Path):
    folder = tiny.write_tiny_model(tmp_path, sources=("mri", "pet"))
    assert {file.name for file in folder.iterdir()} == {
        "README.md",
        "model.json",
        "predictor.safetensors",
        "translator-mri.safetensors",
        "translator-pet.safetensors",
    }
    info = read_model(folder)
    span = (tiny.age_of(0), tiny.age_of(21))
    assert info.predictor.head == LabelTransform(task=tiny.AGE, mean=50.0, std=12.0, span=span)
    assert info.target_recipe == tiny.AS_IS_16
    assert info.translators["pet"].recipe == tiny.AS_IS
    assert (info.predictor.weights.step, info.translators["mri"].weights.step) == (5, 7)
    predictor = load_predictor(folder, info)
    name, generator = load_generator(folder, info, "pet")
    assert name == "pet"
    for network, file in [(predictor, "predictor"), (generator, "translator-pet")]:
        assert not network.training
        stored = load_file(folder / f"{file}.safetensors")
        state = network.state_dict()
        assert set(stored) == set(state)
        assert all(torch.equal(stored[key], state[key]) for key in state)


def test_the_only_translator_needs_no_name_and_others_are_named(tmp_path: Path):
    folder = tiny.write_tiny_model(tmp_path / "one")
    assert load_generator(folder, read_model(folder), None)[0] == "mri"
    with pytest.raises(ModelError, match=r"no translator from 'mir'.*Did you mean 'mri'"):
        load_generator(folder, read_model(folder), "mir")
    folder = tiny.write_tiny_model(tmp_path / "two", sources=("mri", "pet"))
    with pytest.raises(ModelError, match=r"several translators: mri, pet.*--source"):
        load_generator(folder, read_model(folder), None)
    folder = tiny.write_tiny_model(tmp_path / "none", sources=())
    with pytest.raises(ModelError, match="has no translator"):
        load_generator(folder, read_model(folder), None)


@pytest.mark.parametrize("file", ["predictor.safetensors", "translator-mri.safetensors"])
def test_one_flipped_bit_in_the_weights_is_found(tmp_path: Path, file: str):
    folder = tiny.write_tiny_model(tmp_path)
    content = bytearray((folder / file).read_bytes())
    content[-7] ^= 1
    (folder / file).write_bytes(content)
    check_refused(folder, file, "damaged")


@pytest.mark.parametrize("file", ["predictor.safetensors", "translator-mri.safetensors"])
def test_missing_weights_are_named(tmp_path: Path, file: str):
    folder = tiny.write_tiny_model(tmp_path)
    (folder / file).unlink()
    check_refused(folder, file, "missing")


def test_weights_of_another_network_do_not_fit(tmp_path: Path):
    folder = tiny.write_tiny_model(tmp_path)
    edit(folder, lambda values: values["translators"]["mri"].update(blocks=3))
    check_refused(folder, "translator-mri.safetensors", "does not match")


@pytest.mark.parametrize("place", ["../outside.safetensors", "/outside.safetensors", ".."])
def test_weights_outside_the_folder_are_refused(tmp_path: Path, place: str):
    folder = tiny.write_tiny_model(tmp_path)
    (folder / "predictor.safetensors").rename(folder.parent / "outside.safetensors")
    if place.startswith("/"):
        place = str(folder.parent / "outside.safetensors")  # the content is right, the place wrong
    edit(folder, lambda values: values["predictor"]["weights"].update(file=place))
    with pytest.raises(ModelError, match="outside that folder"):
        load_predictor(folder, read_model(folder))


def check_refused(folder: Path, file: str, text: str) -> None:
    info = read_model(folder)
    load = load_predictor if file.startswith("predictor") else load_only_generator
    with pytest.raises(ModelError, match=text) as caught:
        load(folder, info)
    assert file in str(caught.value)


def load_only_generator(folder: Path, info: ModelInfo) -> nn.Module:
    return load_generator(folder, info, None)[1]


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 0, "1", None])
def test_another_schema_version_is_refused(tmp_path: Path, version: object):
    folder = tiny.write_tiny_model(tmp_path)
    edit(folder, lambda values: values.update(schema_version=version))
    with pytest.raises(ModelError, match=f"schema version {version}"):
        read_model(folder)


def test_a_damaged_model_json_is_named(tmp_path: Path):
    folder = tiny.write_tiny_model(tmp_path)
    edit(folder, lambda values: values.update(image_size="large"))
    with pytest.raises(ModelError, match="damaged: image_size"):
        read_model(folder)
    edit(folder, lambda values: values.update(image_size=32, surprise=1))
    with pytest.raises(ModelError, match="damaged: surprise"):
        read_model(folder)
    (folder / "model.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        read_model(folder)
    (folder / "model.json").write_text("[]")
    with pytest.raises(ModelError, match="schema version None"):
        read_model(folder)
    (folder / "model.json").unlink()
    with pytest.raises(ModelError, match="does not exist"):
        read_model(folder)


def test_imagenet_weights_are_asked_of_timm_and_their_absence_is_explained(
    monkeypatch: pytest.MonkeyPatch,
):
    asked = {}

    def offline(name: str, **options: object) -> None:
        asked.update(options, name=name)
        raise OSError("We couldn't connect to the hub")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(ModelError, match="--pretrained FILE"):
        PredictorNetwork(architecture="resnet50", pretrained="imagenet")
    assert asked == {
        "name": "resnet50",
        "pretrained": True,
        "pretrained_cfg_overlay": None,
        "in_chans": 1,
        "num_classes": 1,
    }
