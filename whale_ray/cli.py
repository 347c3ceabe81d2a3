"""The command line `whale-ray`."""

from __future__ import annotations

from typing import Annotated

import typer

from whale_ray import __version__
from whale_ray.commands import bundles, data, discover, export, matchers, services, sweeps
from whale_ray.device import limit_default_threads
from whale_ray.sweep.command import EXAMPLES, run_and_exit, sweep
from whale_ray.verbosity import set_verbosity

application = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Find the best way to recognise individual whales in your photographs, and put it into service.",
)
application.command(epilog=sweeps.INIT_EXAMPLES)(sweeps.init)
application.command(epilog=EXAMPLES)(sweep)
application.command(epilog=data.SYNTH_EXAMPLE)(data.synth)
application.command(epilog=data.AUDIT_EXAMPLES)(data.audit)
application.command(epilog=export.EXPORT_EXAMPLES)(export.export)
application.command(epilog=data.REVIEW_EXAMPLES)(data.apply_review)
application.command(epilog=discover.DISCOVER_EXAMPLES)(discover.discover)
application.command(epilog=sweeps.SPEC_EXAMPLE)(sweeps.spec)
application.command(epilog=sweeps.REPORT_EXAMPLES)(sweeps.report)
application.command(epilog=bundles.SUBMIT_EXAMPLE)(bundles.submit)
application.command(epilog=bundles.IDENTIFY_EXAMPLES)(bundles.identify)
application.command(epilog=bundles.PUSH_EXAMPLES)(bundles.push)
application.command(epilog=matchers.MATCHER_EXAMPLE)(matchers.export_matcher)
application.command(epilog=services.SERVE_EXAMPLES)(services.serve)
application.command(epilog=services.DEPLOY_EXAMPLE)(services.deploy)
application.command(epilog=services.EXPORT_EXAMPLE)(services.export_enrolled)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"whale-ray {__version__}")
        raise typer.Exit


@application.callback()
def configure(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also print log records.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress.")] = False,
) -> None:
    """Set verbosity and default threads of every command."""
    limit_default_threads()
    set_verbosity(verbose=verbose, quiet=quiet)


def main() -> None:
    """Run the command line."""
    run_and_exit(application)
