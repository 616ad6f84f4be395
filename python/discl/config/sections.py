"""The tables of a config (design 6), one frozen model each, composed by `RunConfig`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from discl.config.section import Section
from discl.config.thresholds import Thresholds, as_tables
from discl.config.values import (
    Classifier,
    Clip,
    Count,
    Device,
    Embeddings,
    FolderOrHub,
    FolderOrUrl,
    Interval,
    Level,
    Levels,
    Loras,
    Money,
    OptionalFolderOrUrl,
    OptionalPath,
    Positive,
    Seed,
    Seeds,
    Share,
    Size,
    Strings,
    first_seeds,
)

KEYS_OF_KINDS = {
    "lists": ("imagenet-lt", "inaturalist2018"),
    "imbalance": ("cifar100-lt",),
    "upscaled": ("cifar100-lt",),
    "names": ("iwildcam",),
}


def _default(section: Section, key: str) -> Any:
    return type(section).model_fields[key].default


class DataConfig(Section):
    """Where the images are. `root` is absolute: a folder, the table itself for csv, a folder or URL for store.

    digits-lt and digits-lq alone need none: without it the digits are written below the user's cache folder.
    Kinds add keys: `lists` (imagenet-lt, inaturalist2018: the folder of the lists, default root), `imbalance` and
    `upscaled` (cifar100-lt: a folder of enlarged images to make spectra of), `names` (iwildcam: the label table with
    common names).
    """

    kind: Literal[
        "imagefolder", "csv", "store", "imagenet-lt", "cifar100-lt", "inaturalist2018", "iwildcam", "digits-lt",
        "digits-lq",
    ]  # fmt: skip
    root: OptionalFolderOrUrl = ""
    max_bad_share: Share = 0.01
    allow_licenses: Strings = ()
    lists: OptionalPath = ""
    imbalance: Annotated[float, Field(ge=1.0)] = 100
    upscaled: OptionalPath = ""
    names: OptionalPath = ""

    @model_validator(mode="after")
    def _own_keys(self) -> "DataConfig":
        for key, kinds in KEYS_OF_KINDS.items():
            if key in self.model_fields_set and self.kind not in kinds and getattr(self, key) != _default(self, key):
                raise ValueError(f"{key} belongs to kind = {' or '.join(map(repr, kinds))}; remove it")
        return self

    @model_validator(mode="after")
    def _has_root(self) -> "DataConfig":
        if not self.root and not self.kind.startswith("digits-"):
            known = {"csv": "the CSV file", "store": "the store that `discl store pack` made"}
            what = known.get(self.kind, "the folder of the images")
            raise ValueError(f'root is missing; give {what}: root = "path"')
        return self


class HardConfig(Section):
    """Which training images get a spectrum. A class with fewer than `few_below` images is few.

    exclude: names of classes that get none, such as iWildCam's "empty".

    Of the rules confidence and loss: `threshold`, `limit`, and `run`, the folder of a plain training that tells.

    `many_from` not given is 100, or `few_below` where that is more.
    """

    rule: Literal["few", "confidence", "loss", "all", "list"] = "few"
    few_below: Positive = 20
    many_from: Positive = 100
    limit: Count = 0
    threshold: float | None = None
    run: OptionalPath = ""
    list: OptionalPath = ""
    exclude: Strings = ()

    @model_validator(mode="before")
    @classmethod
    def _many(cls, given: Any) -> Any:
        few_below = given.get("few_below") if isinstance(given, dict) else None
        above = isinstance(few_below, int) and few_below > cls.model_fields["many_from"].default
        return {"many_from": few_below, **given} if above else given

    @model_validator(mode="after")
    def _ordered(self) -> "HardConfig":
        if self.few_below > self.many_from:
            raise ValueError(f"few_below = {self.few_below} must not exceed many_from = {self.many_from}")
        if self.rule == "list" and not self.list:
            raise ValueError('rule = "list" needs list = "file" (one source id per line)')
        return self


class ModelConfig(Section):
    """The diffusion model: a diffusers folder or a .safetensors checkpoint (absolute), or `hub:organisation/name`.

    loras: "file.safetensors:weight", merged in order. embeddings: textual inversions, "file.safetensors:word".
    """

    path: FolderOrHub = ""
    revision: str = ""
    dtype: Literal["float32", "bfloat16", "float16", "float8"] = "float32"
    backend: Literal["torch", "torch-compile", "onnx", "aoti", "tensorrt"] = "torch"
    exported: OptionalPath = ""
    loras: Loras = ()
    embeddings: Embeddings = ()

    @model_validator(mode="after")
    def _fits(self) -> "ModelConfig":
        if self.revision and (not self.path.startswith("hub:") or "@" in self.path):
            raise ValueError(f'revision = "{self.revision}" belongs to a path = "hub:organisation/name" without one')
        if bool(self.exported) != (self.backend in ("onnx", "aoti", "tensorrt")):
            raise ValueError(
                f'backend = "{self.backend}" with exported = "{self.exported}": the backends onnx, aoti and tensorrt '
                "run the folder that `discl export` wrote, so they need exported, and only they take it"
            )
        return self


class SpectrumConfig(Section):
    """What is made of each hard image: levels x seeds, and how.

    guidance_interval: [low, high] in shares of the training timesteps; text guidance only there. None: everywhere.
    fill: accepted images that every (source, level) shall have; fewer bring further seeds, at most `fill_seeds`.
    """

    levels: Levels = (0, 10, 30, 50)
    seeds: Seeds = first_seeds(8)
    steps: Annotated[int, Field(ge=1, le=1000)] = 50
    text_guidance: Annotated[float, Field(ge=1.0, le=100.0)] = 10.0
    guidance_interval: Interval | None = None
    solver: Literal["auto", "ddim", "euler", "euler-ancestral", "dpmpp-2m", "lcm"] = "auto"
    mode: Literal["exact", "few-step", "pure-noise"] = "exact"
    prompt: str = "a photo of a {class}"
    prompts: OptionalPath = ""
    negative_prompt: str = ""
    size: Size | None = None
    size_policy: Literal["fit", "crop", "bucket", "stretch"] = "fit"
    retries: Annotated[int, Field(ge=0, le=1000)] = 0
    best_of: Annotated[int, Field(ge=1, le=1000)] = 1
    fill: Literal["none"] | Positive = "none"
    fill_seeds: Positive = 16
    upscale: Annotated[int, Field(ge=1, le=16)] = 1

    @model_validator(mode="after")
    def _level_of_noise(self) -> "SpectrumConfig":
        if self.mode == "pure-noise" and self.levels != (0,):
            raise ValueError(
                'mode = "pure-noise" keeps nothing of the source, and knows level 0 only: set levels = [0]'
            )
        return self


class ScoreConfig(Section):
    """The judge of every image: CLIP cosine with the prompt's text."""

    clip: Clip = "ViT-B-32:openai"
    prompt: str = "a photo of a {class}"
    threshold: Annotated[Thresholds, BeforeValidator(as_tables)] = Thresholds()


class EngineConfig(Section):
    device: Device = "auto"
    slots: Literal["auto"] | Annotated[int, Field(ge=1, le=4096)] = "auto"
    early_rejection: bool = False
    false_reject_limit: Share = 0.02
    control_share: Share = 0.05
    cache: OptionalFolderOrUrl = ""


class StoreConfig(Section):
    """Where spectrum images go. `path` is absolute, or a URL that fsspec knows: then it can be trained from only."""

    path: FolderOrUrl = Field(default="spectrum", validate_default=True)
    format: Literal["jpg", "png", "webp"] = "jpg"
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    shard_mb: Annotated[float, Field(gt=0.0)] = 256
    shard_seconds: Annotated[float, Field(ge=0.0)] = 0
    keep: Literal["all", "accepted", "scores"] = "all"
    embeddings: bool = True


class BudgetConfig(Section):
    """What a run may cost; 0 means not given. `discl plan` shows what fits, and what has to be cut.

    usd_per_hour: of one worker (a GPU, or a process on CPUs); it prices progress and run records too. hours: on all
    `workers` together. gpu: a name in the shipped table, for a plan without measurements; mfu: the share of its peak
    that is assumed; rows: a file of benchmark rows, to take that GPU's measured rate from. preemption_hours: mean life
    of a worker. keep: given up last; levels: most wanted first.
    """

    usd_per_hour: Money = 0.0
    usd: Money = 0.0
    hours: Money = 0.0
    workers: Positive = 1
    gpu: str = ""
    mfu: Share = 0.0
    rows: OptionalPath = ""
    preemption_hours: Money = 0.0
    keep: Literal["levels", "seeds"] = "levels"
    levels: Annotated[tuple[Level, ...], BeforeValidator(lambda value: tuple(value))] = ()


class CurriculumConfig(Section):
    """Which levels are active in which epoch (paper 3). `level` belongs to the policy `fixed`.

    `real-only` resamples as the others do, without synthetic images; `none` takes the data as it is. fill: how many
    images of the tail an epoch holds, see `discl.tail_targets`. real_tail: whether real tail images are mixed in while
    a level is active (Algorithm 1 does, Algorithm 2 does not). Of the policy `adaptive` (paper 3.3): probe_images, the
    most that are taken out of training for the probe; probe_real, the real images that it trains on; probe_least,
    images below which a level's gain is not trusted; probe_confidence, of the lower bound that gains are compared by
    (0: by their means); probe_memory, the weight of the gain before (0: none).
    """

    policy: Literal[
        "diverse-to-specific", "specific-to-diverse", "all-level", "text-only", "fixed",
        "random", "adaptive", "recursive", "shrink", "real-only", "none",
    ] = "diverse-to-specific"  # fmt: skip
    epochs: Positive = 65
    curriculum_epochs: Count = 60
    tail_share: Literal["auto"] | Share = "auto"
    nontail_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.3
    synthetic_scale: Annotated[float, Field(ge=0.0)] = 3.0
    fill: Literal["share", "union", "balanced", "sqrt", "capped"] = "share"
    fill_cap: Positive = 100
    real_tail: bool = True
    level: Level | None = None
    probe_images: Positive = 2000
    probe_real: Positive = 30000
    probe_least: Positive = 2
    probe_confidence: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    probe_memory: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0

    @model_validator(mode="after")
    def _consistent(self) -> "CurriculumConfig":
        if self.policy == "fixed" and self.level is None:
            raise ValueError('policy = "fixed" needs level = 0..99 (which one)')
        return self


class TrainConfig(Section):
    """The classifier and its optimizer. `image_size` 0 takes the model's usual size.

    model: resnet10, 18, 32, 34, 50, any name of timm, or `clip:ViT-B-16:openai` and the like. prior: whose class counts
    balanced softmax uses, those of the stage's images or the original ones. compensate: label-shift compensation at
    test, the logits less the log shares of the training images. captions: of a CLIP (default: FLYP's two). ensemble:
    share of the fine-tuned weights in the final ones, or "auto", the best of 0, 0.1, ..., 1 on the validation split.
    select: the epoch to keep, the last or the best by this metric on the validation split (id_val, else val).
    augment: "cuda" raises and lowers an augmentation level per class (Ahn et al., ICLR 2023).

    warmup: share of all steps in which the rate rises (0: cosine none, one-cycle 0.3). clip_norm: of all gradients
    together (0: no clipping). decode: where images are decoded; "auto" tries what the device has and keeps the fastest.
    """

    model: Classifier = "resnet10"
    init: OptionalPath = ""
    loss: Literal["ce", "balanced-softmax", "flyp"] = "ce"
    prior: Literal["stage", "original"] = "stage"
    compensate: bool = False
    captions: Strings = ()
    ensemble: Literal["auto"] | Share = 1.0
    select: Literal["last", "overall", "many", "medium", "few", "macro_f1"] = "last"
    augment: Literal["none", "cuda"] = "none"
    batch: Positive = 128
    lr: Annotated[float, Field(gt=0.0)] = 1e-3
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-5
    schedule: Literal["cosine", "one-cycle"] = "cosine"
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    clip_norm: Annotated[float, Field(ge=0.0)] = 0.0
    seed: Seed = 0
    workers: Count = 2
    decode: Literal["auto", "cpu", "mixed", "hardware"] = "auto"
    image_size: Count = 0
    device: Device = "auto"


class ReportConfig(Section):
    """paper: which of the paper's published rows a report puts beside the run (discl/configs/published.json)."""

    paper: str = ""


class RunConfig(Section):
    """One run. `score` is None where the file has no [score]: then nothing is scored."""

    data: DataConfig
    hard: HardConfig = HardConfig()
    model: ModelConfig = ModelConfig()
    spectrum: SpectrumConfig = SpectrumConfig()
    score: ScoreConfig | None = None
    engine: EngineConfig = EngineConfig()
    store: StoreConfig = Field(default_factory=lambda: StoreConfig())
    budget: BudgetConfig = BudgetConfig()
    curriculum: CurriculumConfig = CurriculumConfig()
    train: TrainConfig = TrainConfig()
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _best_by_score(self) -> "RunConfig":
        if self.spectrum.best_of > 1 and self.score is None:
            raise ValueError(f"[spectrum] best_of = {self.spectrum.best_of} needs [score], which tells the best")
        return self
