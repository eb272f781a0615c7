"""What the engines that run a model here share: where it is, its context and tokenizer, the look at it before the run.

`source` is a hub id, a folder, or a prefix on object storage. Nothing here loads weights: a context length is read from
config.json, prompts are counted with the model's own tokenizer and chat template (about 20,000 short prompts a second).
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from jobs.errors import StoreError
from jobs.lanes.base import LaneCheck, LaneContext
from jobs.lanes.local.templates import ChatTemplate, Messages
from jobs.spec.models import ModelSpec
from jobs.storage.filesystems import filesystem_of, is_file_name, storage_errors
from jobs.storage.private_folder import private_folder

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack")
CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_seq_length",
)
"""Names of the context length in config.json, the ones vLLM looks for."""
UNSCALED_ROPE = ("default", "llama3", "su", "longrope")
"""Kinds of rotary embedding whose config.json states the context as it is; others multiply it, each in its own way."""


def is_remote(source: str) -> bool:
    """True for a prefix on object storage."""
    return "://" in source


def is_folder(source: str) -> bool:
    """True for what is a path and not a hub id, whether it is there or not."""
    return not is_remote(source) and (
        source.startswith((".", "/", "~")) or source.count("/") > 1 or Path(source).exists()
    )


def absolute_source(source: str) -> str:
    """Folders as absolute paths: Ray's workers have another working directory than the driver."""
    return str(Path(source).expanduser().absolute()) if is_folder(source) else source


def with_absolute_source(context: LaneContext) -> LaneContext:
    """The context as it goes to workers."""
    model = context.model.model_copy(update={"source": absolute_source(str(context.model.source))})
    return replace(context, model=model)


def local_folder(source: str, weights: bool) -> str:
    """`source` as transformers takes it. Object storage is copied to a folder of this node, once, weights only if asked
    for.

    Raises StoreError where the prefix cannot be read or holds no config.json.
    """
    if not is_remote(source):
        return absolute_source(source)
    fs, root = filesystem_of(source)
    with storage_errors(source, "listing the model"):
        infos = [
            info for info in fs.get_file_info(pafs.FileSelector(root, recursive=True))
            if info.type == pafs.FileType.File and (weights or not info.path.endswith(WEIGHTS))
        ]  # fmt: skip
    # Sizes and times are in the name: what is uploaded anew is another copy.
    state = sorted((info.path, info.size, str(info.mtime)) for info in infos)
    digest = hashlib.blake2b(f"{source}|{weights}|{state}".encode(), digest_size=10).hexdigest()
    folder = private_folder("models") / digest
    if folder.exists():
        return str(folder)
    copy = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder.parent))
    try:
        here = pafs.LocalFileSystem()
        with storage_errors(source, "copying the model"):
            for info in infos:
                name = info.path[len(root) + 1 :]
                if not is_file_name(name):
                    raise StoreError(f"{source}: holds a file named {name!r}, which would leave the folder of its copy")
                target = copy / name
                target.parent.mkdir(parents=True, exist_ok=True)
                pafs.copy_files(info.path, str(target), source_filesystem=fs, destination_filesystem=here)
        if not (copy / "config.json").exists():
            raise StoreError(f"{source}: holds no config.json")
        if not folder.exists():
            copy.rename(folder)
    except OSError:
        if not folder.exists():  # else another process of this node was first
            raise
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    return str(folder)


@lru_cache(maxsize=4)
def load_tokenizer(source: str) -> Any:
    """The model's tokenizer; hub ids are fetched. Raises OSError or ValueError where there is none."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(local_folder(source, weights=False), trust_remote_code=False)


@lru_cache(maxsize=4)
def end_token_ids(source: str) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's, and those of generation_config.json."""
    from transformers import GenerationConfig

    tokenizer = load_tokenizer(source)
    ids = {tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()
    try:
        more = GenerationConfig.from_pretrained(local_folder(source, weights=False)).eos_token_id
    except OSError:  # a model without that file
        more = None
    return frozenset(ids | set(more if isinstance(more, list) else [more] if more is not None else []))


def context_tokens(model: ModelSpec) -> int | None:
    """Longest prompt + answer: `engine_kwargs.max_model_len`, `context`, else config.json's. None where that is silent.

    As in vLLM, the tokenizer's model_max_length is a bound too. A hub id is looked up in the local cache only.
    """
    stated = model.engine_kwargs.get("max_model_len") or model.context
    if isinstance(stated, int) and stated > 0:
        return stated
    from transformers import PretrainedConfig
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    try:
        folder = local_folder(str(model.source), weights=False)
        config, _ = PretrainedConfig.get_config_dict(folder, local_files_only=True)
        tokenizer = get_tokenizer_config(folder, local_files_only=True)
    except (OSError, StoreError):
        return None
    config = {**config, **config.get("text_config", {})}
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if rope and (rope.get("rope_type") or rope.get("type") or "default") not in UNSCALED_ROPE:
        return None
    found = [config[key] for key in CONTEXT_KEYS if isinstance(config.get(key), int)]
    limit = tokenizer.get("model_max_length")
    return int(min(min(found), limit) if isinstance(limit, int | float) else min(found)) if found else None


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of rendered prompts. The template has written the special tokens: adding them here would double them."""
    return list(tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]) if texts else []


def prompt_token_counter(
    model: ModelSpec, variables: Mapping[str, Any] | None = None
) -> Callable[[Sequence[Messages]], list[int]] | None:
    """Exact prompt tokens of many conversations, counted as the lane will; None where there is no tokenizer. An API's
    model has one where the job file names it (`tokenizer`). variables: of the chat template (`sampling.chat_template_kwargs`).

    Messages that the chat template refuses count 0: the lane rejects them in its own words.
    """
    source = model.tokenizer or (model.source if model.traits.needs_source else None)
    if source is None:
        return None
    try:
        tokenizer = load_tokenizer(source)
    except (OSError, ValueError, StoreError):
        return None
    if not tokenizer.chat_template:
        return None
    template = ChatTemplate(tokenizer, variables)

    def count(conversations: Sequence[Messages]) -> list[int]:
        texts = []
        for messages in conversations:
            try:
                texts.append(template.render(messages) if messages else "")
            except ValueError:
                texts.append("")
        return [len(ids) for ids in token_ids(tokenizer, texts)]

    return count


def check_local(context: LaneContext, package: str, install: str) -> LaneCheck:
    """The look before the run: is the engine installed, is the model there, how long is its context."""
    model, place = context.model, f"models.{context.alias}"
    source = str(model.source)
    if importlib.util.find_spec(package) is None:
        return LaneCheck(False, f"{place}.engine: {model.engine} needs {package}, which is not installed; {install}")
    if is_folder(source) and not (Path(source).expanduser() / "config.json").exists():
        return LaneCheck(False, f"{place}.source: {source} holds no config.json; give a model folder or a hub id")
    if is_remote(source):
        try:
            local_folder(source, weights=False)
        except StoreError as error:
            return LaneCheck(False, f"{place}.source: {error}")
    if is_folder(source) or is_remote(source):
        try:
            tokenizer = load_tokenizer(source)
        except Exception as error:  # noqa: BLE001 - files of anybody's: a library trips over them in its own ways
            said = next(iter(str(error).splitlines()), "")[:160]
            return LaneCheck(
                False, f"{place}.source: {source} has no usable tokenizer ({type(error).__name__}: {said})"
            )
        if not tokenizer.chat_template:
            return LaneCheck(False, f"{place}.source: {source} has no chat template; use a chat model")
    notes: list[str] = []
    try:
        notes = _template_notes(context)
    except ValueError as error:
        fix = "use a model whose template takes such messages, or change them (system, template, input.messages)"
        return LaneCheck(False, f"{place}.source: {source}: {error}; {fix}")
    try:
        tokens = context_tokens(model)
    except Exception as error:  # noqa: BLE001 - likewise
        return LaneCheck(False, f"{place}.source: {source} has no usable config.json ({type(error).__name__}: {error})")
    length = "context unknown before it is loaded" if tokens is None else f"context {tokens} tokens"
    return LaneCheck(True, f"{source} in {model.engine}, {length}", tokens, tuple(notes))


def _template_notes(context: LaneContext) -> list[str]:
    """What the model's chat template makes of the job's first requests. Raises ValueError where it refuses them all.

    A hub id whose tokenizer cannot be had here is looked at when it is loaded.
    """
    try:
        tokenizer = load_tokenizer(str(context.model.source))
    except Exception:  # noqa: BLE001 - no network, no access, no such model: the engine will say so in its own words
        return []
    if not tokenizer.chat_template:
        raise ValueError("has no chat template")
    return ChatTemplate(tokenizer, context.sampling.get("chat_template_kwargs")).notes(context.examples)
