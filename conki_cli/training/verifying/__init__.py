"""Whether what training wrote is what it wrote: a run folder with its checkpoints. No torch is needed to import it."""

from collections.abc import Iterator

from conki_cli.data.store.verifying import KnownStores
from conki_cli.runs import Run
from conki_cli.runs.verifying import ExaminedRun, is_run_folder, verify_encoder_files, verify_record
from conki_cli.system.findings import REMARK, Examination, Finding, guarded
from conki_cli.training.verifying.checkpoints import Checkpoints
from conki_cli.training.verifying.seeds import verify_seed


def verify_run(run: Run, examination: Examination, stores: KnownStores) -> Iterator[Finding]:
    """Verify a run folder and its seeds; `stores` holds those that were verified before it."""
    if not is_run_folder(run.path):
        yield Finding(str(run.path), REMARK, "holds nothing of a run", "move it away, or delete it")
        return
    examined = ExaminedRun.opened(run, examination, stores)
    yield from verify_record(examined)
    encoder = list(verify_encoder_files(examined))
    yield from encoder
    checkpoints = Checkpoints(examined, has_encoder=not encoder)
    for seed in examined.seeds:
        yield from guarded(run.seed_folder(seed), verify_seed(checkpoints, seed))
    yield from guarded(run.path, checkpoints.verify_encoder())
