"""A methods paragraph to copy, with its citations: only what is true for this run.

Every sentence is made of what the run recorded. What is not known is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medxlate._version import __version__
from medxlate.artifacts.info import ModelInfo
from medxlate.config import Config
from medxlate.evaluation.intervals import REPLICATES
from medxlate.evaluation.results import Results
from medxlate.report.printing import short
from medxlate.report.run_comparison import Against
from medxlate.report.run_verdict import modality_text

WORKS = {
    "yang": "Yang Y, Xie P. Discriminative Cross-Modal Data Augmentation for Medical Imaging "
    "Applications. arXiv preprint, 2020.",
    "cyclegan": "Zhu J-Y, Park T, Isola P, Efros AA. Unpaired Image-to-Image Translation using "
    "Cycle-Consistent Adversarial Networks. ICCV, 2017.",
    "resnet": "He K, Zhang X, Ren S, Sun J. Deep Residual Learning for Image Recognition. CVPR, "
    "2016.",
    "unet": "Ronneberger O, Fischer P, Brox T. U-Net: Convolutional Networks for Biomedical Image "
    "Segmentation. MICCAI, 2015.",
    "patchgan": "Isola P, Zhu J-Y, Zhou T, Efros AA. Image-to-Image Translation with Conditional "
    "Adversarial Networks. CVPR, 2017.",
    "timm": "Wightman R. PyTorch Image Models. 2019. doi:10.5281/zenodo.4414861.",
    "adam": "Kingma DP, Ba J. Adam: A Method for Stochastic Optimization. ICLR, 2015.",
    "diffaugment": "Zhao S, Liu Z, Lin J, Zhu J-Y, Han S. Differentiable Augmentation for "
    "Data-Efficient GAN Training. NeurIPS, 2020.",
    "bootstrap": "Efron B, Tibshirani RJ. An Introduction to the Bootstrap. Chapman & Hall, 1993.",
    "hesterberg": "Hesterberg TC. What Teachers Should Know About the Bootstrap. The American "
    "Statistician 69, 2015.",
    "fidelity": "Obukhov A, Seitzer M, Wu P-W, Zhydenko S, Kyl J, Lin EY-J. High-fidelity "
    "performance metrics for generative models in PyTorch. 2020. doi:10.5281/zenodo.4957738.",
}
HOW = {  # a method in words, with what to cite
    "joint": "A CycleGAN{cyclegan} translated {sources} images to {target} and was trained jointly "
    "with the predictor, which learned from real {target} and translated {sources} images{yang}.",
    "cyclegan": "A CycleGAN{cyclegan} was trained to translate {sources} images to {target}; then "
    "the predictor learned from real {target} and translated {sources} images.",
    "target-only": "The predictor learned from real {target} images alone.",
    "raw-mix": "The predictor learned from real {target} images and untranslated {sources} images.",
    "histogram": "The predictor learned from real {target} images and from {sources} images whose "
    "histograms were matched to {target}.",
    "oracle": "The predictor learned from real {target} images and from the true {target} images "
    "of the {sources} patients.",
}


class Cited:
    """Numbers citations in the order in which a text uses them."""

    def __init__(self) -> None:
        self._order: list[str] = []

    def __call__(self, *keys: str) -> str:
        """Return the numbers of works, such as " [1, 2]"."""
        for key in keys:
            if key not in self._order:
                self._order.append(key)
        return f" [{', '.join(str(self._order.index(key) + 1) for key in keys)}]"

    @property
    def works(self) -> list[str]:
        """All that was cited, by number."""
        return [WORKS[key] for key in self._order]


def methods_text(
    config: Config,
    info: ModelInfo,
    results: Results | None,
    events: Sequence[Mapping[str, Any]],
    against: Against | None,
) -> tuple[str, list[str]]:
    """Return a paragraph on how a run was trained and tested, and its citations in order.

    Args:
        config: The run's.
        info: What model.json says.
        results: The evaluation; None: there is none, and nothing is said of testing.
        events: Of ``metrics.jsonl``.
        against: The comparison that the report makes; None: there is none.
    """
    cited = Cited()
    sentences = [
        *_data(config, info, results),
        *_method(config, cited),
        *_networks(config, info, cited),
        *_training(config, info, events, cited),
        *(_statistics(results, against, cited) if results is not None else ()),
        *_software(info, results),
    ]
    return " ".join(sentences), cited.works


def _data(config: Config, info: ModelInfo, results: Results | None) -> Iterator[str]:
    trained = info.trained_on
    if trained is not None:
        train = [_images(name, *found) for name, found in trained.train.items()]
        val = [_images(name, *found) for name, found in trained.val.items() if found[1]]
        held = f", and it was validated on {_list(val)}" if val else ""
        yield f"The model was trained on {_list(train)}{held}."
    if results is not None and results.images:
        test = _images(results.target, results.patients, results.images)
        if config.split.policy == "patient":
            yield f"It was tested on {test}; patients, not images, were divided among the parts."
        else:
            yield (
                f"It was tested on {test}; images, not patients, were divided among the parts, so "
                "images of one patient may be in training and in test."
            )
    yield f"Images were resampled to {info.image_size} by {info.image_size} pixels."


def _images(modality: str, patients: int, images: int) -> str:
    plural = "" if patients == 1 else "s"
    count = f"{images} {modality_text(modality)} image{'' if images == 1 else 's'}"
    return f"{count} of {patients} patient{plural}"


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _method(config: Config, cited: Cited) -> Iterator[str]:
    base, _, augmentation = config.method.partition("+")
    words = {
        "sources": _list([modality_text(each) for each in config.data.sources] or ["source"]),
        "target": modality_text(config.data.target),
    }
    how = HOW.get(base, "The model was trained by the method {method} of medxlate.")
    marks = {key: cited(key) for key in ("cyclegan", "yang") if f"{{{key}}}" in how}
    yield how.format(method=base, **words, **marks)
    if augmentation:
        yield f"Real {words['target']} images were augmented ({augmentation})."


def _networks(config: Config, info: ModelInfo, cited: Cited) -> Iterator[str]:
    kinds = {
        (each.architecture, each.width, each.blocks, each.skip)
        for each in info.translators.values()
    }
    for architecture, width, blocks, skip in sorted(kinds):
        if architecture != "resnet":
            yield f"The generators were of the architecture {architecture}."
            continue
        skips = f", with U-Net skip connections{cited('unet')}" if skip in ("unet", "both") else ""
        block = f"{blocks} residual block{'' if blocks == 1 else 's'}{cited('resnet')}"
        yield f"The generators had {block} and {width} channels in the first layer{skips}."
    if kinds and config.model.discriminator_layers:
        yield f"The discriminators were PatchGANs{cited('patchgan')}."
    if kinds and config.objective.diffaugment:
        yield f"Discriminators saw images through DiffAugment{cited('diffaugment')}."
    if info.predictor is not None:
        name = info.predictor.architecture
        keys = ("resnet", "timm") if name.startswith("resnet") else ("timm",)
        begun = ", with pretrained weights" if config.model.pretrained else ""
        yield f"The predictor was timm's {name}{cited(*keys)}{begun}."


def _training(
    config: Config, info: ModelInfo, events: Sequence[Mapping[str, Any]], cited: Cited
) -> Iterator[str]:
    optimizer = config.optimizer
    rates = f"learning rate {short(optimizer.predictor_lr)} for the predictor"
    if info.translators:
        rates += f" and {short(optimizer.translator_lr)} for the translator"
    ended = [each for each in events if each.get("event") == "epoch"]
    epochs = f" for {ended[-1].get('epoch')} epochs" if ended else ""
    batch = f", batch size {optimizer.batch_size}" if optimizer.batch_size else ""
    yield f"Networks were trained with Adam{cited('adam')}{epochs} ({rates}{batch})."
    if info.translators and config.method.partition("+")[0] == "joint":
        objective = config.objective
        yield (
            f"The weight of the cycle loss was {short(objective.lambda_cycle)}, that of the "
            f"predictor's loss in the translator's objective {short(objective.lambda_predict)}."
        )
    if ended and info.predictor is not None and config.optimizer.keep == "last":
        yield "The predictor of the last step was kept."
    elif any("val_error" in (each.get("metrics") or {}) for each in ended):
        yield "The predictor with the lowest validation error was kept."


def _statistics(results: Results, against: Against | None, cited: Cited) -> Iterator[str]:
    found = [m for m in results.metrics if m.group == "prediction" and m.value is not None]
    if any(m.level == "patient" for m in found):
        yield "Predictions were averaged over the images of each patient."
    if any(m.low is not None for m in found) or (against and against.low is not None):
        yield (
            "Intervals of 95 % are percentiles of the bootstrap over patients, expanded for small "
            f"samples ({REPLICATES:,} resamples){cited('bootstrap', 'hesterberg')}."
        )
    if against is not None:
        yield (
            f"The error was compared with that of {against.method} on the same test patients, "
            "paired."
        )
    if results.judge:
        yield f"Translated images were judged by a separate predictor ({results.judge})."
    inception = sorted(
        {m.name for m in results.metrics if m.features == "inception" and m.value is not None}
    )
    if inception:
        names = _list([name.upper() if len(name) <= 3 else name for name in inception])
        yield f"Of Inception features, {names} were taken with torch-fidelity{cited('fidelity')}."


def _software(info: ModelInfo, results: Results | None) -> Iterator[str]:
    yield f"The model was trained with medxlate {info.medxlate}."
    if results is not None:
        versions = {"medxlate": __version__, **results.versions}
        used = [
            f"{name} {versions[name]}" for name in ("medxlate", "torch", "timm") if name in versions
        ]
        yield f"It was evaluated with {_list(used)}."
