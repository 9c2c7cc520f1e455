"""The config of a sweep as a whole, which Hydra composes with its first choices before it composes the jobs."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.defaults_list import Overrides
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError


@contextlib.contextmanager
def tolerant_sweeps() -> Iterator[None]:
    """Lets a sweep change an entry that its jobs have, but not the config with the default choices.

    Hydra composes `-m model=finetuned,scratch augmentation.layers.flip=null` with the default model first, whose augmentation has
    no such layer, and would refuse it. Of that config only Hydra's own section counts. Each job is composed with all overrides.
    """
    load = ConfigLoaderImpl.load_configuration

    def load_tolerantly(
        self: ConfigLoaderImpl,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        *more: Any,
        **options: Any,
    ) -> DictConfig:
        try:
            return load(self, config_name, overrides, run_mode, *more, **options)
        except ConfigCompositionException as error:
            if run_mode != RunMode.MULTIRUN or not _is_of_a_missing_entry(error):
                raise
        parsed, repo = self._parse_overrides_and_create_caching_repo(config_name, overrides)
        values = {id(each) for each in Overrides(repo=repo, overrides_list=parsed).config_overrides}
        tolerated = [each for each in parsed if id(each) in values and not each.is_hydra_override()]
        others = [each.input_line for each in parsed if each not in tolerated]
        composed = load(self, config_name, others, run_mode, *more, **options)
        for each in tolerated:
            try:
                self._apply_overrides_to_config([each], composed)
            except ConfigCompositionException as error:
                if not _is_of_a_missing_entry(error):
                    raise
        of_task = [each for each in parsed if not each.is_hydra_override()]
        composed.hydra.overrides.task = [each.input_line for each in of_task]
        naming = composed.hydra.job.config.override_dirname
        composed.hydra.job.override_dirname = get_overrides_dirname(
            of_task, naming.exclude_keys, naming.item_sep, naming.kv_sep
        )
        return composed

    ConfigLoaderImpl.load_configuration = load_tolerantly
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = load


def _is_of_a_missing_entry(error: ConfigCompositionException) -> bool:
    is_deletion = re.search(r"Could not delete from config\. '[^']*' does not exist", str(error))
    return isinstance(error.__cause__, (ConfigAttributeError, ConfigKeyError)) or is_deletion is not None
