import re

import click

# A Python parameter in a message of the library, alone or with a value: `out`, `split='cold-items'`.
_PARAMETER = re.compile(r"`(\w+)(?:=([^`]*))?`")


def as_options(message: str, command: click.Command) -> str:
    """Replace Python parameters in a message by options, such as ``--split cold-items``.

    A name alone is replaced if ``command`` has such an option; with a value, it may be an option of another command.
    """
    options = {param.name: param for param in command.params if isinstance(param, click.Option)}

    def replace(found: re.Match[str]) -> str:
        name, value = found.groups()
        if name not in options and value is None:
            return found[0]
        option = options.get(name) or click.Option([f"--{name.replace('_', '-')}/--no-{name.replace('_', '-')}"])
        if value is None or value == "True":
            return option.opts[0]
        if value == "False":
            return option.secondary_opts[0]
        return f"{option.opts[0]} {value.strip(chr(39))}"

    return _PARAMETER.sub(replace, message)
