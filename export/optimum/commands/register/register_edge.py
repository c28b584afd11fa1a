"""`optimum-cli export edge`: our export where users of Optimum look for one.

optimum-cli finds this file by its place, `optimum.commands.register`, and imports it at every start: it imports nothing
of ours before it is run. No folder above it may have an `__init__.py`, as optimum is a namespace that packages share.
"""

from argparse import ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand

OPTIONS = {  # those of `python -m export` that are worth a name here, with its defaults where they are left out
    "--target": "android, ios or desktop",
    "--recipe": "how weights are quantized",
    "--calibration": "folder of text, images and clips for recipes that calibrate",
    "--formats": "some of the target's formats, separated by commas",
    "--context": "positions to make room for",
    "--build": "where quantized checkpoints go",
    "--reference": "what verification compares with: none, whole or streamed",
}


class EdgeExportCommand(BaseOptimumCLICommand):
    """Its arguments go on to `python -m export`."""

    COMMAND = CommandInfo(name="edge", help="Export Gemma 4 to phones: ExecuTorch, ONNX and Core ML, verified.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        parser.add_argument("-m", "--model", required=True, help="hub id, folder, or `tiny`")
        for option, about in OPTIONS.items():
            parser.add_argument(option, help=about)
        parser.add_argument("output", help="folder of the bundle")

    def run(self) -> None:
        """Ends the process with the export's exit code."""
        from export.__main__ import app

        given = {option: getattr(self.args, option.lstrip("-")) for option in ("--model", *OPTIONS)}
        chosen = [text for option, value in given.items() if value is not None for text in (option, value)]
        app([*chosen, "--out", self.args.output], prog_name="optimum-cli export edge")


REGISTER_COMMANDS = [(EdgeExportCommand, ExportCommand)]
