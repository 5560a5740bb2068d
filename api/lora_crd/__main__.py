"""`python -m lora_crd`: write the generated files, or with --check say which are stale."""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from lora_api import GROUP, exit_codes
from lora_api.policy import POLICY_PLURAL
from lora_api.policy_ledger import LEDGER_PLURAL
from lora_api.reasons import MEANINGS
from lora_api.training import PLURAL
from lora_crd.admission import admission_rules
from lora_crd.definition import custom_resource_definition
from lora_crd.policies import ledger_definition, policy_definition

BANNER = "Generated from api/lora_api by `make generate`; edit the models, not this file."


def generated_files() -> dict[Path, str]:
    """Path, relative to the repository's root, and text of every generated file."""
    return {
        **_definitions(),
        Path("charts/lora-operator/admission/training-policy.yaml"): _document(admission_rules()),
        Path("docs/reasons.md"): _reasons_page(),
    }


def _document(body: dict[str, Any]) -> str:
    text = yaml.safe_dump(body, sort_keys=False, width=100, allow_unicode=True)
    return f"# {BANNER}\n{text}"


def _definitions() -> dict[Path, str]:
    kinds = {
        PLURAL: custom_resource_definition(),
        POLICY_PLURAL: policy_definition(),
        LEDGER_PLURAL: ledger_definition(),
    }
    texts = {f"{GROUP}_{plural}.yaml": _document(body) for plural, body in kinds.items()}
    return {
        Path(folder) / name: text
        for folder in ("crds", "charts/lora-operator/crds")
        for name, text in texts.items()
    }


def _reasons_page() -> str:
    reasons = "".join(f"| `{reason}` | {meaning} |\n" for reason, meaning in MEANINGS.items())
    codes = "".join(
        f"| {code.value} | {meaning} | {'yes' if code.is_retryable else 'no'} |\n"
        for code, meaning in exit_codes.MEANINGS.items()
    )
    return (
        f"<!-- {BANNER} -->\n"
        "# Reasons and exit codes\n\n"
        "Conditions, events and results carry one of these reasons. They are stable: programs may "
        "match on them.\n\n"
        f"| reason | meaning |\n|---|---|\n{reasons}\n"
        "## Exit codes of the trainer\n\n"
        f"| code | meaning | tried again |\n|---|---|---|\n{codes}"
    )


def main() -> int:
    """Writes the files, or compares them.

    Returns:
        Process exit status: 1 when --check finds a stale file.
    """
    parser = argparse.ArgumentParser(prog="lora_crd", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(), help="the repository's root")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if stale")
    arguments = parser.parse_args()
    stale = []
    for path, text in generated_files().items():
        target = arguments.root / path
        if target.exists() and target.read_text(encoding="utf-8") == text:
            continue
        if arguments.check:
            stale.append(path)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        print(f"wrote {path}")
    for path in stale:
        print(f"{path} is stale: run `make generate` and commit the result", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
