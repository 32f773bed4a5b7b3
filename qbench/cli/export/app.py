"""What was measured, in the forms that others read: the table of the commands `export …`."""

import typer

from qbench.cli.export import card, checkpoint, every_eval_ever, hub, lm_eval, parquet, tracker

app = typer.Typer(
    no_args_is_help=True, help="Write what was measured in the forms that other programs read."
)
app.command(epilog=checkpoint.EXAMPLES)(checkpoint.checkpoint)
app.command(epilog=card.EXAMPLES)(card.card)
app.command(epilog=hub.EXAMPLES)(hub.hub)
app.command(epilog=lm_eval.EXAMPLES)(lm_eval.lm_eval)
app.command(epilog=every_eval_ever.EXAMPLES)(every_eval_ever.every_eval_ever)
app.command(epilog=parquet.EXAMPLES)(parquet.parquet)
app.command(epilog=tracker.EXAMPLES)(tracker.tracker)
