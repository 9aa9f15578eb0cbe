import re

import click

# A Python parameter in a message of the library, alone or with a value: `out`, `split='cold-items'`.
_PARAMETER = re.compile(r"`(\w+)(?:=([^`]*))?`")


def as_options(message: str, command: click.Command) -> str:
    """Replace Python parameters in a message by options, such as ``--split cold-items``, or by arguments.

    A name alone is replaced if ``command`` has it; with a value, it may be an option of another command.
    """
    params = {param.name: param for param in command.params}

    def replace(found: re.Match[str]) -> str:
        name, value = found.groups()
        if name not in params and value is None:
            return found[0]
        option = params.get(name) or click.Option([f"--{name.replace('_', '-')}/--no-{name.replace('_', '-')}"])
        if isinstance(option, click.Argument):
            return value or option.human_readable_name
        if value is None or value == "True":
            return option.opts[0]
        if value == "False":
            return option.secondary_opts[0]
        return f"{option.opts[0]} {value.strip(chr(39))}"

    return _PARAMETER.sub(replace, message)
