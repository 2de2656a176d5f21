from django.apps import AppConfig


class AccessConfig(AppConfig):
    """Who may do what: access keys, their limits, provider credentials, and the audit."""

    name = "access"
    verbose_name = "Access"
