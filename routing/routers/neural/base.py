"""Routers that are a transformer: what the BERT classifier and the causal LLM share.

The artifact is `router.json`, `weights.safetensors` and a Hugging Face folder `model/` (safetensors, tokenizer), which
other tools load as it is; router.json lists the SHA-256 of every file of it. Weights are loaded with the artifact, onto
a GPU where there is one: bf16 autocast there, float32 on the CPU. Remote code is never run.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from routing.errors import RoutingError
from routing.features.device import choose_device
from routing.features.encoder import micro_batches
from routing.routers.base import Router, read_card
from routing.routers.neural.training import Progress, Recipe, TrainingRows, hold_out, train

FOLDER = "model"
"""The Hugging Face folder inside an artifact."""
CHUNK_ROWS = 8192
"""Prompts tokenized and sorted together: 0.15 GB of token lists at 512 tokens each, and next to no padding."""


class NeuralRouter(Router):
    """Loading, training, saving; a subclass says what the inputs, the losses and the predictions are, and sets the defaults.

    source: hub id or folder of the model to start from.
    max_length: at least 4; tokens kept of an input.
    steps: of the fine-tuning.
    batch_size: rows of a step.
    learning_rate: AdamW's at its highest, after the warm-up; above 0.
    weight_decay: on matrices.
    tokens_per_batch: padded tokens of one forward pass, in training and in prediction: what bounds memory.
    validation_share: in [0, 1); rows held out, by prompt, for the losses that `on_progress` hears.
    seed: of the held-out rows, the batches, dropout and new weights.
    """

    on_progress: Progress | None = None
    """Set by the caller before `fit`, never saved: hears steps, loss and validation loss (`routing.routers.neural.training`)."""

    def __init__(
        self,
        source: str,
        max_length: int,
        steps: int,
        batch_size: int,
        learning_rate: float,
        weight_decay: float,
        tokens_per_batch: int,
        validation_share: float,
        seed: int,
    ) -> None:
        if max_length < 4 or steps < 1 or batch_size < 1 or tokens_per_batch < 1:
            raise RoutingError(
                f"router {self.name!r}: steps, batch_size and tokens_per_batch must be at least 1, max_length at least 4"
            )
        if not (learning_rate > 0 and weight_decay >= 0 and 0 <= validation_share < 1):
            raise RoutingError(
                f"router {self.name!r}: learning_rate must be positive, weight_decay not negative, validation_share in [0, 1)"
            )
        self.source, self.max_length, self.seed = source, max_length, seed
        self.steps, self.batch_size, self.tokens_per_batch = steps, batch_size, tokens_per_batch
        self.learning_rate, self.weight_decay, self.validation_share = learning_rate, weight_decay, validation_share
        self._tokenizer: Any = None
        self._model: Any = None

    @abstractmethod
    def _open(self, source: str, **options: Any) -> None:
        """Set `_tokenizer` and `_model` (on its device, in evaluation mode) from a hub id or folder."""

    def save(self, directory: str | Path, metrics: Mapping[str, object] | None = None) -> None:
        """Write the checkpoint into `model/`, then weights and card, which lists the SHA-256 of every file of it.

        Raises RoutingError for a router that is not fitted.
        """
        self._require_models()
        folder = Path(directory) / FOLDER
        shutil.rmtree(folder, ignore_errors=True)  # an earlier model may have had more files
        with _loading(str(folder)):
            self._model.save_pretrained(folder)
            self._tokenizer.save_pretrained(folder)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        for file in files:
            file.chmod(0o644)  # safetensors makes it the owner's alone, whatever the umask
        super().save(directory, metrics)
        card = read_card(directory)
        card["model_files"] = {file.relative_to(folder).as_posix(): _sha256(file) for file in files}
        (Path(directory) / "router.json").write_text(json.dumps(card, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Read an artifact and its checkpoint, onto a GPU where there is one. Raises RoutingError for a file missing or
        altered.
        """
        router = super().load(directory)
        folder = Path(directory) / FOLDER
        _check_files(folder, read_card(directory).get("model_files"))
        router._open(str(folder), use_safetensors=True)
        return router

    def _check_contrast(self, prompts: Sequence[str], targets: NDArray[Any]) -> None:
        """Raise RoutingError where there is nothing to learn: one label throughout, or one prompt.

        `targets` (n,) or (n, k), NaN unknown; no column is unknown throughout, which `_start_fit` has refused.
        """
        columns = targets.reshape(len(targets), -1)
        if (np.nanmax(columns, axis=0) == np.nanmin(columns, axis=0)).all():
            raise RoutingError(f"router {self.name!r}: every row has the same label; there is nothing to learn")
        if len(set(prompts)) < 2:
            raise RoutingError(f"router {self.name!r}: all prompts are equal; there is nothing to learn")

    def _fine_tune(self, module: Any, row_losses: Any, prompts: Sequence[str], lengths: Sequence[int]) -> None:
        """Train `module` on all rows but the held-out ones; where that fails the router is unfitted."""
        training, validation = hold_out(prompts, self.validation_share, self.seed)
        recipe = Recipe(
            self.steps, self.batch_size, self.learning_rate, self.weight_decay, self.tokens_per_batch, self.seed
        )
        try:
            train(module, TrainingRows(row_losses, lengths, training, validation), recipe, self.on_progress)
        except BaseException:
            self._model = None  # half-trained weights must not predict
            raise

    def _score(self, rows: Sequence[Any], encode: Any, score: Any) -> NDArray[np.float32]:
        """(len(rows), k): `score(ids)` of the `encode`d rows, computed in micro-batches of similar length.

        `encode(rows)`: their token ids. `score(ids)`: (b, k) tensor; it stays on its device until a chunk is done, so that
        a GPU never waits for the copy of a batch.
        """
        import torch

        parts = []
        for start in range(0, len(rows), CHUNK_ROWS):
            ids = encode(rows[start : start + CHUNK_ROWS])
            batches = list(micro_batches([len(row) for row in ids], self.tokens_per_batch))
            with torch.inference_mode():
                scores = torch.cat([score([ids[row] for row in batch]) for batch in batches]).float().cpu().numpy()
            part = np.empty_like(scores)
            part[np.concatenate(batches)] = scores
            parts.append(part)
        result: NDArray[np.float32] = np.concatenate(parts)
        return result

    def _require_model(self) -> tuple[str, ...]:
        """`models_`, with the weights there. Raises RoutingError for a router that is not fitted."""
        models = self._require_models()
        if self._model is None:
            raise RoutingError(f"router {self.name!r}: its training did not finish; fit it again")
        return models


def pretrained_tokenizer(source: str) -> Any:
    """The tokenizer of a hub id or folder. Raises RoutingError where there is none."""
    from transformers import AutoTokenizer

    with _loading(source):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def pretrained_model(auto_class: Any, source: str, new_parts: tuple[str, ...] = (), **options: Any) -> Any:
    """The model of a hub id or folder on its device, in evaluation mode; remote code is not run.

    `new_parts`: prefixes of weights that may be missing, to be trained from scratch. Raises RoutingError where there is
    no such model, or where other weights are missing: transformers would make them up.
    """
    with _loading(source):
        model, info = auto_class.from_pretrained(source, trust_remote_code=False, output_loading_info=True, **options)
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(new_parts or ("\0",)))
    if missing:
        raise RoutingError(
            f"router: source {source!r} lacks {len(missing)} weights of {type(model).__name__} ({missing[0]}, ...); choose"
            " a checkpoint of that architecture"
        )
    return place(model)


@contextmanager
def _loading(source: str) -> Iterator[None]:
    """Bars and reports of transformers off the terminal; what cannot be loaded is a RoutingError."""
    from safetensors import SafetensorError
    from transformers import utils

    logging: Any = utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RoutingError(
            f"router: no usable model at source {source!r} ({reason}); give a hub id or a folder"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def place(model: Any) -> Any:
    """The model on its device, in evaluation mode."""
    return model.to(choose_device()).eval()


def autocast(device: Any) -> Any:
    """bf16 where the device is a GPU; float32 stays float32 on a CPU."""
    import torch

    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type != "cpu")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_files(folder: Path, expected: Any) -> None:
    """Raise RoutingError unless every file that the card lists is there with the content it was written with."""
    if not isinstance(expected, dict) or not expected:
        raise RoutingError(f"router artifact {folder.parent}: router.json lists no model_files; save the router again")
    for name, digest in expected.items():
        file = folder / name
        if not file.is_file():
            raise RoutingError(f"router artifact {file}: missing; copy the whole folder")
        if _sha256(file) != digest:
            raise RoutingError(
                f"router artifact {file}: not the file router.json was written with; copy the folder again"
            )
