"""`wheels generate`: texts in, texts out, and what the teacher was used for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from wheels.data.conversations import Conversation
from wheels.data.corpus import is_beyond
from wheels.decoding.commands import bulk
from wheels.decoding.commands.generate import count, generate, load_artefact, many, render, summed_up, within_memory
from wheels.decoding.commands.generate_config import IN_FILES, GenerateConfig
from wheels.decoding.commands.inputs import FileTexts, Texts, held, read_sources
from wheels.decoding.commands.shards import take_rank
from wheels.decoding.models.backends import use_backend
from wheels.decoding.render import Summary, as_html
from wheels.decoding.trace import Trace
from wheels.errors import WheelsError
from wheels.files import check_writable, open_output
from wheels.models.artefact import Artefact
from wheels.output.progress import Progress
from wheels.output.streams import remark
from wheels.threads import set_threads

BEYOND = (
    "{which} beyond the embedded pair, which is small and knows short everyday German; bring a pair of your "
    "own: --model DIR, or --student DIR --teacher DIR (guide: docs/guides/own-pair.md)"
)


def run(config: GenerateConfig) -> None:
    """Write an output for each text; see `GenerateConfig`.

    The outputs go to standard output or `--output`; the line that sums up the teacher's use goes to standard error, so
    that a pipe carries the outputs alone; `--quiet` leaves it out.
    """
    use_backend(config.backend)
    if config.output is not None:
        check_writable(config.output)
    sources = read_sources(config)
    if isinstance(sources, FileTexts) and bulk.is_kept(config):
        bulk.run(config, sources)
    else:
        _run(config, sources)
    _tell_of_texts_beyond(config, sources)


def _run(config: GenerateConfig, sources: Texts) -> None:
    """Write an output for each text, of which nothing is kept for another run."""
    if take_rank() is not None or config.engine == "ray":
        raise WheelsError(f"several processes share the rows of a file; {IN_FILES}")
    artefact = load_artefact(config, conversations=isinstance(next(iter(sources), None), Conversation))
    set_threads(config.threads, artefact.pair)
    config = within_memory(config, artefact, sources)
    used = Summary()
    with closing(artefact.pair), _writer(config) as write:
        for text in _shown(config, artefact, sources, used):
            write(text)
    if config.output is not None:
        remark(f"written to {config.output}")
    if config.format == "text" or config.output is not None:
        remark(summed_up(config, used))


def _tell_of_texts_beyond(config: GenerateConfig, sources: Texts) -> None:
    """Say which texts the embedded pair, where it wrote, is too small for."""
    if config.model is None and config.student is None and (beyond := sum(map(is_beyond, sources))):
        which = f"{beyond:,} of {len(sources):,} texts are" if len(sources) > 1 else "this text is"
        remark(BEYOND.format(which=which))


def _shown(config: GenerateConfig, artefact: Artefact, sources: Texts, used: Summary) -> Iterator[str]:
    """Yield the result in the parts in which it is written, and count what the teacher was used for."""
    page, traces = config.format == "html", list[Trace]()
    texts = held(sources, str(config.input)) if page else sources
    with Progress(len(sources), "text", bar=many(config, sources)) as progress:
        for trace in generate(config, artefact, texts, total=len(sources)):
            count(trace, used, progress)
            if page:
                traces.append(trace)
            else:
                yield render(config, trace, one_line=len(sources) > 1)
    if page:
        yield as_html(traces, [*texts], student=artefact.student_name, teacher=artefact.teacher_name)


@contextmanager
def _writer(config: GenerateConfig) -> Iterator[Callable[[str], None]]:
    """Yield what writes a part of the result: into the file, which appears when it is whole, or to standard output."""

    def show(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    if config.output is None:
        yield show
    else:
        with open_output(config.output) as file:
            yield lambda text: file.writelines([text.encode("utf-8")])
