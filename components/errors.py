"""The one exception that the command lines catch."""


class InputError(ValueError):
    """What a user gave cannot be used: settings, data, or a service's address.

    The message says what was found, what is allowed and where to mend it, and is shown
    without a traceback. Anything else that is raised is a defect of ours and keeps its own.
    """
