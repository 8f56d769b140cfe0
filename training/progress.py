"""What training tells while it runs: the bar with loss, learning rate and pairs a second, and all of it as a file."""

import json
import os
import time
from pathlib import Path
from typing import Any

from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments

LOG = "log.jsonl"


class TrainingProgress(ProgressCallback):
    """The trainer's bar; and its log in `file`, a JSON object a line: step, loss, learning_rate, dev's measure, ...

    `per_step`: what an optimizer step reads, of all processes together: (query, passage) pairs, or another `unit`.
    `pairs_per_second` counts the time of steps alone, without that of measuring and saving. A run that goes on keeps
    the lines that it had.
    """

    def __init__(self, file: Path, per_step: int, unit: str = "pairs") -> None:
        super().__init__()
        self.file, self.per_step, self.unit = file, per_step, unit
        self.steps, self.spent, self.began = 0, 0.0, 0.0
        self.shown: dict[str, str] = {}

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Show the bar, by the name of the stage."""
        super().on_train_begin(*args, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description(self.file.parent.name)

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock of a step."""
        self.began = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop it, and move the bar."""
        self.spent += time.monotonic() - self.began
        self.steps += 1
        super().on_step_end(args, state, control, **kwargs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the latest values behind the bar and write the log anew."""
        if not state.is_world_process_zero:
            return
        entry = state.log_history[-1]
        if "loss" in entry and self.spent:
            entry[f"{self.unit}_per_second"] = round(self.steps * self.per_step / self.spent, 1)
            self.steps, self.spent = 0, 0.0
        names = {"loss": "loss", "learning_rate": "rate", f"{self.unit}_per_second": f"{self.unit}/s"}
        self.shown |= {name: f"{entry[key]:.3g}" for key, name in names.items() if key in entry}
        self.shown |= {f"dev {key[5:]}": f"{entry[key]:.4f}" for key in entry if key.startswith("eval_") and "@" in key}
        if self.training_bar is not None:
            self.training_bar.set_postfix(self.shown)
        temporary = self.file.with_name(f".{self.file.name}.tmp")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text("".join(json.dumps(one) + "\n" for one in state.log_history), encoding="utf-8")
        os.replace(temporary, self.file)
