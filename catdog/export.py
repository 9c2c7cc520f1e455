"""The command `export`: writes a model for other runtimes and scores it again. `python -m catdog.export --help` explains it."""

from omegaconf import DictConfig

from catdog import cli
from catdog.config.command_lines import next_command
from catdog.config.commands import ExportConfig
from catdog.config.schema import load_config
from catdog.system.terminal import console, show_next, show_table

USAGE = """Writes the champion as LiteRT, ONNX and SavedModel. Each file is scored again on all validation images, by its own
runtime, and compared with the kept model.

  python -m catdog.export
  python -m catdog.export format=litert,onnx int8=true output=phone
  python -m catdog.export model=RUN_ID study=quickstart
  python -m catdog.export show=json             for scripts

It needs: pip install 'catdog[export]'"""


def export(composed: DictConfig) -> None:
    """Exports, prints the scores, and says what to do next."""
    config = load_config(composed, ExportConfig)
    from catdog.deployment.export.result import build_scores_table
    from catdog.study import Study

    # With JSON, stdout must contain nothing but the result.
    console.stderr = config.show == "json"
    study = Study.choose(config.study, config.model, tracking_uri=config.tracking.uri)
    model = study.model(config.model)
    console.print(f"exporting {model.words} ({model.run_id})", highlight=False)
    found = study.export(
        model, config.format, output=config.output, int8=config.int8, calibration_images=config.calibration_images,
        margin=config.margin, archive=config.dataset.archive, batch_size=config.batch_size, cache=config.dataset.cache,
    )  # fmt: skip
    named = [f"model={config.model}"] if config.model else []
    evaluate = next_command("evaluate", study.name, config.tracking.uri, *named)
    page = str(found.folder / "export.html")
    if config.show == "json":
        files = {"folder": str(found.folder), "page": page}
        cli.show_json("export", {"study": study.name, **found.to_dict(), **files, "next": [evaluate]})
        return
    console.print(f"scored on {found.images_words}, each file by its own runtime", highlight=False)
    show_table(build_scores_table(found))
    for sentence in found.sentences:
        console.print(sentence, highlight=False, soft_wrap=True)
    show_next(f"open {page}", evaluate)


if __name__ == "__main__":
    cli.run_app("export", export, usage=USAGE)
