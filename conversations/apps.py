from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps


class ConversationsConfig(AppConfig):
    default = True
    name = "conversations"
    verbose_name = "Conversations"

    def ready(self) -> None:
        from conversations import checks  # noqa: F401, it registers them


class ReservoirAdminConfig(admin_apps.AdminConfig):
    """Django's admin with our site in it: the dashboard, the search, the pages of conversations/admin."""

    default = False
    default_site = "conversations.admin.site.ReservoirAdminSite"

    def ready(self) -> None:
        super().ready()
        from conversations.admin import lists, users  # noqa: F401, they register what they show
