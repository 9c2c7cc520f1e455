"""Composes the jobs of a sweep quickly: what depends on choices of groups alone is composed once for each set of choices."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig

from catdog.config.mistakes import JOB


class SharedComposition:
    """What jobs of one config loader share. Hydra itself composes every job of a sweep twice, each time from the files.

    Args:
        loader: Hydra's.
    """

    def __init__(self, loader: Any) -> None:
        self._load = loader.load_sweep_config
        self._compose = loader._compose_config_from_defaults_list
        self._create = config_loader_impl.create_defaults_list
        self._lists: dict[tuple[Any, ...], DefaultsList] = {}
        self._composed: dict[int, DictConfig] = {}
        self._jobs: dict[tuple[str, ...], DictConfig] = {}

    def check(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        """Returns a job's config, like the loader's `load_sweep_config`, and keeps it for `take`."""
        key = tuple(sweep_overrides)
        if key not in self._jobs:
            self._jobs[key] = self._load_quickly(master_config, sweep_overrides)
        return self._jobs[key]

    def take(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        """Returns a job's config, which the caller may change."""
        return self._jobs.pop(tuple(sweep_overrides), None) or self._load_quickly(master_config, sweep_overrides)

    def compose(self, defaults: Any, repo: Any) -> DictConfig:
        """Returns what a list of defaults makes, like the loader's `_compose_config_from_defaults_list`."""
        if not any(defaults is held.defaults for held in self._lists.values()):
            return self._compose(defaults=defaults, repo=repo)
        if id(defaults) not in self._composed:
            self._composed[id(defaults)] = self._compose(defaults=defaults, repo=repo)
        return copy.deepcopy(self._composed[id(defaults)])

    def _load_quickly(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        with self._sharing():
            try:
                composed: DictConfig = self._load(master_config, list(sweep_overrides))
            except ConfigCompositionException as error:
                vars(error).setdefault(JOB, list(sweep_overrides))
                raise
        return composed

    @contextlib.contextmanager
    def _sharing(self) -> Iterator[None]:
        config_loader_impl.create_defaults_list = self._create_once
        try:
            yield
        finally:
            config_loader_impl.create_defaults_list = self._create

    def _create_once(
        self,
        repo: Any,
        config_name: str | None,
        overrides_list: list[Override],
        prepend_hydra: bool,
        skip_missing: bool,
    ) -> DefaultsList:
        """Returns the list of defaults, which depends on those overrides only that choose from groups."""
        config_overrides = Overrides(repo=repo, overrides_list=overrides_list).config_overrides
        values = {id(override) for override in config_overrides}
        choices = tuple(str(each.input_line) for each in overrides_list if id(each) not in values)
        key = (config_name, choices, prepend_hydra, skip_missing)
        if key not in self._lists:
            self._lists[key] = self._create(
                repo=repo, config_name=config_name, overrides_list=overrides_list, prepend_hydra=prepend_hydra,
                skip_missing=skip_missing,
            )  # fmt: skip
        found = self._lists[key]
        return DefaultsList(found.defaults, found.defaults_tree, config_overrides, found.overrides)


def share_composition(loader: ConfigLoader) -> SharedComposition:
    """Makes a config loader compose the jobs of a sweep quickly, also where Hydra checks them; returns what they share."""
    found = vars(loader).get("shared_composition")
    if isinstance(found, SharedComposition):
        return found
    shared = SharedComposition(loader)
    vars(loader).update(
        shared_composition=shared, load_sweep_config=shared.check, _compose_config_from_defaults_list=shared.compose
    )
    return shared
