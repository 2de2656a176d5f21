from django.apps import AppConfig


class ConversationsConfig(AppConfig):
    name = "conversations"
    verbose_name = "Conversations"

    def ready(self) -> None:
        from django.conf import settings

        from conversations import (
            checks,  # noqa: F401, it registers them
            tool_marks,
        )

        tool_marks.know(settings.RESERVOIR_TOOL_TAGS)
