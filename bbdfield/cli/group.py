"""The command `bbdfield` itself, to which every other module here adds its commands."""

from __future__ import annotations

import click

from bbdfield._version import __version__

#: the commands in the order in which a study uses them
ORDER = (
    "run", "sweep", "reproduce", "train", "simulate", "coarse-grain", "compare", "decompose", "observe",
    "plot", "report", "info", "check", "bench",
)  # fmt: skip


class InOrder(click.Group):
    """Lists its commands in `ORDER`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.commands, key=ORDER.index)


@click.group(cls=InOrder, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bbdfield", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Train a deep network, simulate its continuum field theory, and compare the two.

    Exit codes: 0 done, 2 bad input, 3 the numerics failed, 130 interrupted.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
