from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps


class ConsoleConfig(AppConfig):
    """Our pages, templates and styles. It precedes Django's admin in INSTALLED_APPS to replace its templates."""

    default = True
    name = "console"

    def ready(self) -> None:
        from console import users  # noqa: F401
        from console.access import audit, keys  # noqa: F401
        from console.lists import conversations, exchanges, messages, partitions  # noqa: F401, they register what they show


class ConsoleSiteConfig(admin_apps.AdminConfig):
    """Django's admin with our site in it: the dashboard, the search, the pages of console/."""

    default = False
    default_site = "console.site.ReservoirAdminSite"
