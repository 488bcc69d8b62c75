"""The model card, after Mitchell et al. 2019 ("Model Cards for Model Reporting", section 4).

It is shared with the weights, so nothing of a patient is in it: neither dates, paths nor ids.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from medxlate.artifacts.calibration import Calibration, fewest_patients
from medxlate.artifacts.info import ModelInfo, PredictorInfo, TrainedOn, TranslatorInfo
from medxlate.base.errors import percent
from medxlate.base.records import in_code, in_markdown
from medxlate.images.recipes import Recipe

COVERAGE = 0.9  # of the intervals whose width the card tells


def model_card(
    info: ModelInfo,
    *,
    metrics: Sequence[str] = (),
    load: str = "THIS_FOLDER",
) -> str:
    """Return the card, Markdown.

    Args:
        info: The content of model.json.
        metrics: Lines of an evaluation, Markdown; none: it says that there is none here.
        load: What stands for the folder in commands.
    """
    parts = {
        "Model": _model(info),
        "Intended use": _use(info),
        "Training data": _data(info.trained_on),
        "How images are read": _recipes(info),
        "Evaluation": list(metrics) or _NO_METRICS,
        "Calibration": _calibration(info.predictor),
        "Limitations": _LIMITATIONS,
        "How to load": _loading(info, load),
    }
    lines = [f"# {title_of(info)}"]
    for name, content in parts.items():
        lines += ["", f"## {name}", "", *content]
    return "\n".join(lines) + "\n"


def title_of(info: ModelInfo) -> str:
    """Return what the model does, in one line of Markdown."""
    sources, target = in_markdown(", ".join(info.translators)), in_markdown(info.target)
    if info.predictor is None:
        return f"Translating {sources} to {target}"
    what = f"Predicting {in_markdown(info.predictor.head.task.name)} from {target}"
    return f"{what} and translating {sources} to {target}" if sources else what


_SAME_PATIENTS = (
    "The same patients were used to choose the best step, so this is slightly optimistic: with few "
    "patients, coverage can be a few percentage points lower."
)
_NO_METRICS = [
    "Not included in this card. `medxlate evaluate` measures the model on test patients, and "
    "`medxlate export hub` adds its results to the card.",
]
_LIMITATIONS = [
    "- Translated images are synthetic. They can show structures that are absent from the source "
    "image and lack structures that are present. They are evidence neither of disease nor of its "
    "absence.",
    "- The model has only seen the scanners, protocols and patients of its training data. Evaluate "
    "it before using it on others, and on groups of people who were rare in the training data.",
    "- The model processes single slices at the size given above. Anything that needs finer "
    "detail or neighbouring slices is lost.",
    "- This folder contains no image, ID, date or path from the training data. Whether training "
    "images can be reconstructed from the weights was not investigated.",
]


def _model(info: ModelInfo) -> list[str]:
    version, target = in_markdown(info.medxlate), in_markdown(info.target)
    lines = [f"Made by medxlate {version} with the method {in_code(info.method)}.", ""]
    if (predictor := info.predictor) is not None:
        task = predictor.head.task
        unit = f" in {in_markdown(task.unit)}" if task.unit else ""
        lines.append(
            f"- Predictor: {in_markdown(predictor.architecture)} on {target} images of "
            f"{info.image_size} x {info.image_size} px, label {in_markdown(task.name)}{unit}, "
            f"weights of step {predictor.weights.step}."
        )
    for name, each in info.translators.items():
        lines.append(
            f"- Translator from {in_markdown(name)} to {target}: {_shape(each)}, weights of step "
            f"{each.weights.step}."
        )
    lines += [in_markdown(f"- Plug-in: the {each}.") for each in info.plugins]
    notes = info.trained_on.notes if info.trained_on is not None else ()
    return [*lines, *(f"- {in_markdown(sentence)}" for sentence in notes)]


def _shape(translator: TranslatorInfo) -> str:
    """Return what there is to say of a generator; of others than ResNet, what they were given."""
    width, blocks = translator.width, translator.blocks
    if translator.architecture != "resnet":
        return f"{in_markdown(translator.architecture)} generator, width {width}"
    return (
        f"ResNet generator, width {width}, {blocks} blocks, upsampling {translator.upsample}, skip "
        f"{translator.skip}"
    )


def _use(info: ModelInfo) -> list[str]:
    uses = []
    if info.translators:
        uses.append(
            f"to generate synthetic {in_markdown(info.target)} images as additional training data"
        )
    if info.predictor is not None:
        uses.append(f"to predict {in_markdown(info.predictor.head.task.name)} in studies")
    return [
        f"For research: {' and '.join(uses)}.",
        "",
        "**Not for diagnosis**, treatment or any other decision about a patient. This model is not "
        "a medical device and was not tested as one.",
    ]


def _data(counts: TrainedOn | None) -> list[str]:
    if counts is None:
        return ["Unknown."]
    lines = ["| modality | part | patients | slices |", "|---|---|---|---|"]
    for part, found in (("training", counts.train), ("validation", counts.val)):
        lines += [
            f"| {in_markdown(name)} | {part} | {n} | {slices} |"
            for name, (n, slices) in found.items()
        ]
    apart = "Test patients are in neither part."
    if counts.divided == "image":
        apart = "The split is by image: images of one patient may be in all parts, including test."
    return [*lines, "", apart]


def _recipes(info: ModelInfo) -> list[str]:
    recipes = {name: each.recipe for name, each in info.translators.items()}
    recipes[info.target] = info.target_recipe
    lines = [in_markdown(f"- {name}: {in_words(recipe)}.") for name, recipe in recipes.items()]
    size = f"- All images are resized to squares of {info.image_size} px, keeping the aspect ratio."
    return [*lines, size]


def in_words(recipe: Recipe) -> str:
    """Return what a recipe does, as a phrase."""
    if recipe.plugin is not None:
        settings = ", ".join(f"{key} {value}" for key, value in recipe.settings.items())
        text = f"black and white are what the {recipe.plugin} takes of each scan"
        text += f" ({settings})" * bool(settings)
    elif recipe.window is not None:
        level, width = recipe.window
        low, high = level - width / 2, level + width / 2
        text = f"{low:g} to {high:g} {recipe.unit} are mapped to black to white"
    elif recipe.percentiles is not None:
        low, high = recipe.percentiles
        where = "volume" if recipe.kind == "mr" else "image"
        text = f"percentiles {low:g} and {high:g} of each {where} are mapped to black and white"
    else:
        text = f"the full {recipe.bits}-bit range is mapped to black to white"
    if recipe.n4:
        text += ", after N4 bias correction"
    return f"{text}; volumes are cut into {recipe.plane} slices"


def _calibration(predictor: PredictorInfo | None) -> list[str]:
    if predictor is None:
        return ["This model has no predictor."]
    found = predictor.calibration
    if found is None or found.reason:
        why = found.reason if found is not None else "the model was made without it"
        return [f"None: {in_markdown(why)}."]
    lines = [_interval(found, predictor.head.task.unit)]
    if found.kind == "temperature":
        lines = [
            f"Logits are divided by {found.temperature:.3g} (temperature scaling, Guo et al. "
            f"2017), fitted to {found.slices} slices of {found.patients} validation patients with "
            "equal weight per patient. Probabilities of volumes and patients are means over slices."
        ]
    return [*lines, "", _SAME_PATIENTS]


def _interval(found: Calibration, unit: str) -> str:
    width = found.half_width("patient", COVERAGE)
    people = f"{found.patients} validation patients, one error per patient"
    text = f"Split conformal intervals from {people}. "
    if width == float("inf"):
        return text + (
            f"Too few for {percent(COVERAGE)} coverage, which needs {fewest_patients(COVERAGE)} "
            "patients."
        )
    unit = f" {in_markdown(unit)}" if unit else ""
    return text + f"{percent(COVERAGE)} interval of a patient: +/- {width:.3g}{unit}."


def _loading(info: ModelInfo, load: str) -> list[str]:
    lines = []
    if needed := sorted({f"{each.distribution}=={each.version}" for each in info.plugins}):
        lines = ["Install the plug-ins first, from a source that you trust:", ""]
        lines += ["```", f"pip install {' '.join(needed)}", "```", ""]
    lines += ["```python", "from medxlate import Predictor, Translator", ""]
    if info.translators:
        first = next(iter(info.translators))
        choice = f", source={json.dumps(first)}" if len(info.translators) > 1 else ""
        lines.append(f'fake = Translator.load("{load}"{choice})(volume)  # [slices, H, W]')
    if info.predictor is not None:
        lines.append(f'prediction = Predictor.load("{load}")(volume)')
    commands = [f"medxlate translate IMAGES --out OUT --model {load}"] if info.translators else []
    if info.predictor is not None:
        commands.append(f"medxlate predict IMAGES --model {load}")
    return [*lines, "```", "", "```", *commands, "```"]
